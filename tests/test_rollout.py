"""rollout.py: tokens and their numbers are born together, and a branch copies its prefix."""

import pytest

from rollout import Call, Rollout


def written() -> Rollout:
    """Two turns with a tool result between them."""
    r = Rollout([1, 2], 7, group=3)
    r.append([10, 11], True, [-0.1, -0.2], [1.0, 2.0])
    r.append([20, 21, 22], False, [0.0] * 3, [0.0] * 3)
    r.append([12], True, [-0.3], [3.0])
    r.calls = [Call("search", "x", "ok", 0.1, 2, 5)]
    return r


def test_the_four_lists_grow_together():
    r = written()
    assert r.mask == [True, True, False, False, False, True]
    assert r.sampled_logp == [-0.1, -0.2, 0, 0, 0, -0.3]
    assert len(r.ids) == len(r.mask) == len(r.sampled_logp) == len(r.sampled_entropy) == 6
    with pytest.raises(AssertionError, match="born together"):
        r.append([1], True, [], [0.0])


def test_a_branch_shares_the_prefix_and_only_finished_calls():
    r = written()
    before, after = r.fork(1), r.fork(5)
    assert before.ids == [10] and before.calls == [] and after.ids == r.ids[:5]
    assert after.calls == r.calls and after.fork_at == 5 and after.parent is r
    assert (after.group, after.prompt) == (3, [1, 2])
    after.append([99], True, [-1.0], [0.5])
    assert r.ids == [10, 11, 20, 21, 22, 12], "the parent is unchanged"


def test_every_branch_has_a_seed_of_its_own():
    r = written()
    seeds = [r.seed, *(r.fork(1).seed for _ in range(50))]
    assert len(set(seeds)) == 51
    again = written()
    assert [again.fork(1).seed for _ in range(50)] == seeds[1:], "the same ones in another run"


def test_texts_are_told_apart_by_their_writer():
    r = Rollout([0], 0, pieces=[(True, "a <x>"), (False, " result"), (True, " b")], finish="stop")
    assert r.text == "a <x> result b" and r.policy_text == "a <x> b" and not r.truncated
    r.finish = "calls"
    assert r.truncated
