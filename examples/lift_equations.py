"""The equations of APPO in a trainer of your own: branching.py and advantage.py, nothing else.

    python examples/lift_equations.py

Copy these two files beside your trainer, and three functions from here into it:

    1. where_to_branch   the tokens to draw anew                         (Eq. 3-5)
    2. credit            an advantage per token, all prompts at once     (Eq. 6-7)
    3. loss              what the optimizer steps on                     (Eq. 8)

They take whole batches, padded on the right, with the names of verl. In TRL old_log_probs are
old_per_token_logps, log_probs per_token_logps, response_mask completion_mask times tool_mask.

The trainer around them is made up. Its policy is a table of logits: for each prompt and each last
word, the next word. A <search> is answered; after the answer the prompt's own colour earns 1.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

# in your project the two files lie beside yours
sys.path.append(str(Path(__file__).resolve().parents[1]))

from advantage import dual_group_advantage, policy_loss, scale_by_future
from branching import branch_candidates, fork_points, future_value, token_stats

HALF_LIFE = 32.0


def where_to_branch(batch: dict, texts: list[list[str]], stop: int, k: int) -> list[list[int]]:
    """At most k tokens of each row to branch at, best first. texts: of every token alone.

    Sets batch["omega"]. stop: id of the end of a turn, where no branch starts.
    """
    mask = batch["response_mask"]
    how = batch["log_probs"], batch["old_log_probs"], mask
    batch["omega"] = future_value(*how, half_life=HALF_LIFE)  # (R, T)
    rows = zip(texts, mask.tolist())
    fit = torch.tensor([branch_candidates(row, own, tags=("search",)) for row, own in rows])
    # every rollout of a prompt has drawn its first token anew already
    fit[:, 0] = False
    fit &= batch["responses"] != stop
    return fork_points(mask, batch["entropys"], batch["omega"], k, fit)


def credit(batch: dict, branches: dict, b: float = 0.5) -> Tensor:
    """The advantage of every token, (R, T). branches: rewards, parent (row) and fork_at, (K,).

    A uid, any name, is the same for all rollouts of a prompt; a branch belongs to its parent's.
    """
    number = {uid: n for n, uid in enumerate(dict.fromkeys(batch["uid"]))}
    adv = dual_group_advantage(
        batch["rewards"],
        branches["rewards"],
        branches["parent"],
        branches["fork_at"],
        batch["response_mask"],
        group=torch.tensor([number[uid] for uid in batch["uid"]]),
    )
    return scale_by_future(adv, batch["omega"], b)


def loss(batch: dict, adv: Tensor) -> Tensor:
    """The loss of the batch, a scalar; branches are not in it."""
    value, _ = policy_loss(batch["log_probs"], batch["old_log_probs"], adv, batch["response_mask"])
    return value


# ---- the made-up trainer

WORDS = [" so", " well", ".", "<search>", " red", " blue", " green", "<result>", "<end>"]
SEARCH, RESULT, END = (WORDS.index(word) for word in ("<search>", "<result>", "<end>"))
COLOURS = {"sky": " blue", "grass": " green", "rose": " red"}
# rollouts of a prompt, branches of a rollout, tokens of a row
N, B, T = 8, 2, 12


def sample(table: Tensor, prompt: int, ids: list, mask: list, rng: random.Random) -> tuple:
    """The engine: ids and mask of a response that goes on from a prefix, and its reward."""
    ids, mask = list(ids), list(mask)
    colour = WORDS.index(list(COLOURS.values())[prompt])
    while len(ids) < T and ids[-1:] != [END]:
        called = ids[-1:] == [SEARCH]
        weights = table[prompt, ids[-1] if ids else END].softmax(-1).tolist()
        ids.append(RESULT if called else rng.choices(range(len(WORDS)), weights)[0])
        mask.append(int(not called))
    answers = [new for own, new in zip(mask, ids[1:]) if not own]
    return ids, mask, float(colour in answers)


def rollouts(table: Tensor, rng: random.Random) -> dict:
    """A batch of N rollouts of every prompt, padded on the right."""
    prompts = [p for p in range(len(COLOURS)) for _ in range(N)]
    rows = [sample(table, p, [], [], rng) for p in prompts]
    pad = [[0] * (T - len(ids)) for ids, _, _ in rows]
    return {
        "prompt": torch.tensor(prompts),
        "uid": [list(COLOURS)[p] for p in prompts],
        "responses": torch.tensor([ids + rest for (ids, _, _), rest in zip(rows, pad)]),
        "response_mask": torch.tensor([mask + rest for (_, mask, _), rest in zip(rows, pad)]),
        "rewards": torch.tensor([reward for _, _, reward in rows]),
    }


def score(table: Tensor, batch: dict) -> None:
    """The scoring pass: log-probs, with their gradient, and entropies of the policy as it is."""
    ids = batch["responses"]
    before = torch.nn.functional.pad(ids, (1, -1), value=END)
    logits = table[batch["prompt"][:, None], before]  # (R, T, V)
    batch["log_probs"], entropy = token_stats(logits, ids)
    batch["entropys"] = entropy.detach()


def resample(table: Tensor, batch: dict, points: list[list[int]], rng: random.Random) -> dict:
    """A branch from every point: its reward, the row of its parent, and where it left."""
    places = [(row, t) for row, ts in enumerate(points) for t in ts]
    ids, mask = batch["responses"].tolist(), batch["response_mask"].tolist()
    prompt = batch["prompt"].tolist()
    earned = [sample(table, prompt[r], ids[r][:t], mask[r][:t], rng)[2] for r, t in places]
    where = torch.tensor(places, dtype=torch.long).reshape(-1, 2)
    return {"rewards": torch.tensor(earned), "parent": where[:, 0], "fork_at": where[:, 1]}


def train(steps: int, seed: int) -> Iterator[tuple]:
    """Two updates a step. Yields after each what it used: batch, points, branches, adv, loss."""
    rng = random.Random(seed)
    start = torch.randn(len(COLOURS), len(WORDS), len(WORDS), generator=torch.manual_seed(seed))
    table = start.mul(0.5).requires_grad_()
    optimizer = torch.optim.Adam([table], lr=0.2)
    for _ in range(steps):
        batch = rollouts(table, rng)
        for update in range(2):
            score(table, batch)
            if update == 0:
                batch["old_log_probs"] = batch["log_probs"].detach()
            texts = [[WORDS[i] for i in row] for row in batch["responses"].tolist()]
            points = where_to_branch(batch, texts, END, B)
            branches = resample(table, batch, points, rng)
            adv = credit(batch, branches)
            value = loss(batch, adv)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            yield batch, points, branches, adv, value.item()


def main() -> None:
    """A line for every update."""
    for n, (batch, points, branches, adv, value) in enumerate(train(steps=15, seed=0)):
        print(
            f"update {n:2d}  reward {batch['rewards'].mean():.3f}  "
            f"branches {len(branches['rewards'])}, theirs {branches['rewards'].mean():.3f}  "
            f"|advantage| {adv.abs().mean():.6f}  loss {value:+.6f}  row 0 at {points[0]}"
        )


if __name__ == "__main__":
    main()
