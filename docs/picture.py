"""Draw the README's picture: learning curves, and a rollout with decision points and branches.

    python -m docs.picture                draw picture.svg and picture-dark.svg
    python -m docs.picture RUN [RUN ...] --tree 241 2 1
                                          make picture.json of these runs, then draw them

The learning curves are the study's (extras/study/curves.jsonl), the rollout is picture.json's.
picture.json also holds the laptop runs' numbers that README and docs/evidence.md quote.
Such runs are left by `python -m extras.bench laptop --seeds 241 242 243` in runs/bench.
--tree SEED STEP ROLLOUT chooses the rollout that is shown, among those that run logged. Standard
library only.
"""

import argparse
import json
import statistics
from dataclasses import dataclass
from html import escape
from pathlib import Path

from extras.study.arms import CURVES
from extras.study.curves import load
from extras.study.figure import smooth

HERE = Path(__file__).resolve().parent

LIGHT = {
    "text": "#1f2328",
    "faint": "#59636e",
    "line": "#d1d9e0",
    "appo": "#0969da",
    "grpo_4": "#bc4c00",
    "grpo_8": "#59636e",
    "think": "#b6bfc9",
    "call": "#0969da",
    "result": "#e8ebef",
    "answer": "#8250df",
    "entropy": "#59636e",
    "omega": "#bc4c00",
    "point": "#cf222e",
    "good": "#1a7f37",
    "bad": "#cf222e",
    "paper": "#ffffff",
}
DARK = {
    "text": "#f0f6fc",
    "faint": "#9198a1",
    "line": "#3d444d",
    "appo": "#4493f8",
    "grpo_4": "#db6d28",
    "grpo_8": "#9198a1",
    "think": "#656c76",
    "call": "#4493f8",
    "result": "#2a313c",
    "answer": "#ab7df8",
    "entropy": "#9198a1",
    "omega": "#db6d28",
    "point": "#f85149",
    "good": "#3fb950",
    "bad": "#f85149",
    "paper": "#0d1117",
}
# keys of rollouts.jsonl
OMEGA, SCORE = "future_value", "branching_score"
# the study's table and world, sampled tokens and points of a line; its arms, and their names here
SHOWN_TABLE = ("retuned", "late", 150_000, 15)
SHOWN_ARMS = {"grpo_4": "GRPO, N = 4", "grpo_8": "GRPO, N = 8", "appo": "APPO, N = 4, B = 3"}
WIDTH, HEIGHT = 840, 386
FONT = "-apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
CODE = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace"
TAGS = {
    "<think>": "think",
    "<search>": "call",
    "<python>": "call",
    "<result>": "result",
    "<answer>": "answer",
}


# ---- numbers: from runs to picture.json


def rows(file: Path) -> list[dict]:
    """The objects of a .jsonl file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def curve(run: Path) -> dict:
    """Held-out accuracy by step, sampled and greedy; tokens of the whole run."""
    every = rows(run / "metrics.jsonl")
    log = [row for row in every if "eval_greedy" in row]
    sampled = next(name for name in log[0] if name.startswith("eval_avg@") and "_" not in name[5:])
    return {
        "step": [row["step"] for row in log],
        "sampled": [round(row[sampled], 4) for row in log],
        "greedy": [round(row["eval_greedy"], 4) for row in log],
        "tokens_sampled": sum(row.get("tokens_sampled", 0) for row in every),
        "tokens_trained": sum(row.get("tokens_trained", 0) for row in every),
    }


def kinds(pieces: list[str], mask: list[bool]) -> list[str]:
    """What each token is part of: think, call, result, answer."""
    out, now = [], "think"
    for piece, own in zip(pieces, mask):
        now = TAGS.get(piece, now)
        out.append(now if own else "result")
    return out


def tree(run: Path, step: int, index: int) -> dict:
    """A rollout of the first tree that was logged at this step, and its branches."""
    logged = [row for row in rows(run / "rollouts.jsonl") if row["step"] == step]
    family = [row for row in logged if row["group"] == logged[0]["group"]]
    parent = next(row for row in family if row["index"] == index)
    branches = []
    for row in family:
        if row["parent"] != index:
            continue
        t = row["fork_at"]
        branches.append(
            {
                "fork_at": t,
                "token": parent["pieces"][t],
                "anew": row["pieces"][t],
                "entropy": round(parent["entropy"][t], 3),
                "omega": round(parent[OMEGA][t], 3),
                "score": round(parent[SCORE][t], 2),
                "reward": row["reward"],
                "kinds": kinds(row["pieces"], row["mask"]),
            }
        )
    return {
        "step": step,
        "question": question(parent["prompt"]),
        "kinds": kinds(parent["pieces"], parent["mask"]),
        "entropy": [round(x, 3) for x in parent["entropy"]],
        "omega": [round(x, 3) for x in parent[OMEGA]],
        "mask": [int(x) for x in parent["mask"]],
        "reward": parent["reward"],
        "branches": sorted(branches, key=lambda b: b["fork_at"]),
    }


def question(prompt: str) -> str:
    """The last line of the user's message in a chat prompt."""
    user = prompt.split("user\n")[-1]
    return user.split("<|im_end|>")[0].strip().splitlines()[-1]


