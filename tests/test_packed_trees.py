"""support/packed_trees.py: one pass over a tree gives what a pass over each rollout gives."""

import pytest
import torch
from conftest import untrained

from policy import Policy
from rollout import Rollout
from support.packed_trees import (
    logp_of_trees,
    own_mask,
    pack,
    parents_of,
    shared_tokens,
    tree_passes,
    unique_tokens,
)
from support.ranks import Ranks


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


def test_every_token_is_packed_once(trees):
    packed = pack(trees[0])
    assert len(packed.ids) == unique_tokens(trees[0]) == 3 + 11 + 4 + 7 + 3 + 5
    for r, path in zip(trees[0], packed.paths):
        assert [packed.ids[n] for n in path] == r.ids
        assert [packed.positions[n] for n in path] == [3 + t for t in range(len(r.ids))]


def test_a_token_sees_its_own_path(trees):
    packed = pack(trees[0])
    seen = packed.sees(40)
    for path in packed.paths:
        for t, n in enumerate(path):
            assert seen[n].nonzero()[:, 0].tolist() == sorted([0, 1, 2, *path[: t + 1]])


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_log_probs_and_gradients_are_those_of_separate_rollouts(family, tokenizer, trees):
    """float64: log-probs within 1e-10 of passes over whole rollouts; gradients within 1e-5 of
    their largest entry, since transformers' norms compute in float32."""
    policy = Policy(untrained(family, tokenizer).double(), tokenizer)
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
        width = max(-(-unique_tokens(tree) // 32) * 32 for tree in part)
        assert len(part) == 1 or len(part) * width <= 128

    class Two(Ranks):
        def max(self, values):
            return [len(passes) + 1]

    *_, [nothing] = tree_passes(many, 128, Two())
    assert own_mask(nothing[0]) == [False]
