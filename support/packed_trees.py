"""A tree of rollouts as one sequence: what rollouts share is computed once.

    1. shared_tokens   how many first tokens two rollouts of a tree have in common by their forks
    2. pack            prompt, then the own tokens of every rollout; where each path runs in it
    3. tree_passes     which trees share a pass
    4. logp_of_trees   log-probs of own tokens with their gradient; a token sees its own path only

A rollout's own tokens are those behind its fork: ids[fork_at:]; of an initial rollout all. A tree
holds the rollouts of one prompt, every parent before its branches.
Axes: C trees of a pass, W tokens of the longest, R rollouts, T response tokens, M own tokens.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from policy import Policy, pad
from rollout import Rollout
from support.log_probs import logp_in_chunks
from support.ranks import Ranks
from support.shapes import round_up

# packed trees are padded to a multiple of it: fewer shapes
BLOCK = 32


def parents_of(tree: list[Rollout]) -> list[int]:
    """The index of each rollout's parent, -1 of an initial one. ValueError if it is not before."""
    place = {id(r): n for n, r in enumerate(tree)}
    parents = [-1 if r.parent is None else place.get(id(r.parent), n) for n, r in enumerate(tree)]
    late = [n for n, p in enumerate(parents) if p >= n]
    if late:
        raise ValueError(f"rollouts {late} of a tree do not come after their parents")
    return parents


def shared_tokens(tree: list[Rollout]) -> Tensor:
    """(R, R): how many first response tokens a and b share by construction; (a, a): all of a's.

    Rollouts that happen to draw the same token after a fork do not share it.
    """
    parents, shared = parents_of(tree), torch.zeros(len(tree), len(tree), dtype=torch.long)
    for n, r in enumerate(tree):
        if parents[n] >= 0:
            shared[n, :n] = shared[parents[n], :n].clamp(max=r.fork_at)
            shared[:n, n] = shared[n, :n]
        shared[n, n] = len(r.ids)
    return shared


@dataclass
class Packed:
    """A tree as one sequence. ids: the prompt, then own tokens. positions: of each in its rollout.

    paths: for each rollout where its response tokens lie, (T,).
    """

    ids: list[int]
    positions: list[int]
    paths: list[list[int]]
    prompt: int

    def sees(self, width: int) -> Tensor:
        """(width, width): which token sees which; padding sees itself alone."""
        seen = torch.eye(width, dtype=torch.bool)
        P = self.prompt
        seen[:P, :P] = torch.ones(P, P, dtype=torch.bool).tril()
        seen[P : len(self.ids), :P] = True
        for path in map(torch.tensor, self.paths):
            # a parent's rows are written again by its branches, with the same values
            causal = torch.ones(len(path), len(path), dtype=torch.bool).tril()
            seen[path[:, None], path] |= causal
        return seen


def pack(tree: list[Rollout]) -> Packed:
    """The prompt of the first rollout, then every rollout's own tokens."""
    prompt = tree[0].prompt
    packed = Packed([*prompt], [*range(len(prompt))], [], len(prompt))
    for r, parent in zip(tree, parents_of(tree)):
        path = packed.paths[parent][: r.fork_at] if parent >= 0 else []
        start = len(packed.ids)
        own = r.ids[len(path) :]
        packed.ids += own
        packed.positions += range(len(prompt) + len(path), len(prompt) + len(r.ids))
        packed.paths.append(path + [*range(start, start + len(own))])
    return packed


def tree_passes(trees: list[list[Rollout]], budget: int, ranks: Ranks) -> list[list]:
    """Trees that share a pass, trees x width <= budget tokens, the widest first.

    As many passes on every rank; one with fewer makes up for them with a tree without a policy
    token. A tree above the budget has a pass of its own.
    """
    passes, width = [], 0
    for tree in sorted(trees, key=tree_width, reverse=True):
        if not passes or (len(passes[-1]) + 1) * width > budget:
            passes.append([])
            width = tree_width(tree)
        passes[-1].append(tree)
    nothing = Rollout([0], 0, ids=[0], mask=[False])
    nothing.logp_old = nothing.logp_ref = nothing.advantage = torch.zeros(1)
    missing = int(ranks.max([len(passes)])[0]) - len(passes)
    return passes + [[[nothing]]] * missing


def unique_tokens(tree: list[Rollout]) -> int:
    """Tokens of a tree, its prompt and every shared prefix once."""
    return len(tree[0].prompt) + sum(len(r.ids) - r.fork_at for r in tree)


def tree_width(tree: list[Rollout]) -> int:
    """Tokens of a tree with padding."""
    return round_up(unique_tokens(tree), BLOCK)


def logp_of_trees(policy: Policy, trees: list[list[Rollout]], temperature: float) -> Tensor:
    """Log-probs of one pass, (R, T) over the rollouts of all trees in order, with their gradient.

    0 where mask is False and at tokens that a branch shares with its parent.
    """
    packed = [pack(tree) for tree in trees]
    width = max(map(tree_width, trees))
    rollouts = [r for tree in trees for r in tree]
    # a token is predicted by the one before it on its path
    places, paths = [], [(c, path) for c, p in enumerate(packed) for path in p.paths]
    for r, (c, path) in zip(rollouts, paths):
        before = [packed[c].prompt - 1, *path]
        places += [c * width + before[t] for t, own in enumerate(own_mask(r)) if own]
    mask = pad([own_mask(r) for r in rollouts], torch.bool).to(policy.device)  # (R, T)
    ids = pad([r.ids for r in rollouts], torch.long).to(policy.device)
    hidden_of = policy.tensor(places)

    def forward():
        bias = torch.stack([p.sees(width) for p in packed])[:, None].to(policy.device)
        bias = torch.zeros(bias.shape, dtype=policy.dtype, device=policy.device).masked_fill_(
            ~bias, -math.inf
        )  # (C, 1, W, W)
        hidden = policy.decoder(
            input_ids=pad([p.ids for p in packed], torch.long, width).to(policy.device),
            position_ids=pad([p.positions for p in packed], torch.long, width).to(policy.device),
            attention_mask=bias,
            use_cache=False,
        ).last_hidden_state
        chosen = hidden.flatten(0, 1).index_select(0, hidden_of)  # (M, D)
        return logp_in_chunks(policy.head, chosen, ids[mask], temperature)

    logp = policy.call(forward)
    return torch.zeros(mask.shape, dtype=logp.dtype, device=mask.device).masked_scatter(mask, logp)


def own_mask(r: Rollout) -> list[bool]:
    """Policy tokens behind the fork: what is trained of a rollout."""
    return [own and t >= r.fork_at for t, own in enumerate(r.mask)]