def collect(runs: list[Path], seed: int, step: int, index: int) -> dict:
    """All numbers of picture.json. seed, step, index: the rollout that is shown.

    Raises: ValueError if no run has this seed.
    """
    config = json.loads((runs[0] / "config.json").read_text())
    seeds = [json.loads((run / "config.json").read_text())["seed"] for run in runs]
    if seed not in seeds:
        raise ValueError(f"--tree names seed {seed}, the runs have {seeds}")
    return {
        "seeds": seeds,
        "versions": config["versions"],
        "questions": config["eval_questions"],
        "samples": config["eval_samples"],
        "curves": [curve(run) for run in runs],
        "tree": tree(runs[seeds.index(seed)], step, index),
    }


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and range."""
    numbers = (statistics.mean(values), min(values), max(values))
    mean, low, high = (f"{round(x, digits):,.{max(digits, 0)}f}" for x in numbers)
    return f"{mean} ({low} to {high})"


def summary(data: dict) -> str:
    """The laptop run's line of results."""
    before, after = (spread([run["sampled"][k] for run in data["curves"]]) for k in (0, -1))
    seeds = ", ".join(map(str, data["seeds"]))
    return f"held-out accuracy, seeds {seeds}: before {before}; after {after}"


def table(data: dict) -> str:
    """The table of docs/evidence.md."""
    lines = ["| | mean (lowest to highest) |", "|---|---|"]
    for name in ("sampled", "greedy"):
        for place, when in ((0, "before"), (-1, "after")):
            values = spread([run[name][place] for run in data["curves"]])
            lines.append(f"| accuracy {when}, {name} | {values} |")
    for name in ("sampled", "trained"):
        values = spread([run[f"tokens_{name}"] for run in data["curves"]], -3)
        lines.append(f"| tokens {name}{' on' * (name == 'trained')} | {values} |")
    return "\n".join(lines)


# ---- drawing


