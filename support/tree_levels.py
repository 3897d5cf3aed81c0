"""A tree through the model once: a rollout's own tokens see the keys and values of its prefix.

    1. shared_tokens   how many first tokens two rollouts of a tree have in common by their forks
    2. levels_of       prompts, then initial rollouts, then branches, then branches of those
    3. tree_passes     which trees share a pass
    4. logp_of_trees   log-probs of own tokens; gradients reach the prefix through keys and values

A rollout's own tokens are those behind its fork: ids[fork_at:]; of an initial rollout all. A tree
holds the rollouts of one prompt, every parent before its branches. Tokens and keys are computed
once; no token is paired with one that is not on its path, but for padding.
Axes: R rows of a level, W its longest own tokens, P its longest prefix, N tokens of the levels
before it, padding included, M own policy tokens, T response tokens.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from policy import Policy, pad
from rollout import Rollout
from support.log_probs import logp_in_chunks
from support.ranks import Ranks


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
class Level:
    """Rows that go through the model together: a prompt, or a rollout's own tokens, each.

    start: the place of its first token among the tokens of all levels, rows x width each.
    ids: of every row. prefixes: the places of the tokens before them, all in earlier levels.
    """

    start: int
    ids: list[list[int]]
    prefixes: list[list[int]]

    @property
    def width(self) -> int:
        """W."""
        return max(1, *map(len, self.ids))

    def places(self, row: int) -> range:
        """Of a row's own tokens."""
        first = self.start + row * self.width
        return range(first, first + len(self.ids[row]))


def levels_of(trees: list[list[Rollout]]) -> tuple[list[Level], list[list[int]]]:
    """(levels, the places of each rollout's tokens, its prompt's too), rollouts tree by tree."""
    levels = [Level(0, [tree[0].prompt for tree in trees], [[] for _ in trees])]
    paths: dict[int, list[int]] = {}
    every = [(number, r) for number, tree in enumerate(trees) for r in tree]
    for depth in range(1 + max(depth_of(r) for _, r in every)):
        members = [(number, r) for number, r in every if depth_of(r) == depth]
        prefixes = [
            paths[id(r.parent)][: len(r.prompt) + r.fork_at]
            if r.parent
            else [*levels[0].places(number)]
            for number, r in members
        ]
        start = levels[-1].start + len(levels[-1].ids) * levels[-1].width
        level = Level(start, [r.ids[r.fork_at :] for _, r in members], prefixes)
        for row, (_, r) in enumerate(members):
            paths[id(r)] = [*prefixes[row], *level.places(row)]
        levels.append(level)
    return levels, [paths[id(r)] for _, r in every]


def as_many_levels(levels: list[Level], ranks: Ranks) -> list[Level]:
    """With levels of one token behind them, if another rank has more: sharded weights of a level
    are gathered by all ranks together."""
    levels = [*levels]
    for _ in range(int(ranks.max([len(levels)])[0]) - len(levels)):
        last = levels[-1]
        levels.append(Level(last.start + len(last.ids) * last.width, [[0]], [[]]))
    return levels


def depth_of(r: Rollout) -> int:
    """0 of an initial rollout, 1 of its branch."""
    return 0 if r.parent is None else 1 + depth_of(r.parent)


