"""Part a: where entropy lies, by region and by distance to a tool result.

1. rows_of       a row per policy token
2. enrichment    which regions the most uncertain tokens belong to, against their share of all
3. by_distance   mean entropy at each distance to the nearest result
"""

from functools import partial

from extras.pilot.regions import REGIONS, after, distances, regions
from extras.pilot.stats import interval
from rollout import Rollout

# shares of the tokens that are called uncertain
TOPS = (0.01, 0.05, 0.1)
# distances that are shown
REACH = range(-10, 21)


def rows_of(rollouts: list[Rollout], text: list[str], tools: list[str], near: int) -> list[dict]:
    """Prompt, entropy (nats, of the policy that sampled), kinds and distance of every token.

    kinds: its region, and "after a result" if it is one of the first `near` tokens there.
    """
    rows = []
    for r in rollouts:
        labels = regions([text[i] for i in r.ids], r.mask, tools)
        away = distances(r.mask, [(call.start, call.end) for call in r.calls])
        for entropy, label, distance in zip(r.sampled_entropy, labels, away, strict=True):
            if label:
                kinds = [label] + ["after a result"] * after(distance, near)
                row = {"prompt": r.group, "entropy": entropy, "kinds": kinds, "away": distance}
                rows.append(row)
    return rows


def by_prompt(rows: list[dict]) -> list[list[dict]]:
    """The rows of each prompt."""
    groups: dict[int, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["prompt"], []).append(row)
    return list(groups.values())


def enrichment(rows: list[dict]) -> dict:
    """kind -> its share of all tokens; of the top ones share and (enrichment, low, high).

    enrichment = share of the top tokens / share of all tokens; 1: as everywhere.
    """
    found = {}
    for kind in (*REGIONS, "after a result"):
        own = sum(kind in row["kinds"] for row in rows)
        if not own:
            continue
        found[kind] = {"of all": round(own / len(rows), 4)}
        for top in TOPS:
            share = partial(share_of_top, kind=kind, top=top)

            def ratio(drawn: list[dict], share=share, kind=kind) -> float:
                return share(drawn) / (sum(kind in row["kinds"] for row in drawn) / len(drawn))

            numbers = interval(by_prompt(rows), ratio, draws=200)
            found[kind][f"top {top:.0%}"] = [round(x, 3) for x in (share(rows), *numbers)]
    return found


def share_of_top(rows: list[dict], kind: str, top: float) -> float:
    """The share of a kind among the most uncertain tokens."""
    count = max(1, round(top * len(rows)))
    highest = sorted(rows, key=lambda row: -row["entropy"])[:count]
    return sum(kind in row["kinds"] for row in highest) / count


def by_distance(rows: list[dict]) -> list[list[float]]:
    """[distance, mean entropy, low, high, tokens] for each distance of REACH that occurs."""
    out = []
    for away in REACH:
        own = [row for row in rows if row["away"] == away]
        if own:
            numbers = interval(by_prompt(own), mean_entropy, draws=500)
            out.append([away, *(round(x, 4) for x in numbers), len(own)])
    return out


def mean_entropy(rows: list[dict]) -> float:
    """Over tokens, nats."""
    return sum(row["entropy"] for row in rows) / len(rows)