class Drawing:
    """Elements of an SVG in one palette."""

    def __init__(self, colors: dict[str, str]):
        self.colors, self.parts = colors, []

    def text(self, x, y, words, color="text", anchor="start", **style):
        """Words from, around or up to x (anchor start, middle, end). style: size, weight, font."""
        style = {"size": 12, "weight": 400, "font": FONT} | style
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{self.colors[color]}" '
            f'font-size="{style["size"]}" text-anchor="{anchor}" font-weight="{style["weight"]}" '
            f'font-family="{style["font"]}" xml:space="preserve">{escape(words)}</text>'
        )

    def path(self, d, color="line", width=1.0, fill="none", dash="", opacity=1.0):
        """d: as in SVG. color, fill: names of the palette, or none."""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<path d="{d}" fill="{self.colors.get(fill, fill)}" '
            f'stroke="{self.colors.get(color, color)}" stroke-width="{width}" '
            f'stroke-linejoin="round" stroke-linecap="round" opacity="{opacity}"{dashes}/>'
        )

    def rect(self, x, y, width, height, color, radius=0.0):
        """A filled rectangle."""
        self.parts.append(
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" '
            f'rx="{radius}" fill="{self.colors[color]}" opacity="1.0"/>'
        )

    def badge(self, x, y, words, color):
        """A number in a filled circle."""
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="{self.colors[color]}" '
            f'stroke="{self.colors["paper"]}" stroke-width="1.5"/>'
        )
        self.text(x, y + 3.8, words, "paper", "middle", size=11, weight=700)

    def svg(self, title: str) -> str:
        """The whole picture."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" role="img"><title>{escape(title)}</title>'
        )
        return "\n".join([head, *self.parts, "</svg>"]) + "\n"


def line(points) -> str:
    """A path through points."""
    return "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)


def draw_curves(d: Drawing, left=40, top=66, width=236, height=272) -> None:
    """Accuracy of training over sampled tokens: mean of an arm's runs, and its 95% interval."""
    table, world, budget, points = SHOWN_TABLE
    own = [c for c in load(CURVES) if (c.table, c.world) == (table, world)]
    runs, *other = (sum(c.arm == arm for c in own) for arm in SHOWN_ARMS)
    if set(other) != {runs}:
        raise ValueError(f"the arms of {table} have {runs} and {other} runs")

    def at(tokens, value):
        """Where a point of a curve is."""
        return left + width * tokens / budget, top + height * (1 - value)

    d.text(8, 20, "Does branching pay?", size=15, weight=600)
    d.text(8, 38, f"accuracy, each tuned; {runs} runs, 95%", "faint")
    for value in (0, 0.25, 0.5, 0.75, 1):
        y = at(0, value)[1]
        d.path(line([(left, y), (left + width, y)]), dash="" if value == 0 else "2 4")
        d.text(left - 7, y + 4, f"{value:.0%}", "faint", "end", size=11)
    for tokens in range(0, budget + 1, 50_000):
        shown = f"{tokens // 1000:,}"
        d.text(at(tokens, 0)[0], top + height + 17, shown, "faint", "middle", size=11)
    words = "thousand sampled tokens, branches too"
    d.text(left + width / 2, top + height + 35, words, "faint", "middle")
    for n, (arm, name) in enumerate(SHOWN_ARMS.items()):
        found = smooth([c for c in own if c.arm == arm], "sampled tokens", budget, points)
        band = [at(p.x, p.high) for p in found] + [at(p.x, p.low) for p in found[::-1]]
        d.path(line(band) + "Z", "none", 0, arm, opacity=0.18)
        d.path(line([at(p.x, p.middle) for p in found]), arm, 2.5)
        x, y = at(0.38 * budget, 0.19 - 0.06 * n)
        d.path(line([(x, y - 4), (x + 16, y - 4)]), arm, 2.5)
        d.text(x + 22, y, name, arm, weight=600)


@dataclass(frozen=True)
class Lane:
    """Where one number per token is drawn: bars from a base line, between low and high."""

    name: str
    top: float
    low: float
    base: float
    high: float
    height: float = 34

    def y(self, value: float) -> float:
        """Where a value is; one outside is drawn at the edge."""
        inside = min(max(value, self.low), self.high)
        return self.top + self.height * (self.high - inside) / (self.high - self.low)


def draw_lane(d: Drawing, lane: Lane, values, mask, x) -> None:
    """The numbers of a rollout's tokens; tool tokens have none. x: of a token's left edge."""
    zero = lane.y(lane.base)
    d.path(line([(x(0), zero), (x(len(values)), zero)]))
    for t, (value, own) in enumerate(zip(values, mask)):
        if own:
            y = lane.y(value)
            d.rect(x(t), min(y, zero), x(1) - x(0) - 1, max(abs(y - zero), 0.6), lane.name)


def draw_strip(d: Drawing, names, x, y, first=0, least=0.0) -> None:
    """Tokens as one strip, a block for each run of equal names. first: token that it begins with.

    least: nothing is drawn left of it.
    """
    start, height = first, 12.0
    for t in range(first, len(names) + 1):
        if t == len(names) or names[t] != names[start]:
            left, right = max(x(start), least), max(x(t), least) - 1
            d.rect(left, y - height / 2, max(right - left, 0), height, names[start], 2)
            start = t


def reward_mark(d: Drawing, x, y, reward) -> None:
    """A reward behind its strip."""
    color = "good" if reward > 0 else "bad"
    d.text(x, y + 4, f"{reward:.1f}", color, weight=700)


