"""Signal to noise of each arm's gradient per 10,000 sampled tokens: how much a token teaches.

    python -m extras.study.signal WORLD --start RUN/step_000000 --data data/world/WORLD-1

    1. gradients   of many mini-batches at one policy, which does not move
    2. signal      |E g|^2 and the trace of Cov g, both without bias
    3. row_of      of an arm: their ratio per sampled token, and E g against a reference arm
    4. table       all arms, the best first

It does not depend on learning rates. The policy does not move, so Omega is 1: of APPO this is the
first mini-batch of a step, where entropy alone chooses.
Axes: n mini-batches.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import train
from extras.study.arms import SIGNAL
from extras.study.runs import common, flags_of
from extras.study.trials import WORLDS
from support.inputs import encode, read_run
from support.models import load_tokenizer, positions_of
from support.ranks import Ranks

# name -> rows, of the policies that --save has named
SIGNALS = Path(__file__).with_name("signals.json")
PER = 10_000
DRAWS = 1000
REFERENCE = "grpo_16"


class Recorder:
    """An optimizer that keeps the gradient of each update and leaves the weights as they are."""

    def __init__(self, parameters):
        self.parameters, self.kept = list(parameters), []

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradient at hand."""
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """Keep it."""
        self.kept.append(torch.cat([p.grad.flatten() for p in self.parameters]))


def gradients(settings: dict, steps: int) -> tuple[Tensor, float]:
    """(n, parameters) of all mini-batches of so many steps; sampled tokens of a mini-batch."""
    with tempfile.TemporaryDirectory() as out:
        run, rows = read_run([*flags_of(settings), "--clip_grad", "0", "--out", f"{out}/run"])
        try:
            inputs = encode(run, rows, load_tokenizer(run.model), positions_of(run.model))
            trainer = train.load(run, inputs, Ranks())
            trainer.beat = lambda where: None
            trainer.optimizer = Recorder(trainer.policy.model.parameters())
            tokens = sum(trainer.step(n)[0]["tokens_sampled"] for n in range(steps))
        finally:
            rows.close()
    kept = torch.stack(trainer.optimizer.kept)
    return kept, tokens / len(kept)


def signal(products: Tensor) -> tuple[float, float]:
    """(|E g|^2, trace of Cov g) from the products (n, n) of n independent gradients.

    |E g|^2 is the mean of g_i g_k over i != k; E |g|^2 less that is the trace. Both are unbiased.
    """
    n, own = len(products), products.diagonal()
    square = float((products.sum() - own.sum()) / (n * (n - 1)))
    return square, float(own.mean()) - square


def ratio(products: Tensor, tokens: float) -> float:
    """|E g|^2 / trace of Cov g for PER sampled tokens."""
    square, noise = signal(products)
    return square / noise * PER / tokens


def interval(products: Tensor, tokens: float) -> tuple[float, float]:
    """95% of `ratio`, from many halves of the mini-batches, drawn without replacement.

    A half varies around the whole as the whole varies around the truth: of 2n gradients with
    variance v, the mean of n differs from that of all by v / 2n, in the square.
    """
    rng, n = random.Random("signal"), len(products)
    values = []
    for _ in range(DRAWS):
        half = torch.tensor(rng.sample(range(n), n // 2))
        values.append(ratio(products[half][:, half], tokens))
    values.sort()
    return values[int(0.025 * DRAWS)], values[int(0.975 * DRAWS) - 1]


def cosine(a: Tensor, b: Tensor) -> float:
    """Of the two expected gradients; both lengths without bias, 0 if one is lost in noise."""
    squares = [signal(g @ g.T)[0] for g in (a, b)]
    if min(squares) <= 0:
        return 0.0
    return float(a.mean(0) @ b.mean(0)) / (squares[0] * squares[1]) ** 0.5


def row_of(g: Tensor, tokens: float, reference: Tensor) -> list[float]:
    """Of the gradients g (n, parameters) of an arm: n, sampled tokens of a mini-batch, the ratio
    with its interval, the cosine with the reference's."""
    products = g @ g.T
    numbers = (ratio(products, tokens), *interval(products, tokens), cosine(g, reference))
    return [len(g), round(tokens), *(round(x, 3) for x in numbers)]


def table(rows: dict[str, list[float]]) -> str:
    """Markdown, arms in the order of their ratio."""
    head = f"| arm | updates | sampled tokens each | signal to noise per {PER:,} sampled tokens | "
    lines = [head + f"cosine with {REFERENCE} |", "|---" * 5 + "|"]
    for arm, (n, tokens, middle, low, high, near) in sorted(rows.items(), key=lambda x: -x[1][2]):
        value = f"{middle:.3f} ({low:.3f} to {high:.3f})"
        lines.append(f"| {arm} | {n} | {tokens:,} | {value} | {near:.2f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m extras.study.signal")
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("--start", type=Path, required=True, help="checkpoint whose gradient it is")
    parser.add_argument("--data", type=Path, required=True, help="folder of the bundled world")
    parser.add_argument("--steps", type=int, default=24, help="of 16 prompts, 4 an update")
    parser.add_argument("--save", default="", help="keep the rows in signals.json by this name")
    args = parser.parse_args(argv)
    given = {"model": args.start, "data": args.data / "train.jsonl", "seed": 1, "eval_questions": 0}
    given |= {"corpus": args.data / "corpus.jsonl", "eval_data": "", "minibatch": 4}
    found = {}
    for arm, settings in tqdm(SIGNAL.items(), desc=args.world):
        try:
            own = common(args.world) | given | settings
            found[arm] = gradients(own, args.steps)
        except (ValueError, OSError) as problem:
            sys.exit(f"extras.study.signal: {arm}: {problem}")
    rows = {arm: row_of(*numbers, found[REFERENCE][0]) for arm, numbers in found.items()}
    print(table(rows))
    if args.save:
        known = json.loads(SIGNALS.read_text()) if SIGNALS.is_file() else {}
        SIGNALS.write_text(json.dumps(known | {args.save: rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
