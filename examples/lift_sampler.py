"""The sampler alone: 8 rollouts of a prompt, 3 forks at chosen tokens, the trees as text.

    python examples/lift_sampler.py
    python examples/lift_sampler.py --model FOLDER --prompt "What is 6 * 7?" --at 0:5 2:9 2:12

--at ROLLOUT:TOKEN draws that token of that rollout anew, and all that follows. Without it the most
uncertain token of each of the first three is drawn anew. A branch stands under its parent, below
the token that it replaces. Without --model an untrained one of 0.3 M parameters talks nonsense.
"""

import argparse
import random
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from branching import fork_points
from extras.world.student import build_model, build_tokenizer, syllables
from policy import Policy, pad
from protocol import encode_prompt
from sampling import Sampler
from support.sampling_params import SamplingParams


def untrained() -> Policy:
    """A model that knows nothing, for a first look."""
    tokenizer = build_tokenizer(*syllables(random.Random(0)))
    return Policy(build_model(tokenizer, seed=0), tokenizer)


def show(policy: Policy, rollouts: list, branches: list) -> None:
    """Print every rollout, and its branches below it."""
    # token by token, so that columns fit; what cannot be printed is a dot
    shown = ["".join(c if c.isprintable() else "·" for c in text) for text in policy.text]
    for n, r in enumerate(rollouts):
        print(f"{n}  {''.join(shown[i] for i in r.ids)}")
        for x in (x for x in branches if x.parent is r):
            indent = 3 + sum(len(shown[i]) for i in r.ids[: x.fork_at])
            print(f"{'└':>{indent}}{''.join(shown[i] for i in x.ids[x.fork_at :])}")


def main(args: argparse.Namespace) -> None:
    """Sample, fork, print. ValueError or IndexError for a token that cannot be forked."""
    policy = Policy.load(args.model) if args.model else untrained()
    limits = dict(max_tokens=40, max_calls=3, max_result_tokens=16)
    # {}: no tools, as every call is told; name -> tool goes here (tools.open_tools)
    sampler = Sampler(policy, {}, SamplingParams(decode_rows=8, prefill_chunk=32, **limits))
    prompt = encode_prompt(policy.tokenizer, [{"role": "user", "content": args.prompt}])
    rollouts = sampler.initial([prompt], n=8, seeds=[0])
    # sets r.entropy; branches copy their prefix from this cache
    cache = policy.score(rollouts, temperature=1.0, micro_tokens=8192, keep_cache=True)
    mask = pad([r.mask for r in rollouts], torch.bool)
    best = fork_points(mask, pad([r.entropy for r in rollouts], torch.float32), k=1)
    points = [[] for _ in rollouts]
    for place in args.at or [f"{n}:{best[n][0]}" for n in range(3)]:
        n, t = map(int, place.split(":"))
        points[n].append(t)
    # a token of a tool result is refused
    fork_points(mask, points=points)
    show(policy, rollouts, sampler.branches(rollouts, points, cache))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Sample 8 rollouts, fork 3, print the trees.")
    parser.add_argument("--model", help="Hugging Face folder or name (default: an untrained one)")
    parser.add_argument("--prompt", default="What is 6 times 7?")
    parser.add_argument("--at", nargs="+", metavar="ROLLOUT:TOKEN", help="where to fork")
    try:
        main(parser.parse_args())
    except (ValueError, IndexError) as problem:
        sys.exit(f"lift_sampler.py: {problem}")