def draw_rollout(d: Drawing, tree: dict, left=376, right=798, top=58) -> float:
    """Entropy and Omega over the tokens, the rollout under them. Returns where its strip is."""
    count = max(len(tree["kinds"]), max(len(b["kinds"]) for b in tree["branches"]))

    def x(t):
        """The left edge of token t."""
        return left + (right - left) * t / count

    strip = top + 104
    for b in tree["branches"]:
        middle = (x(b["fork_at"]) + x(b["fork_at"] + 1) - 1) / 2
        d.path(line([(middle, top), (middle, strip)]), "point", 1, dash="2 3")
    entropy, omega = Lane("entropy", top, 0, 0, 1.5), Lane("omega", top + 48, 0.8, 1.0, 1.2)
    draw_lane(d, entropy, tree["entropy"], tree["mask"], x)
    draw_lane(d, omega, tree["omega"], tree["mask"], x)
    d.text(left - 8, top + 14, "entropy", "entropy", "end", weight=600)
    d.text(left - 8, top + 29, "0 to 1.5", "faint", "end", size=10)
    d.text(left - 8, top + 62, "Ω", "omega", "end", size=14, weight=600)
    d.text(left - 8, top + 77, "0.8 to 1.2", "faint", "end", size=10)
    draw_strip(d, tree["kinds"], x, strip)
    d.text(left - 8, strip + 4, "rollout", "text", "end", weight=600)
    reward_mark(d, right + 6, strip, tree["reward"])
    d.text(right + 36, strip - 14, "reward", "faint", "end", size=11)
    for number, b in enumerate(tree["branches"], 1):
        y, start = strip + 26 * (len(tree["branches"]) - number + 1), x(b["fork_at"] + 0.5)
        d.path(f"M{start:.1f},{strip} V{y - 8:.1f} q0,8 8,8", "point", 1.5)
        draw_strip(d, b["kinds"], x, y, b["fork_at"], least=start + 8)
        reward_mark(d, right + 6, y, b["reward"])
    d.text(left - 8, strip + 56, "branches", "text", "end", weight=600)
    for number, b in enumerate(tree["branches"], 1):
        d.badge(x(b["fork_at"] + 0.5), strip, str(number), "point")
    return strip


def draw_table(d: Drawing, tree: dict, top: float) -> None:
    """A line per decision point."""
    stops = [(350, "start"), (372, "start"), (590, "end"), (650, "end"), (712, "end"), (798, "end")]
    head = ["", "token, drawn anew as", "entropy", "Ω", "score", "reward"]
    for (x, anchor), words in zip(stops, head):
        d.text(x, top, words, "faint", anchor, size=11)
    d.path(line([(340, top + 6), (798, top + 6)]))
    for number, b in enumerate(tree["branches"], 1):
        y = top + 4 + 20 * number
        d.badge(stops[0][0] - 1, y - 4, str(number), "point")
        words = f"{b['token'].strip()}  →  {b['anew'].strip()}"
        d.text(stops[1][0], y, words, font=CODE)
        numbers = [f"{b['entropy']:.2f}", f"{b['omega']:.2f}", f"{b['score']:+.1f}"]
        for (x, anchor), value in zip(stops[2:], numbers):
            d.text(x, y, value, "text", anchor)
        change = f"{tree['reward']:.1f} → {b['reward']:.1f}"
        better = "good" if b["reward"] > tree["reward"] else "text"
        d.text(stops[5][0], y, change, better, "end", weight=600)


def draw_tree(d: Drawing, tree: dict) -> None:
    """A rollout, its numbers, its branches, and a table of them."""
    words = "It branches where it is uncertain and the future got likelier"
    d.text(326, 20, words, size=15, weight=600)
    d.text(326, 38, f"“{tree['question']}”  step {tree['step']}", "faint")
    strip = draw_rollout(d, tree)
    x, y = 376, strip + 26 * len(tree["branches"]) + 28
    for kind, words in (
        ("think", "thinks"),
        ("call", "calls a tool"),
        ("result", "tool's result"),
        ("answer", "answers"),
    ):
        d.rect(x, y - 9, 12, 10, kind, 2)
        d.text(x + 17, y, words, "faint", size=11)
        x += 33 + 6.1 * len(words)
    draw_table(d, tree, y + 30)


def draw(data: dict, colors: dict[str, str]) -> str:
    """The picture in one palette."""
    d = Drawing(colors)
    draw_curves(d)
    draw_tree(d, data["tree"])
    return d.svg("Accuracy of APPO and GRPO over sampled tokens; a rollout and its branches")


def main() -> None:
    """Draw, and print the numbers that README and docs quote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="finished runs, one per seed")
    names = ("SEED", "STEP", "ROLLOUT")
    parser.add_argument("--tree", nargs=3, type=int, metavar=names, default=(241, 2, 1))
    args = parser.parse_args()
    if args.runs:
        try:
            (HERE / "picture.json").write_text(json.dumps(collect(args.runs, *args.tree)) + "\n")
        except ValueError as problem:
            parser.error(str(problem))
    data = json.loads((HERE / "picture.json").read_text())
    (HERE / "picture.svg").write_text(draw(data, LIGHT))
    (HERE / "picture-dark.svg").write_text(draw(data, DARK))
    print(summary(data), table(data), sep="\n\n")


if __name__ == "__main__":
    main()
