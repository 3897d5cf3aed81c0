"""From docs/speed.json, which holds what the bench printed: a table of peers, and docs/growth.svg.

    python -m extras.bench decode trl turns scaling --json docs/speed.json
    python -m extras.bench vllm --json docs/speed.json    in an environment of its own
    python -m docs.speed                                  print the tables and draw the picture

A ratio is seconds of the other / seconds of ours. Both axes of the picture are logarithmic: what
is proportional to the tokens is as steep as the grey line.
"""

import json
import math
import re
from pathlib import Path

from extras.study.figure import STYLE, pen

HERE = Path(__file__).resolve().parent
FIGURES, PICTURE = HERE / "speed.json", HERE / "growth.svg"
GENERATE = "decode: {}, batch {}, seconds of generate / ours"
VLLM = "vllm: SmolLM2-135M, batch {}, {}seconds of vLLM / ours"
TRL = "trl: {}, {} prompts x 8 rollouts x {} tokens, {}, seconds of TRL / ours"
TURNS = (
    "turns: 0.3 M agent, 16 x 4 rollouts of three turns, tools of {} ms, seconds in rounds / live"
)
LLAMA, SMOLLM2, NEW = "2 M Llama", "SmolLM2-135M", "new weights for every batch"
# what, name of the ratio's figure, the aim if there is one
PEERS = [
    (f"`generate`, {LLAMA}, 1 row", GENERATE.format(LLAMA, 1), 1.0),
    (f"`generate`, {LLAMA}, 8 rows", GENERATE.format(LLAMA, 8), None),
    (f"`generate`, {LLAMA}, 32 rows", GENERATE.format(LLAMA, 32), 1.6),
    (f"`generate`, {LLAMA}, 64 rows", GENERATE.format(LLAMA, 64), 1.6),
    (f"`generate`, {SMOLLM2}, 1 row", GENERATE.format(SMOLLM2, 1), None),
    (f"`generate`, {SMOLLM2}, 8 rows", GENERATE.format(SMOLLM2, 8), None),
    (f"`generate`, {SMOLLM2}, 32 rows", GENERATE.format(SMOLLM2, 32), None),
    (f"`generate`, {SMOLLM2}, 64 rows", GENERATE.format(SMOLLM2, 64), None),
    (f"vLLM, {SMOLLM2}, 1 row", VLLM.format(1, ""), None),
    (f"vLLM, {SMOLLM2}, 32 rows", VLLM.format(32, ""), 1.05),
    (f"vLLM, {SMOLLM2}, 64 rows", VLLM.format(64, ""), 1.05),
    (f"vLLM, {SMOLLM2}, 1 row, {NEW}", VLLM.format(1, f"{NEW}, "), None),
    (f"vLLM, {SMOLLM2}, 32 rows, {NEW}", VLLM.format(32, f"{NEW}, "), 1.3),
    (f"vLLM, {SMOLLM2}, 64 rows, {NEW}", VLLM.format(64, f"{NEW}, "), 1.3),
    (f"TRL's GRPOTrainer, {LLAMA}, a step", TRL.format(LLAMA, 8, 128, "whole step"), 1.8),
    (f"TRL's GRPOTrainer, {SMOLLM2}, a step", TRL.format(SMOLLM2, 1, 32, "whole step"), 1.6),
    (f"TRL's update alone, {LLAMA}", TRL.format(LLAMA, 8, 128, "update alone"), None),
    (f"TRL's update alone, {SMOLLM2}", TRL.format(SMOLLM2, 1, 32, "update alone"), None),
    ("rounds that wait, tools of 20 to 400 ms", TURNS.format("20 to 400"), None),
    ("rounds that wait, tools of 5 to 50 ms", TURNS.format("5 to 50"), 1.6),
]
NAME = re.compile(r"scaling: (\w+) = [\d,]+, ([\d,]+) unique tokens, (step|memory)")
# setting that grows -> its name here
LINES = {"initial": "rollouts", "branches": "branches", "max_tokens": "length"}
PANELS = {"step": "seconds", "memory": "memory, MiB"}
# sizes in pixels
WIDTH, HEIGHT, LEFT, TOP, GAP = 270, 190, 60, 30, 80


