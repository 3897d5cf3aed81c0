"""support/tree_levels.py: one pass over a tree gives what a pass over each rollout gives."""

import pytest
import torch
from conftest import untrained

from policy import Policy
from rollout import Rollout
from support.models import recompute_activations
from support.ranks import Ranks
from support.tree_levels import (
    levels_of,
    logp_of_trees,
    own_mask,
    padded_tokens,
    parents_of,
    shared_tokens,
    tree_passes,
    unique_tokens,
)


def grown(prompt, ids, seed=0, group=0):
    """A tree: an initial rollout, a branch, a branch of the branch, a second initial rollout."""
    draw = torch.Generator().manual_seed(seed)

    def fresh(n):
        return torch.randint(5, 50, (n,), generator=draw).tolist()

    root = Rollout(prompt, 1, group, ids=fresh(ids), mask=[True] * ids)
    root.mask[3:5] = [False, False]
    first = root.fork(6)
    first.append(fresh(4), True, [0.0] * 4, [0.0] * 4)
    second = first.fork(8)
    second.append(fresh(7), True, [0.0] * 7, [0.0] * 7)
    early = root.fork(2)
    early.append(fresh(3), True, [0.0] * 3, [0.0] * 3)
    other = Rollout(prompt, 2, group, ids=fresh(5), mask=[True] * 5)
    return [root, first, second, early, other]


@pytest.fixture
def trees():
    return [grown([5, 6, 7], 11), grown([9, 8, 7, 6, 5], 9, seed=1, group=1)]


def test_shared_tokens(trees):
    assert shared_tokens(trees[0]).tolist() == [
        [11, 6, 6, 2, 0],
        [6, 10, 8, 2, 0],
        [6, 8, 15, 2, 0],
        [2, 2, 2, 5, 0],
        [0, 0, 0, 0, 5],
    ]
    with pytest.raises(ValueError, match=r"rollouts \[0, 2\] .* after their parents"):
        parents_of(trees[0][1:])


def test_every_token_is_in_one_level(trees):
    levels, paths = levels_of(trees)
    assert [len(level.ids) for level in levels] == [2, 4, 4, 2]
    unique = sum(map(unique_tokens, trees))
    assert sum(len(ids) for level in levels for ids in level.ids) == unique == 33 + 5 + 9 + 19
    token = {
        place: i
        for level in levels
        for row, ids in enumerate(level.ids)
        for place, i in zip(level.places(row), ids)
    }
    for r, path in zip([r for tree in trees for r in tree], paths):
        assert [token[place] for place in path] == r.prompt + r.ids
        # its prefix is that of its parent, token by token the same
        if r.parent is not None:
            whose = [x for tree in trees for x in tree]
            parent = paths[[x is r.parent for x in whose].index(True)]
            assert path[: len(r.prompt) + r.fork_at] == parent[: len(r.prompt) + r.fork_at]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_log_probs_and_gradients_are_those_of_separate_rollouts(
    family, recompute, tokenizer, trees
):
    """float64: log-probs within 1e-10 of passes over whole rollouts; gradients within 1e-5 of
    their largest entry, since transformers' norms compute in float32."""
    policy = Policy(untrained(family, tokenizer).double(), tokenizer)
    if recompute:
        recompute_activations(policy.model)
        policy.model.train()
    rollouts = [r for tree in trees for r in tree]
    own = torch.zeros(len(rollouts), max(len(r.ids) for r in rollouts), dtype=torch.bool)
    for row, r in zip(own, rollouts):
        row[: len(r.ids)] = torch.tensor(own_mask(r))
    weight = torch.rand(own.shape, dtype=torch.float64) * own

    def gradient(logp):
        return torch.autograd.grad((logp * weight).sum(), list(policy.model.parameters()))

    apart = policy.logp(rollouts, 0.7)
    packed = logp_of_trees(policy, trees, 0.7)
    torch.testing.assert_close(packed, apart * own, atol=1e-10, rtol=0)
    for a, b in zip(gradient(packed), gradient(apart)):
        torch.testing.assert_close(a, b, atol=1e-5 * float(b.abs().max()), rtol=0)


def test_passes_hold_every_tree_once_and_fit_the_budget(trees):
    many = [grown([1, 2], 8 + n, seed=n, group=n) for n in range(7)]
    passes = tree_passes(many, 128, Ranks())
    assert sorted(tree[0].group for part in passes for tree in part) == list(range(7))
    for part in passes:
        levels, _ = levels_of(part)
        padded = sum(len(level.ids) * level.width for level in levels)
        assert padded == padded_tokens(part) and (len(part) == 1 or padded <= 128)
    assert len(passes) < len(many)

    class Two(Ranks):
        def max(self, values):
            return [len(passes) + 1]

    *_, [nothing] = tree_passes(many, 128, Two())
    assert own_mask(nothing[0]) == [False]
