"""The pilot study's numbers in Markdown, and what its figures are drawn from.

1. bins_of       part b: outcome variance of branches by quantile bins
2. correlations  part b: does the score rank tokens by p (1 - p)?
3. passes        part c: pass@k of a criterion's branches
4. tables        all of it
5. page          the same as docs/pilot.md
"""

from functools import partial

from extras.pilot.entropy import TOPS, by_prompt
from extras.pilot.stats import (
    interval,
    partial_spearman,
    pass_at,
    quantile_bins,
    spearman,
    spread_of,
)
from extras.study.tables import shown

BINS = 10
KS = (1, 2, 4, 8, 16)
# right / wrong branches of the best token, and one branch of each of the best tokens
ONE, SPREAD = "k branches from its best token", "a branch from each of its k best tokens"
NAMES = {
    "boundary": "first token after a result",
    "score": "branching score",
    "oracle": "a decision of the world",
    "best": "best of 12 tried",
}
PREFACE = """# The pilot study: every table

`python -m extras.pilot show --folder docs` writes this page and the three pictures. What the tables
say is in [evidence.md](evidence.md#the-pilot-study).

- **a.** Kinds of tokens: their share of all, and of the most uncertain ones; 2.0 is twice as many
  as among all tokens. *After a result*: the first `near` tokens behind a tool result.
- **b.** p is the share of right branches of a token. p (1 - p) is estimated without bias: that of
  the n branches drawn, times n / (n - 1). *At equal position*: a partial Spearman correlation.
- **c.** pass@k: the chance that one of k branches is right. *A decision of the world*: of the
  places where the bundled world knows that the procedure is chosen, the most uncertain. *Best of 12
  tried*: the token whose 8 trial branches differ most, evaluated on fresh branches. *Right of
  four*: the share of right branches, one from each of the four best tokens.
- Recall: the share of a rollout's decisions that are among its three best tokens; precision: the
  share of these tokens that are decisions; behind the last: those with no decision after them.
- In brackets 95%: bootstrap over questions. *kept*: rollouts of questions with right and wrong
  rollouts; parts b and c use them."""


def ranked_rows(found: dict, by: str) -> list[dict]:
    """The tokens of part b that have this number."""
    return [row for row in found["outcomes"] if row[by] is not None]


def bins_of(found: dict, by: str) -> list[tuple[float, float, float]]:
    """p (1 - p) with its interval in each quantile bin of "entropy" or "score"."""
    rows = ranked_rows(found, by)
    count = min(BINS, len(rows))
    bins = quantile_bins([row[by] for row in rows], count)
    return [
        interval(by_prompt([r for r, b in zip(rows, bins) if b == k]), mean_spread)
        for k in range(count)
    ]


def mean_spread(rows: list[dict]) -> float:
    """Mean of p (1 - p) over tokens."""
    return sum(spread_of(row["right"], row["n"]) for row in rows) / len(rows)


def correlation(rows: list[dict], by: str, at_equal: bool) -> float:
    """Spearman of a number with p (1 - p); at_equal: at equal position."""
    x, z = [row[by] for row in rows], [row["position"] for row in rows]
    y = [spread_of(row["right"], row["n"]) for row in rows]
    return partial_spearman(x, y, z) if at_equal else spearman(x, y)


def correlations(found: dict) -> list[str]:
    """Rows: number, Spearman with p (1 - p), the same at equal position."""
    lines = ["| number | Spearman with p (1 - p) | at equal position |", "|---|---|---|"]
    for by in ("entropy", "score", "position"):
        rows = by_prompt(ranked_rows(found, by))
        cells = [partial(correlation, by=by, at_equal=equal) for equal in (False, True)]
        if by == "position":
            cells = cells[:1]
        numbers = [shown(*interval(rows, cell)) for cell in cells]
        lines.append("| " + " | ".join([by, *numbers, *[""] * (2 - len(numbers))]) + " |")
    return lines


def passes(rows: list[dict], k: int, what: str) -> float:
    """pass@k over the rows of one criterion."""
    if what == ONE:
        return sum(pass_at(k, row["one"], max(KS)) for row in rows) / len(rows)
    return sum(any(row["spread"][:k]) for row in rows) / len(rows)


