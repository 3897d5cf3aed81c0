"""The pilot study's three figures (SVG), a row of panels per result, for light and dark pages.

a   mean entropy by distance to a tool result; how often each kind is among the top tokens
b   p (1 - p) of branches by quantile bin of entropy, and of the score
c   pass@k of branches by criterion: from the best token, from the k best tokens
"""

from functools import partial
from html import escape
from pathlib import Path

from extras.pilot.entropy import TOPS
from extras.pilot.stats import interval
from extras.pilot.tables import KS, ONE, SPREAD, bins_of, criteria_of, passes
from extras.study.figure import STYLE, colour

WIDE, HIGH, GAP, LEFT, TOP = 330, 170, 70, 46, 40
FEW = 20


def draw(results: dict[str, dict], folder: Path) -> None:
    """Write pilot-a.svg, pilot-b.svg and pilot-c.svg."""
    for name, panels in (("a", part_a), ("b", part_b), ("c", part_c)):
        rows = [panels(found, label) for label, found in results.items()]
        (folder / f"pilot-{name}.svg").write_text(picture(rows))


def picture(rows: list[list]) -> str:
    """Rows of panels; a panel is a function of its corner that returns lines."""
    width = LEFT + max(map(len, rows)) * (WIDE + GAP)
    height = TOP + len(rows) * (HIGH + GAP) + 10
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">', STYLE]
    for n, row in enumerate(rows):
        for k, panel in enumerate(row):
            parts += panel((LEFT + k * (WIDE + GAP), TOP + n * (HIGH + GAP)))
    return "\n".join([*parts, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def axes(corner, title: str, top: float, below: str) -> list[str]:
    """A title, three levels from 0 to `top`, what the axis below counts."""
    x0, y0 = corner
    parts = [text(x0, y0 - 10, title), text(x0 + WIDE, y0 + HIGH + 32, below, "end")]
    for level in (0.0, top / 2, top):
        y = y0 + HIGH * (1 - level / top)
        parts.append(f'<line class="line" x1="{x0}" x2="{x0 + WIDE}" y1="{y}" y2="{y}"/>')
        parts.append(text(x0 - 6, y + 4, f"{level:.2g}", "end"))
    return parts


def bar(x: float, y0: float, numbers: tuple, top: float, hue: str) -> list[str]:
    """A point with its interval."""
    mean, low, high = (y0 + HIGH * (1 - min(v, top) / top) for v in numbers)
    return [
        f'<line stroke="{hue}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>',
        f'<circle fill="{hue}" cx="{x:.1f}" cy="{mean:.1f}" r="3"/>',
    ]


def points(corner, title: str, below: str, labels: list[str], series: dict[str, list]) -> list[str]:
    """Points with intervals: one series per name, one place per label."""
    top = max((n[2] for values in series.values() for n in values), default=0.0) * 1.05 or 1.0
    parts, (x0, y0) = axes(corner, title, top, below), corner
    step = WIDE / max(1, len(labels))
    for n, (name, values) in enumerate(series.items()):
        shift = (n - (len(series) - 1) / 2) * min(9.0, step / (len(series) + 1))
        for k, numbers in enumerate(values):
            parts += bar(x0 + (k + 0.5) * step + shift, y0, numbers, top, colour(n))
        if len(series) > 1:
            x = x0 + WIDE - 74 * (len(series) - n)
            parts.append(f'<rect x="{x}" y="{y0 - 22}" width="10" height="3" fill="{colour(n)}"/>')
            parts.append(text(x + 13, y0 - 17, name))
    every = max(1, len(labels) // 10)
    for k, label in enumerate(labels):
        if k % every == 0:
            parts.append(text(x0 + (k + 0.5) * step, y0 + HIGH + 16, label, "middle"))
    return parts


def part_a(found: dict, label: str) -> list:
    """Two panels; no distance that fewer than FEW tokens have."""
    rows = [row for row in found["distance"] if row[4] >= FEW]
    near = partial(
        points,
        title=f"{label}: mean entropy, nats",
        below="tokens after (before: -) a tool result",
        labels=[str(row[0]) for row in rows],
        series={"": [tuple(row[1:4]) for row in rows]},
    )
    kinds = found["enrichment"]
    tops = {
        f"top {top:.0%}": [tuple(numbers[f"top {top:.0%}"][1:]) for numbers in kinds.values()]
        for top in TOPS
    }
    many = partial(
        points,
        title="times its share",
        below="1: as among all tokens",
        labels=[kind.replace("after a result", "after") for kind in kinds],
        series=tops,
    )
    return [near, many]


def part_b(found: dict, label: str) -> list:
    """Two panels."""
    names = {"entropy": "entropy", "score": "branching score"}
    return [
        partial(
            points,
            title=f"{label}: p (1 - p) of branches",
            below=f"tenth by {words}, lowest first",
            labels=[str(k + 1) for k in range(10)],
            series={"": bins_of(found, by)},
        )
        for by, words in names.items()
    ]


def part_c(found: dict, label: str) -> list:
    """Two panels of lines."""
    return [
        partial(lines, found=found, title=f"{label}: pass@k, {w}", what=w) for w in (ONE, SPREAD)
    ]


def lines(corner, found: dict, title: str, what: str) -> list[str]:
    """pass@k by k, a line per criterion."""
    x0, y0 = corner
    parts = axes(corner, title, 1.0, "k branches")
    step, groups = WIDE / len(KS), criteria_of(found)
    for k, count in enumerate(KS):
        parts.append(text(x0 + (k + 0.5) * step, y0 + HIGH + 16, str(count), "middle"))
    named = [name for name, rows in groups.items() if what == ONE or rows[0][0]["spread"]]
    for n, name in enumerate(named):
        values = [interval(groups[name], partial(passes, k=k, what=what), 500)[0] for k in KS]
        places = [
            (x0 + (k + 0.5) * step, y0 + HIGH * (1 - value)) for k, value in enumerate(values)
        ]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="curve" stroke="{colour(n)}" points="{way}"/>')
        parts.append(f'<rect x="{x0 + WIDE - 70}" y="{y0 + HIGH - 12 - 14 * n}" width="10" ')
        parts[-1] += f'height="3" fill="{colour(n)}"/>'
        parts.append(text(x0 + WIDE - 56, y0 + HIGH - 8 - 14 * n, name))
    return parts
