"""The study's learning curves as one SVG picture, for light and dark pages.

A panel per world: mean accuracy in training of an arm's runs, and the 95% interval around it.
Behind these another one per world: tool calls for each right answer, the median of an arm's runs.
"""

from dataclasses import dataclass
from functools import partial
from html import escape
from statistics import median

from extras.study.curves import Curve
from extras.study.intervals import interval
from extras.study.tables import budget_of, calls_per_right, measured

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
# of a line of tool calls, which vary more; the most that a panel shows
CALL_POINTS, MOST_CALLS = 10, 12.0


@dataclass(frozen=True)
class Point:
    """A number around x, what has been spent: the middle of several runs and a 95% interval."""

    x: float
    middle: float
    low: float | None = None
    high: float | None = None


def smooth(curves: list[Curve], axis: str, budget: float, points: int = POINTS) -> list[Point]:
    """The runs of one arm in one world, in equal shares of the budget."""
    out = []
    for k in range(points):
        start, end = budget * k / points, budget * (k + 1) / points
        runs = measured(curves, partial(Curve.mean, axis=axis, budget=end, start=start))
        out.append(Point((start + end) / 2, *interval(runs, DRAWS)))
    return out


def smooth_calls(curves: list[Curve], axis: str, budget: float) -> list[Point]:
    """Median calls of an initial rollout for each right one, in equal shares of the budget."""
    edges = [budget * k / CALL_POINTS for k in range(CALL_POINTS + 1)]
    out = []
    for start, end in zip(edges, edges[1:]):
        middle = median(calls_per_right(c, axis, start, end) for c in curves)
        out.append(Point((start + end) / 2, min(middle, MOST_CALLS)))
    return out


def picture(curves: list[Curve], axis: str = "sampled tokens") -> str:
    """The text of the SVG."""
    worlds = list(dict.fromkeys(c.world for c in curves))
    arms = list(dict.fromkeys(c.arm for c in curves))
    columns = min(COLUMNS, len(worlds))
    panels = [(world, world, smooth, 1.0) for world in worlds]
    title = "{}: calls a right answer"
    panels += [(world, title.format(world), smooth_calls, MOST_CALLS) for world in worlds]
    rows = -(-len(panels) // columns)
    width = LEFT + columns * (PANEL[0] + GAP)
    names = (width - LEFT) // NAME
    foot = TOP + rows * (PANEL[1] + GAP) + 10
    height = foot + 20 * -(-len(arms) // names)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">', STYLE]
    for n, (world, title, line_of, top) in enumerate(panels):
        corner = LEFT + n % columns * (PANEL[0] + GAP), TOP + n // columns * (PANEL[1] + GAP)
        own = [c for c in curves if c.world == world]
        budget = budget_of(own, axis)
        parts += frame(title, corner, budget=budget, axis=axis, top=top)
        for k, arm in enumerate(arms):
            runs = [c for c in own if c.arm == arm]
            if runs:
                points = line_of(runs, axis, budget)
                parts += line(points, corner, budget=budget, top=top, n=k)
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


def frame(title: str, corner, *, budget: float, axis: str, top: float) -> list[str]:
    """Title, three levels from 0 to `top`, what the axis below counts."""
    (x0, y0), (width, height) = corner, PANEL
    parts = [f'<text x="{x0}" y="{y0 - 8}">{escape(title)}</text>']
    for level in (0, top / 2, top):
        y = y0 + height * (1 - level / top)
        parts.append(f'<line class="line" x1="{x0}" x2="{x0 + width}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{x0 - 26}" y="{y + 4}">{level:g}</text>')
    end = f"{budget / 1000:,.0f} k {axis}" if budget >= 10_000 else f"{budget:,.0f} {axis}"
    parts.append(f'<text x="{x0 + width}" y="{y0 + height + 16}" text-anchor="end">{end}</text>')
    return parts


def line(points: list[Point], corner, *, budget: float, top: float, n: int) -> list[str]:
    """The n-th arm's line, and the band around it if its points have intervals."""

    def spots(pairs: list[tuple[float, float]]) -> str:
        (x0, y0), (width, height) = corner, PANEL
        places = ((x0 + x / budget * width, y0 + height * (1 - y / top)) for x, y in pairs)
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)

    parts = []
    if points[0].low is not None:
        band = [(p.x, p.high) for p in points] + [(p.x, p.low) for p in points[::-1]]
        parts.append(f'<polygon fill="{colour(n)}" opacity="0.15" points="{spots(band)}"/>')
    middle = spots([(p.x, p.middle) for p in points])
    return [*parts, f'<polyline class="curve" {pen(n)} points="{middle}"/>']