def first_pass(rows: list[dict], k: int) -> float:
    """pass@1: mean accuracy of the branches from the k best tokens."""
    tried = [x for row in rows for x in row["spread"][:k]]
    return sum(tried) / len(tried)


def criteria_of(found: dict) -> dict[str, list[list[dict]]]:
    """criterion -> its rows by prompt."""
    names = dict.fromkeys(row["criterion"] for row in found["criteria"])
    return {
        name: by_prompt([row for row in found["criteria"] if row["criterion"] == name])
        for name in names
    }


def page(lines: list[str]) -> str:
    """docs/pilot.md, with the lines of `tables`."""
    return "\n".join([PREFACE, *lines, ""])


def tables(results: dict[str, dict]) -> list[str]:
    """The tables of all results, as lines."""
    lines = []
    for name, found in results.items():
        about = ", ".join(f"{key} {value}" for key, value in found["about"].items())
        lines += ["", f"## {name}", "", about, "", *regions_table(found), "", *bins_table(found)]
        lines += ["", *correlations(found), "", *pass_table(found, ONE), "", *spread_table(found)]
        if found["decisions"]:
            lines += ["", *decisions_table(found)]
    return lines


def regions_table(found: dict) -> list[str]:
    """Part a."""
    tops = [f"top {top:.0%}" for top in TOPS]
    lines = [
        "| kind | of all tokens | "
        + " | ".join(f"of the {top}: times as many" for top in tops)
        + " |"
    ]
    lines.append("|---" * (2 + len(tops)) + "|")
    for kind, numbers in found["enrichment"].items():
        cells = [shown(*numbers[top][1:]) for top in tops]
        lines.append(f"| {kind} | {numbers['of all']:.3f} | " + " | ".join(cells) + " |")
    return lines


def bins_table(found: dict) -> list[str]:
    """Part b."""
    lines = ["| p (1 - p) of branches in tenth | by entropy | by score |", "|---|---|---|"]
    pairs = zip(bins_of(found, "entropy"), bins_of(found, "score"))
    return lines + [f"| {k} | {shown(*a)} | {shown(*b)} |" for k, (a, b) in enumerate(pairs, 1)]


def pass_table(found: dict, what: str) -> list[str]:
    """Part c: pass@k."""
    lines = [f"| {what} | " + " | ".join(f"pass@{k}" for k in KS) + " |"]
    lines.append("|---" * (1 + len(KS)) + "|")
    for name, rows in criteria_of(found).items():
        cells = [shown(*interval(rows, partial(passes, k=k, what=what))) for k in KS]
        lines.append(f"| {NAMES.get(name, name)} | " + " | ".join(cells) + " |")
    return lines


def decisions_table(found: dict) -> list[str]:
    """What the three best tokens of a criterion are: decisions, or behind the last one."""
    heads = ("recall", "precision", "after_last")
    many = found["decisions"][""]["decisions"]
    lines = [f"A rollout has {many:.2f} decisions.", ""]
    lines.append("| three best tokens by | recall | precision | behind the last | ")
    lines[-1] += "their branches draw the same token again |"
    lines.append("|---" * (2 + len(heads)) + "|")
    groups = criteria_of(found)
    for name, numbers in found["decisions"].items():
        if name:
            same = [x for rows in groups[name] for row in rows for x in row["same"][:3]]
            cells = [f"{numbers[head]:.3f}" for head in heads]
            cells.append(f"{sum(same) / len(same):.3f}")
            lines.append(f"| {NAMES.get(name, name)} | {' | '.join(cells)} |")
    return lines


def spread_table(found: dict) -> list[str]:
    """Part c: pass@k of a branch from each of the k best tokens; how many of four are right."""
    lines = [f"| {SPREAD} | " + " | ".join(f"pass@{k}" for k in KS) + " | right of four |"]
    lines.append("|---" * (2 + len(KS)) + "|")
    for name, groups in criteria_of(found).items():
        if groups[0][0]["spread"]:
            cells = [shown(*interval(groups, partial(passes, k=k, what=SPREAD))) for k in KS]
            cells.append(f"{first_pass([row for group in groups for row in group], 4):.3f}")
            lines.append(f"| {NAMES.get(name, name)} | " + " | ".join(cells) + " |")
    return lines