def points(figures: dict) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Panel -> setting -> (unique tokens, figure) of its sizes."""
    found = {what: {line: [] for line in LINES} for what in PANELS}
    for name, made in figures.items():
        match = NAME.fullmatch(name)
        if match:
            axis, tokens, what = match.groups()
            found[what][axis].append((int(tokens.replace(",", "")), made["value"]))
    return found


def picture(figures: dict) -> str:
    """The text of the SVG."""
    width, height = LEFT + 2 * (WIDTH + GAP), TOP + HEIGHT + 60
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">', STYLE]
    for n, (what, lines) in enumerate(points(figures).items()):
        parts += panel(PANELS[what], lines, LEFT + n * (WIDTH + GAP))
    for n, name in enumerate(LINES.values()):
        x, y = LEFT + 150 * n, height - 8
        parts.append(f'<polyline class="curve" {pen(n)} points="{x},{y - 4} {x + 14},{y - 4}"/>')
        parts.append(f'<text x="{x + 20}" y="{y}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def panel(title: str, lines: dict[str, list[tuple[int, float]]], left: float) -> list[str]:
    """Both axes from a power of ten to another."""
    every = [pair for pairs in lines.values() for pair in pairs]
    spans = [powers([pair[k] for pair in every]) for k in (0, 1)]

    def place(x: float, y: float) -> str:
        (low, high), (bottom, top) = spans
        across = (math.log10(x) - low) / (high - low)
        up = (math.log10(y) - bottom) / (top - bottom)
        return f"{left + WIDTH * across:.1f},{TOP + HEIGHT * (1 - up):.1f}"

    parts = [f'<text x="{left}" y="{TOP - 10}">{title}, of a step</text>']
    (low, high), (bottom, top) = spans
    for power in range(bottom, top + 1):
        start, end = place(10**low, 10**power), place(10**high, 10**power)
        parts.append(f'<polyline class="line" points="{start} {end}"/>')
        y = float(start.split(",")[1]) + 4
        parts.append(f'<text x="{left - 6}" y="{y:.1f}" text-anchor="end">{10.0**power:,g}</text>')
    for power in range(low, high + 1):
        x = place(10**power, 10**bottom).split(",")[0]
        y = TOP + HEIGHT + 16
        parts.append(f'<text x="{x}" y="{y}" text-anchor="middle">{10**power:,}</text>')
    label = left + WIDTH / 2, TOP + HEIGHT + 32
    parts.append(
        f'<text x="{label[0]}" y="{label[1]}" text-anchor="middle">unique tokens of a step</text>'
    )
    # proportional, through the smallest point
    x, y = min(every)
    room = min(10**high / x, 10**top / y)
    parts.append(f'<polyline class="line" points="{place(x, y)} {place(x * room, y * room)}"/>')
    for n, pairs in enumerate(lines.values()):
        spots = " ".join(place(*pair) for pair in pairs)
        parts.append(f'<polyline class="curve" {pen(n)} points="{spots}"/>')
    return parts


def powers(values: list[float]) -> tuple[int, int]:
    """Exponents of ten below and above."""
    return math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))


def table(figures: dict) -> str:
    """The peers in Markdown: median and range of the ratio, "not measured" if it is not there; the
    aim; new tokens a second of ours where they are counted."""
    rows = ["| against | the other / ours | aim | ours, tokens/s |", "|---|---|---|---|"]
    for what, name, aim in PEERS:
        made = figures.get(name)
        cell = "{ratio:.2f} ({low:.2f} .. {high:.2f})".format(**made) if made else "not measured"
        speed = figures.get(re.sub(r", seconds of (generate|vLLM) / ours", ", ours", name))
        counted = speed and speed["unit"] == "tokens/s"
        told = format(speed["value"], ",.0f") if counted else ""
        aimed = f"{aim:.2f}" if aim else ""
        rows.append(f"| {what} | {cell} | {aimed} | {told} |")
    return "\n".join(rows)


def growth(figures: dict) -> str:
    """The sizes in Markdown: mean seconds for 1,000 unique tokens, memory."""
    rows = [
        "| grows | unique tokens | seconds for 1,000 of them | memory, MiB |",
        "|---|---|---|---|",
    ]
    found = points(figures)
    for axis, name in LINES.items():
        times, memory = (found[what][axis] for what in ("step", "memory"))
        tokens = "; ".join(f"{n:,}" for n, _ in times)
        pace = ", ".join(f"{1000 * seconds / n:.2f}" for n, seconds in times)
        most = "; ".join(f"{mib:,.0f}" for _, mib in memory)
        made = re.findall(rf"scaling: {axis} = (\d+), .* step\n", "\n".join(figures) + "\n")
        sizes = f"{name}: {'; '.join(format(int(size), ',') for size in made)}"
        rows.append(" | ".join([f"| {sizes}", tokens, pace, f"{most} |"]))
    return "\n".join(rows)


if __name__ == "__main__":
    found = json.loads(FIGURES.read_text())
    PICTURE.write_text(picture(found))
    print(table(found), growth(found), sep="\n\n")
