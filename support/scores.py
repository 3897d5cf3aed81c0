"""Samples to numbers."""

import math
import statistics
from collections import Counter

import torch

from rewards import answer_of, is_correct, reward
from sampling import Call, Rollout
from support.questions import Question
from support.words import token_f1


def sample_of(r: Rollout) -> dict:
    """What is stored of a rollout: enough to grade it again without the model."""
    return {
        "pieces": r.pieces,
        "finish": r.finish,
        "calls": [[c.name, c.argument, c.status, c.seconds] for c in r.calls],
        "tokens": sum(r.mask),
        "length": len(r.ids),
    }


def row_of(q: Question, samples: list[dict]) -> dict:
    """A question with its samples, graded: answer (None if the format is broken), correct, f1, reward of each."""

    def graded(sample: dict) -> dict:
        r = Rollout(
            [0], 0, pieces=[tuple(piece) for piece in sample["pieces"]], finish=sample["finish"]
        )
        r.calls = [
            Call(name, argument, status, seconds, 0, 0)
            for name, argument, status, seconds in sample["calls"]
        ]
        answer = answer_of(r)
        return sample | {
            "answer": answer,
            "correct": is_correct(r, q),
            "f1": token_f1(answer or "", q.answers),
            "reward": reward(r, q.answers, "auto", q.task),
        }

    return {
        "id": q.id,
        "question": q.messages[-1]["content"],
        "answers": q.answers,
        "task": q.task,
        "level": q.meta.get("level"),
        "samples": list(map(graded, samples)),
    }


def numbers_of(rows: list[dict]) -> dict:
    """The numbers of an evaluation, k samples a question.

    avg@k: mean accuracy (math_equal or exact match by task), its standard error avg@k_se by bootstrap over questions, pass@k: unbiased, and its
    pass@k_se; f1 and f1_se; the same of the judge's verdicts where there are any (judge_avg@k ..., see accuracy_of), judge_failed: share of samples
    without a verdict, which count in none of them; reward (auto); format_errors, truncated: shares of samples; calls, tokens (the policy's own),
    length (with tool results): means; and TOOL_STATUS: share of that tool's calls.
    """
    samples, mean = (
        [s for row in rows for s in row["samples"]],
        lambda values: sum(values) / len(values),
    )
    calls = Counter((name, status) for s in samples for name, _, status, _ in s["calls"])
    numbers = accuracy_of(rows, "correct", "") | accuracy_of(rows, "judged", "judge_")
    f1 = [mean([s["f1"] for s in row["samples"]]) for row in rows]
    numbers |= {
        "f1": mean(f1),
        "f1_se": statistics.pstdev(bootstrap(f1)),
        "reward": mean([s["reward"] for s in samples]),
    }
    numbers |= {
        "format_errors": mean([s["answer"] is None for s in samples]),
        "truncated": mean([s["finish"] in ("length", "calls") for s in samples]),
    }
    numbers |= {
        "calls": mean([len(s["calls"]) for s in samples]),
        "tokens": mean([s["tokens"] for s in samples]),
        "length": mean([s["length"] for s in samples]),
    }
    total = Counter(name for s in samples for name, *_ in s["calls"])
    return numbers | {
        f"{name}_{status}": n / total[name] for (name, status), n in sorted(calls.items())
    }


def accuracy_of(rows: list[dict], verdict: str, prefix: str) -> dict:
    """avg@k and pass@k of one kind of verdict with their standard errors; samples without a verdict are left out and their share told.

    avg@k is over the questions with at least one verdict, pass@j over those with at least j, where it is unbiased if verdicts fail whatever the
    answer; NAME_questions says over how many, if not over all.
    """
    k, asked = (
        max(len(row["samples"]) for row in rows),
        [s for row in rows for s in row["samples"] if verdict in s],
    )
    if not asked:
        return {}
    verdicts = [[s[verdict] for s in row["samples"] if s.get(verdict) is not None] for row in rows]
    values = {f"avg@{k}": [sum(given) / len(given) for given in verdicts if given]}
    for j in sorted({2**power for power in range(1, k.bit_length()) if 2**power < k} | {k}):
        values[f"pass@{j}"] = [
            pass_at_k(len(given), sum(given), j) for given in verdicts if len(given) >= j
        ]
    numbers = (
        {f"{prefix}failed": sum(s[verdict] is None for s in asked) / len(asked)} if prefix else {}
    )
    for name, x in values.items():
        if x:
            numbers |= {
                f"{prefix}{name}": sum(x) / len(x),
                f"{prefix}{name}_se": statistics.pstdev(bootstrap(x)),
            }
        if len(x) < len(rows):
            numbers[f"{prefix}{name}_questions"] = len(x)
    return numbers


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate, from n samples of which c are right, that one of k is: 1 - C(n-c, k) / C(n, k). Raises ValueError unless 0 <= c <= n and 1 <= k <= n."""
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def bootstrap(values: list[float], resamples: int = 1000) -> list[float]:
    """Means of resamples of the values with replacement, sorted; the same for the same values."""
    x, generator, means = (
        torch.tensor(values, dtype=torch.float64),
        torch.Generator().manual_seed(0),
        [],
    )
    # resamples at once: 16 MB
    size = max(1, 2**20 // len(x))
    for start in range(0, resamples, size):
        picked = torch.randint(len(x), (min(size, resamples - start), len(x)), generator=generator)
        means += x[picked].mean(1).tolist()
    return sorted(means)


def table(results: dict[str, dict]) -> str:
    """Results as a Markdown table, a row per file, and a row per level where the questions have levels."""
    lines = [
        "| data | questions | avg@k | pass@k | F1 | judge | format errors | truncated | calls | calls ok | tokens |",
        "|" + "---|" * 11,
    ]
    for name, result in results.items():
        rows = result["rows"]
        levels = sorted({str(row["level"]) for row in rows if row["level"] is not None})
        lines.append(table_row(name, rows))
        lines += [
            table_row(f"{name}, {level}", [row for row in rows if str(row["level"]) == level])
            for level in levels
            if len(levels) > 1
        ]
    return "\n".join(lines)


def table_row(name: str, rows: list[dict]) -> str:
    """One row of the table: percent with the standard error where there is one."""
    n, k = numbers_of(rows), max(len(row["samples"]) for row in rows)
    percent = lambda key: (
        ""
        if key not in n
        else f"{100 * n[key]:.1f}" + (f" ± {100 * n[key + '_se']:.1f}" if key + "_se" in n else "")
    )
    calls = [status for row in rows for s in row["samples"] for _, _, status, _ in s["calls"]]
    ok = f"{100 * calls.count('ok') / len(calls):.0f}" if calls else ""
    return (
        f"| {name} | {len(rows)} x {k} | {percent(f'avg@{k}')} | {percent(f'pass@{k}')} | {percent('f1')} | {percent(f'judge_avg@{k}')} | "
        f"{percent('format_errors')} | {percent('truncated')} | {n['calls']:.2f} | {ok} | {n['tokens']:.0f} |"
    )
