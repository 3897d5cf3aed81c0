"""The study's learning curves as one SVG picture, a panel per world, for light and dark pages.

A line is the mean accuracy of training of an arm's runs, the band around it the 95% interval.
"""

from dataclasses import dataclass
from functools import partial
from html import escape

from extras.study.curves import Curve
from extras.study.intervals import interval
from extras.study.tables import budget_of, measured

# most panels in a row; sizes in pixels
COLUMNS, PANEL, GAP, TOP, LEFT = 3, (250, 170), 46, 30, 40
# of an arm's name in the legend
NAME = 170
# once all are used, lines are dashed
COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#cf222e", "#9a6700", "#bf3989", "#59636e")
DASHES = ("", "5 3", "2 2", "9 3", "9 3 2 3")
STYLE = (
    "<style>text{font:12px -apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}"
    ".line{stroke:#d1d9e0}.curve{fill:none;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.line{stroke:#3d444d}}</style>"
)
# points of a line; draws of a point's interval
POINTS, DRAWS = 30, 1000


@dataclass(frozen=True)
class Point:
    """Mean and 95% interval of the accuracy around x, what has been spent."""

    x: float
    mean: float
    low: float
    high: float


def smooth(curves: list[Curve], axis: str, budget: float, points: int = POINTS) -> list[Point]:
    """The runs of one arm in one world, in equal shares of the budget."""
    out = []
    for k in range(points):
        start, end = budget * k / points, budget * (k + 1) / points
        runs = measured(curves, partial(Curve.mean, axis=axis, budget=end, start=start))
        out.append(Point((start + end) / 2, *interval(runs, DRAWS)))
    return out


def picture(curves: list[Curve], axis: str = "sampled tokens") -> str:
    """The text of the SVG."""
    worlds = list(dict.fromkeys(c.world for c in curves))
    arms = list(dict.fromkeys(c.arm for c in curves))
    columns = min(COLUMNS, len(worlds))
    rows = -(-len(worlds) // columns)
    width = LEFT + columns * (PANEL[0] + GAP)
    names = (width - LEFT) // NAME
    foot = TOP + rows * (PANEL[1] + GAP) + 10
    height = foot + 20 * -(-len(arms) // names)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">', STYLE]
    for n, world in enumerate(worlds):
        corner = LEFT + n % columns * (PANEL[0] + GAP), TOP + n // columns * (PANEL[1] + GAP)
        own = [c for c in curves if c.world == world]
        parts += panel(world, own, arms, axis, corner)
    for n, arm in enumerate(arms):
        x, y = LEFT + n % names * NAME, foot + n // names * 20
        parts.append(f'<polyline class="curve" {pen(n)} points="{x},{y - 7} {x + 14},{y - 7}"/>')
        parts.append(f'<text x="{x + 20}" y="{y - 3}">{escape(arm)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def colour(n: int) -> str:
    """Of the n-th arm."""
    return COLOURS[n % len(COLOURS)]


def pen(n: int) -> str:
    """How the n-th arm is drawn."""
    dashes = DASHES[n // len(COLOURS) % len(DASHES)]
    return f'stroke="{colour(n)}"' + f' stroke-dasharray="{dashes}"' * bool(dashes)


def panel(world: str, curves: list[Curve], arms: list[str], axis: str, corner) -> list[str]:
    """The curves of one world, accuracy 0 to 1."""
    (x0, y0), (width, height) = corner, PANEL
    budget = budget_of(curves, axis)
    parts = [f'<text x="{x0}" y="{y0 - 8}">{escape(world)}</text>']
    for level in (0, 0.5, 1):
        y = y0 + height * (1 - level)
        parts.append(f'<line class="line" x1="{x0}" x2="{x0 + width}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{x0 - 26}" y="{y + 4}">{level:g}</text>')
    end = f"{budget / 1000:,.0f} k {axis}" if budget >= 10_000 else f"{budget:,.0f} {axis}"
    parts.append(f'<text x="{x0 + width}" y="{y0 + height + 16}" text-anchor="end">{end}</text>')
    for n, arm in enumerate(arms):
        own = [c for c in curves if c.arm == arm]
        if own:
            points = smooth(own, axis, budget)
            band = [(p.x, p.high) for p in points] + [(p.x, p.low) for p in points[::-1]]
            line = [(p.x, p.mean) for p in points]
            band, line = (spots(pairs, budget, corner) for pairs in (band, line))
            parts.append(f'<polygon fill="{colour(n)}" opacity="0.15" points="{band}"/>')
            parts.append(f'<polyline class="curve" {pen(n)} points="{line}"/>')
    return parts


def spots(pairs: list[tuple[float, float]], budget: float, corner) -> str:
    """Where (spent, accuracy) are in a panel."""
    (x0, y0), (width, height) = corner, PANEL
    return " ".join(f"{x0 + x / budget * width:.1f},{y0 + height * (1 - y):.1f}" for x, y in pairs)
