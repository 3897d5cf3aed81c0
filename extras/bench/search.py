"""Search in a large generated corpus: seconds to index it, size, latency of a query."""

import json
import random
import statistics
import tempfile
import time
from itertools import accumulate
from pathlib import Path

from extras.bench.measure import figure
from tools import SearchTool


def search_tool(args) -> dict:
    """SearchTool on generated documents: one process, one thread, no cache."""
    documents, queries = (2000, 100) if args.light else (1_000_000, 2000)
    with tempfile.TemporaryDirectory() as place:
        corpus = Path(place, "corpus.jsonl")
        asked = generated_corpus(corpus, documents, queries)
        started = time.perf_counter()
        tool = SearchTool(str(corpus))
        seconds = time.perf_counter() - started
        latency = [1000 * tool.run(query).seconds for query in asked]
        size = sum(file.stat().st_size for file in Path(place).glob("*.fts5"))
        tool.close()
    cuts = statistics.quantiles(latency, n=100)
    name = f"search: {documents:,} documents,"
    return {
        f"{name} indexed in": figure([seconds], "s"),
        f"{name} index": figure([size / 1e6], "MB"),
        f"{name} query p50": figure([cuts[49]], "ms"),
        f"{name} query p95": figure([cuts[94]], "ms"),
        f"{name} slowest query": figure([max(latency)], "ms"),
        f"{name} queries a second, one thread": figure([1000 / statistics.fmean(latency)], ""),
    }


def generated_corpus(path: Path, documents: int, queries: int) -> list[str]:
    """Write documents of 40 to 80 words; return queries of 3 to 12 words.

    Words are drawn by Zipf's law from some 160,000. Half of the queries are words of one document.
    """
    rng = random.Random(0)
    vocabulary = made_up_words(rng)
    # the first word is in nearly every document
    weights = list(accumulate(1 / rank for rank in range(1, len(vocabulary) + 1)))
    asked = []

    def words(n: int) -> list[str]:
        return rng.choices(vocabulary, cum_weights=weights, k=n)

    with open(path, "w") as out:
        for number in range(documents):
            text = words(rng.randint(40, 80))
            out.write(json.dumps({"contents": " ".join(text)}) + "\n")
            if number % max(1, 2 * documents // queries) == 0:
                asked.append(" ".join(rng.sample(text, rng.randint(3, 12))))
    others = [" ".join(words(rng.randint(3, 12))) for _ in range(queries - len(asked))]
    return rng.sample(asked, len(asked)) + others


def made_up_words(rng: random.Random) -> list[str]:
    """At most 200,000 words of one to four syllables, the short ones first."""
    syllables = [a + b for a in "bcdfghklmnprstvz" for b in "aeiou"]
    drawn = (rng.choices(syllables, k=rng.choice((1, 2, 2, 3, 3, 4))) for _ in range(330_000))
    return sorted({"".join(word) for word in drawn}, key=len)[:200_000]