class Paths:
    """What the attention of one level sees: keys and values of earlier levels, then its own.

    kv: layer -> level -> (R W, 2, heads, dim), one for all levels. prefix: (R, P) places; where a
    row has fewer tokens before its own, any: the mask hides them.
    No dataclass: FSDP takes those apart and gives every layer a copy.
    """

    def __init__(self, kv: dict[int, list[Tensor]], level: int, prefix: Tensor):
        self.kv, self.level, self.prefix = kv, level, prefix

    def extended(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (R, heads, P + W, dim) for own ones (R, heads, W, dim)."""
        known = self.kv.setdefault(layer, [])
        own = torch.stack([key, value]).permute(1, 3, 0, 2, 4).flatten(0, 1)  # (R W, 2, heads, dim)
        assert len(known) >= self.level, "every earlier level has left its keys here"
        # activations that are computed again give the same numbers in the same place
        known[self.level : self.level + 1] = [own]
        if not self.prefix.shape[1]:
            return key, value
        before = torch.cat(known[: self.level])[self.prefix]  # (R, P, 2, heads, dim)
        before = before.permute(2, 0, 3, 1, 4)
        return torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)


def hidden_of(policy: Policy, levels: list[Level]) -> Tensor:
    """Hidden states of all tokens by place, (N, D), with their gradient."""
    kv: dict[int, list[Tensor]] = {}
    states = []
    for number, level in enumerate(levels):
        # pad() leaves one column where prompts have no prefix
        prefix = pad(level.prefixes, torch.long)[:, : max(map(len, level.prefixes))]  # (R, P)
        counts = torch.tensor([len(path) for path in level.prefixes])  # (R,)
        own = torch.arange(level.width)
        sees_prefix = torch.arange(prefix.shape[1]) < counts[:, None]  # (R, P)
        sees_prefix = sees_prefix[:, None].expand(-1, level.width, -1)
        sees_own = (own <= own[:, None]).expand(len(counts), -1, -1)  # (R, W, W)
        seen = torch.cat([sees_prefix, sees_own], 2)[:, None].to(policy.device)
        bias = torch.zeros(seen.shape, dtype=policy.dtype, device=policy.device)
        states.append(
            policy.decoder(
                input_ids=pad(level.ids, torch.long).to(policy.device),
                position_ids=(counts[:, None] + own).to(policy.device),
                attention_mask=bias.masked_fill_(~seen, -math.inf),
                paths=Paths(kv, number, prefix.to(policy.device)),
                use_cache=False,
            ).last_hidden_state.flatten(0, 1)
        )
    return torch.cat(states)


def tree_passes(trees: list[list[Rollout]], budget: int, ranks: Ranks) -> list[list]:
    """Trees that share a pass of at most `budget` tokens, padding included, the largest first.

    As many passes on every rank; one with fewer makes up for them with a tree without a policy
    token. A tree above the budget has a pass of its own.
    """
    passes: list[list] = []
    for tree in sorted(trees, key=unique_tokens, reverse=True):
        if not passes or padded_tokens([*passes[-1], tree]) > budget:
            passes.append([])
        passes[-1].append(tree)
    nothing = Rollout([0], 0, ids=[0], mask=[False])
    nothing.logp_old = nothing.logp_ref = nothing.advantage = torch.zeros(1)
    missing = int(ranks.max([len(passes)])[0]) - len(passes)
    return passes + [[[nothing]]] * missing


def unique_tokens(tree: list[Rollout]) -> int:
    """Tokens of a tree, its prompt and every shared prefix once."""
    return len(tree[0].prompt) + sum(len(r.ids) - r.fork_at for r in tree)


def padded_tokens(trees: list[list[Rollout]]) -> int:
    """Tokens that a pass over trees computes, padding included: those of levels_of."""
    own = {0: [len(tree[0].prompt) for tree in trees]}
    for r in (r for tree in trees for r in tree):
        own.setdefault(1 + depth_of(r), []).append(len(r.ids) - r.fork_at)
    return sum(len(lengths) * max(1, *lengths) for lengths in own.values())


def logp_of_trees(policy: Policy, trees: list[list[Rollout]], temperature: float) -> Tensor:
    """Log-probs of one pass, (R, T) over the rollouts of all trees in order, with their gradient.

    0 where mask is False and at tokens that a branch shares with its parent.
    """
    levels, paths = levels_of(trees)
    levels = as_many_levels(levels, policy.ranks)
    rollouts = [r for tree in trees for r in tree]
    # a token is predicted by the one before it on its path
    places = [
        path[len(r.prompt) - 1 + t]
        for r, path in zip(rollouts, paths)
        for t, own in enumerate(own_mask(r))
        if own
    ]
    mask = pad([own_mask(r) for r in rollouts], torch.bool).to(policy.device)  # (R, T)
    ids = pad([r.ids for r in rollouts], torch.long).to(policy.device)
    # long where there is none, too
    chosen_of = policy.tensor(places).long()

    def forward():
        chosen = hidden_of(policy, levels).index_select(0, chosen_of)  # (M, D)
        return logp_in_chunks(policy.head, chosen, ids[mask], temperature)

    logp = policy.call(forward)
    return torch.zeros(mask.shape, dtype=logp.dtype, device=mask.device).masked_scatter(mask, logp)


def own_mask(r: Rollout) -> list[bool]:
    """Policy tokens behind the fork: what is trained of a rollout."""
    return [chosen and t >= r.fork_at for t, chosen in enumerate(r.mask)]
