"""branching.py against closed forms, a float64 decay matrix and the invariances of Eq. 3-5."""

import math

import pytest
import torch

from branching import (
    both_above_average,
    branch_candidates,
    branching_score,
    choose_branch_points,
    fork_points,
    future_value,
    omega_is_constant,
    token_stats,
    zscore,
)

B, T = 5, 70


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(B, T, generator=g) < 0.7
    mask[:, 0] = True
    new, old = torch.randn(2, B, T, generator=g, dtype=torch.float64) * 0.1 - 1
    entropy = torch.rand(B, T, generator=g, dtype=torch.float64) ** 3
    return new, old, mask, entropy


def decay_matrix(new, old, mask, gamma, over_policy=False):
    """Eq. 4 written as the double sum it is, without any of the tricks of the code."""
    F = torch.zeros(new.shape, dtype=torch.float64)
    for b in range(new.shape[0]):
        for t in range(new.shape[1]):
            for k in range(t, new.shape[1]):
                distance = int(mask[b, t:k].sum()) if over_policy else k - t
                F[b, t] += gamma**distance * float(mask[b, k]) * (new[b, k] - old[b, k])
    return F


# ---- token_stats


def test_token_stats_closed_forms():
    V = 152_000
    logp, entropy = token_stats(torch.zeros(1, 1, V), torch.tensor([[7]]))
    assert logp.item() == pytest.approx(-math.log(V), abs=1e-5) and entropy.item() == pytest.approx(
        math.log(V), abs=1e-4
    )
    logits = torch.tensor([[math.log(0.7), math.log(0.2), math.log(0.1)]])
    logp, entropy = token_stats(logits, torch.tensor([1]))
    assert logp.item() == pytest.approx(math.log(0.2), abs=1e-6)
    assert entropy.item() == pytest.approx(
        -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)), abs=1e-6
    )


def test_token_stats_temperature_and_float64_oracle():
    logits, ids = torch.randn(4, 6, 300, dtype=torch.float64) * 5, torch.randint(300, (4, 6))
    p = (logits / 0.7).softmax(-1)
    logp, entropy = token_stats(logits.float(), ids, temperature=0.7)
    assert logp.dtype == torch.float32
    torch.testing.assert_close(
        logp.double(), p.gather(-1, ids[..., None])[..., 0].log(), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        entropy.double(), torch.distributions.Categorical(p).entropy(), atol=1e-5, rtol=0
    )


def test_token_stats_forbidden_tokens_and_errors():
    logp, entropy = token_stats(torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([0]))
    assert entropy.item() == pytest.approx(math.log(2), abs=1e-6) and logp.item() == pytest.approx(
        -math.log(2), abs=1e-6
    )
    with pytest.raises(ValueError, match="temperature must be > 0"):
        token_stats(torch.zeros(1, 3), torch.tensor([0]), temperature=0)
    with pytest.raises(ValueError, match="need ids of shape"):
        token_stats(torch.zeros(2, 3), torch.tensor([0]))


# ---- future_value


@pytest.mark.parametrize("over", ["all", "policy"])
@pytest.mark.parametrize("half_life", [1.0, 32.0, math.inf])
def test_future_value_equals_the_double_sum(data, half_life, over):
    new, old, mask, _ = data
    F = decay_matrix(new, old, mask, 2 ** (-1 / half_life), over == "policy")
    omega = future_value(new, old, mask, half_life, decay_over=over)
    assert omega.dtype == torch.float64
    assert (omega.log() - F).abs().max() <= 1e-12


def test_future_value_by_hand():
    old = torch.tensor([[-1.0, -2.0, -9.0, -1.0]])
    new = torch.tensor([[-0.5, -2.0, 5.0, -2.0]])
    mask = torch.tensor([[True, True, False, True]])
    # gamma 1/2: F = .5 - 1/8, -1/4, -1/2, -1
    omega = future_value(new, old, mask, half_life=1.0)
    torch.testing.assert_close(omega, torch.tensor([[0.375, -0.25, -0.5, -1.0]]).exp())
    assert omega.dtype == torch.float32


def test_future_value_limits_of_gamma(data):
    new, old, mask, _ = data
    # gamma 0: only the token itself
    none = future_value(new, old, mask, half_life=1e-9)
    torch.testing.assert_close(none.log(), torch.where(mask, new - old, 0.0), atol=1e-12, rtol=0)
    full = future_value(new, old, mask, math.inf)
    suffix = torch.where(mask, new - old, 0.0).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(full.log(), suffix, atol=1e-12, rtol=0)


def test_future_value_is_exactly_one_without_change(data):
    new, _, mask, _ = data
    assert (future_value(new, new, mask, 32) == 1).all()
    # everything masked
    assert (future_value(new, new + 1, torch.zeros_like(mask), 32) == 1).all()


def test_future_value_reads_the_future_only(data):
    new, old, mask, _ = data
    mask[:, 40] = True
    moved = new.clone()
    moved[:, 40] += 0.5
    changed = future_value(moved, old, mask, 32) != future_value(new, old, mask, 32)
    assert changed[:, :41].all() and not changed[:, 41:].any()


def test_future_value_padding_and_order_of_rows(data):
    new, old, mask, _ = data
    omega = future_value(new, old, mask, 32)

    def pad(x, value):
        return torch.nn.functional.pad(x, (0, 13), value=value)

    torch.testing.assert_close(
        future_value(pad(new, math.nan), pad(old, 3.0), pad(mask, False), 32)[:, :T],
        omega,
        atol=1e-12,
        rtol=0,
    )
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.equal(future_value(new[order], old[order], mask[order], 32), omega[order])


def test_future_value_inserting_tool_tokens(data):
    """Under "policy" a tool result of any length changes nothing; under "all" it costs decay."""
    new, old, _, _ = data
    ones = torch.ones(B, T, dtype=torch.bool)

    def gap(x, value):
        return torch.cat([x[:, :30], torch.full((B, 9), value, dtype=x.dtype), x[:, 30:]], 1)

    keep = gap(ones, False)[0]
    with_gap = {
        over: future_value(gap(new, 5.0), gap(old, 0.0), gap(ones, False), 8, over)[:, keep]
        for over in ("all", "policy")
    }
    without = future_value(new, old, ones, 8)
    torch.testing.assert_close(with_gap["policy"], without, atol=1e-12, rtol=0)
    assert (with_gap["all"][:, :30] - without[:, :30]).abs().max() > 1e-3


def test_future_value_overflow():
    mask = torch.ones(1, 8, dtype=torch.bool)
    for sign in (100.0, -100.0):
        omega = future_value(torch.full((1, 8), sign), torch.zeros(1, 8), mask, 32)
        assert torch.isfinite(omega).all() and omega[0, 0].item() == pytest.approx(
            math.exp(math.copysign(20, sign)), rel=1e-5
        )


def test_future_value_errors(data):
    new, old, mask, _ = data
    with pytest.raises(ValueError, match="shapes differ"):
        future_value(new[:, 1:], old, mask, 32)
    with pytest.raises(ValueError, match="half_life must be > 0"):
        future_value(new, old, mask, 0)
    with pytest.raises(ValueError, match="decay_over"):
        future_value(new, old, mask, 32, decay_over="tokens")


# ---- zscore, branching_score


def test_zscore_moments_and_constant_rows(data):
    _, _, mask, entropy = data
    z = zscore(entropy, mask)
    count = mask.sum(1)
    assert (z.sum(1)).abs().max() < 1e-12 and ((z**2).sum(1) / count - 1).abs().max() < 1e-12
    assert (z[~mask] == 0).all()
    # float32 means of constants are off by rounding; the answer is exactly 0 all the same
    for value in (0.8, 1.2, 0.1, 1e-8, 1e6):
        for n in range(1, 60, 7):
            assert (
                zscore(torch.full((1, n), value), torch.ones(1, n, dtype=torch.bool)) == 0
            ).all()
    assert (zscore(entropy, torch.zeros_like(mask)) == 0).all()
    one = torch.zeros_like(mask)
    one[:, 5] = True
    assert (zscore(entropy, one) == 0).all()


def test_branching_score_is_the_product_of_z_scores(data):
    new, old, mask, entropy = data
    omega = future_value(new, old, mask, 32)
    score = branching_score(entropy, omega, mask)
    for b in range(B):
        h, o = entropy[b][mask[b]], omega[b][mask[b]].clamp(0.8, 1.2)

        def z(x):
            return (x - x.mean()) / x.std(correction=0)

        torch.testing.assert_close(score[b][mask[b]], z(h) * z(o), atol=1e-12, rtol=0)
    assert (score[~mask] == 0).all()


def test_branching_score_invariances(data):
    new, old, mask, entropy = data
    omega = future_value(new, old, mask, 32)
    wide = (1e-9, 1e9)
    score = branching_score(entropy, omega, mask, wide)
    torch.testing.assert_close(
        branching_score(3 * entropy + 2, omega, mask, wide), score, atol=1e-9, rtol=0
    )
    torch.testing.assert_close(
        branching_score(entropy, 5 * omega + 1, mask, wide), score, atol=1e-9, rtol=0
    )
    torch.testing.assert_close(
        branching_score(-entropy, omega, mask, wide), -score, atol=1e-9, rtol=0
    )
    doubled = future_value(old + 2 * (new - old), old, mask, 32)
    # exp is not linear
    assert (branching_score(entropy, doubled, mask, wide) - score).abs().max() > 1e-3
    assert (
        branching_score(entropy, future_value(new, old, mask, 4), mask, wide) - score
    ).abs().max() > 1e-3


def test_constant_omega_falls_back_to_entropy(data):
    _, _, mask, entropy = data
    noise = 1e-6 * torch.randn(B, T, dtype=torch.float64)
    # the last is constant once clipped
    for omega in (torch.ones(B, T), torch.full((B, T), 0.7), 1 + noise, 5 + 0.1 * torch.rand(B, T)):
        assert omega_is_constant(omega, mask).all()
        assert torch.equal(branching_score(entropy, omega, mask), zscore(entropy, mask))
        assert torch.equal(both_above_average(entropy, omega, mask), zscore(entropy, mask) > 0)
    assert not omega_is_constant(1 + 1e-3 * torch.randn(B, T), mask).any()
    flat = torch.ones(B, T, dtype=torch.float64)
    assert (branching_score(flat, flat, mask) == 0).all()


def test_both_above_average_excludes_the_positive_product_of_two_negatives(data):
    new, old, mask, entropy = data
    omega = future_value(new, old, mask, 32)
    score, good = branching_score(entropy, omega, mask), both_above_average(entropy, omega, mask)
    assert (score[good] > 0).all()
    negatives = (score > 0) & ~good
    assert negatives.any() and (zscore(entropy, mask)[negatives] < 0).all()


# ---- choose_branch_points


@pytest.mark.parametrize("point", [1.0, "1", True, None])
def test_a_point_that_is_no_whole_number_is_named(point):
    with pytest.raises(ValueError, match=r"points are whole numbers: \(row, token\) in \[\(1, "):
        fork_points(torch.ones(2, 5), points=[[2], [point]])


def test_choose_order_ties_and_candidates():
    score = torch.tensor([[1.0, 3.0, 3.0, 9.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    ok = torch.tensor([[True, True, True, False, True], [False, True, True, False, True]])
    assert choose_branch_points(score, ok, 3) == [[1, 2, 4], [1, 2, 4]]
    assert choose_branch_points(score, ok, 99) == [[1, 2, 4, 0], [1, 2, 4]]
    assert choose_branch_points(score, ok, 0) == [[], []]
    assert choose_branch_points(score, torch.zeros_like(ok), 3) == [[], []]
    with pytest.raises(ValueError, match="k must be a whole number >= 0"):
        choose_branch_points(score, ok, -1)
    with pytest.raises(ValueError, match="shapes differ, .*score .2, 5., candidates .2, 4."):
        choose_branch_points(score, ok[:, 1:], 1)


def test_choose_preferred_first_then_top_up_by_entropy():
    score = torch.tensor([[5.0, 1.0, 2.0, 4.0, 0.5]])
    entropy = torch.tensor([[0.1, 9.0, 9.0, 0.2, 0.3]])
    preferred = torch.tensor([[False, True, True, False, False]])
    assert choose_branch_points(score, torch.ones_like(preferred), 5, preferred, entropy) == [
        [2, 1, 4, 3, 0]
    ]


def test_choose_is_deterministic_and_distinct(data):
    new, old, mask, entropy = data
    score = branching_score(entropy, future_value(new, old, mask, 32), mask)
    first, again = (choose_branch_points(score, mask, 10) for _ in range(2))
    assert first == again
    for row, picks in enumerate(first):
        assert len(set(picks)) == 10 and all(mask[row, t] for t in picks)
        assert (
            score[row, picks].tolist() == sorted(score[row][mask[row]].tolist(), reverse=True)[:10]
        )


# ---- branch_candidates, fork_points


def test_candidates_are_a_matter_of_strings():
    texts = [" So", ",", "\n", " 4", "<", "search", ">", "<", "b", ">", " é", " —", "/", "</", " x"]
    tags, mask = ("search",), [True] * 14 + [False]
    loose = [True, True, False, *[True] * 11, False]
    ok = [True, False, False, True, True, True, False, False, True, False, True, False, True]
    assert branch_candidates(texts, mask, tags) == [*ok, False, False]
    assert branch_candidates(texts, mask, tags, skip_punctuation=False) == loose
    # padding has no text; a mask of integers will do
    padded = [int(own) for own in mask] + [0, 0]
    assert branch_candidates(texts, padded, tags) == [*ok, False, False, False, False]
    # </search> in two tokens, of another tag
    assert branch_candidates(["</", "search>"], [True, True], tags) == [True, True]
    assert branch_candidates(["</", "search>"], [True, True], ("think",)) == [False, True]


def test_fork_points_by_hand_worked_example():
    mask = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    entropy = torch.tensor([[0.1, 2.0, 9.0, 1.9, 0.0, 0.3], [0.2, 0.3, 0.1, 5.0, 5.0, 5.0]])
    # without Omega by entropy, policy tokens only
    assert fork_points(mask, entropy, k=3) == [[1, 3, 5], [1, 0, 2]]
    assert fork_points(mask, entropy) == fork_points(mask, entropy, torch.ones(2, 6))
    # token 1 has become less likely, token 3 likelier: 3 leads, the rest follows by entropy
    omega = torch.tensor([[1.0, 0.8, 1.0, 1.2, 1.0, 1.0], [1.0] * 6])
    assert fork_points(mask, entropy, omega, k=3)[0] == [3, 1, 5]
    candidates = torch.tensor([[True, True, True, False, True, True]] * 2)
    assert fork_points(mask, entropy, omega, k=1, candidates=candidates) == [[1], [1]]


def test_fork_points_is_score_then_candidates_then_choice(data):
    new, old, mask, entropy = data
    omega = future_value(new, old, mask, 32)
    fit = torch.rand(B, T, generator=torch.Generator().manual_seed(1)) < 0.5
    score, above = (f(entropy, omega, mask) for f in (branching_score, both_above_average))
    wanted = choose_branch_points(score, mask & fit, 20, above, entropy)
    assert fork_points(mask.int(), entropy, omega, 20, fit) == wanted
    # numbers in tool results and padding are never read
    wild = torch.where(mask, entropy, math.nan), torch.where(mask, omega, math.nan)
    assert fork_points(mask, *wild, 20, fit) == wanted


def test_fork_points_chosen_by_hand_are_checked():
    mask = torch.tensor([[1, 1, 0, 0, 1, 0], [1, 1, 1, 1, 0, 0]])
    # the first token after a result is the policy's
    assert fork_points(mask, points=[[4, 1], [0, 0]]) == [[4, 1], [0, 0]]
    for wrong in (2, 3, 5, 6, -1):
        with pytest.raises(ValueError, match=rf"\(row, token\) in \[\(0, {wrong}\)\]"):
            fork_points(mask, points=[[4, wrong], [1]])
    with pytest.raises(ValueError, match=r"in \[\(0, 2\), \(1, 5\)\]"):
        fork_points(mask, points=[[2], [1, 5]])
    with pytest.raises(ValueError, match=r"points of 1 rows, but a mask .2, 6."):
        fork_points(mask, points=[[1]])
    with pytest.raises(ValueError, match="needs entropy"):
        fork_points(mask)
    with pytest.raises(ValueError, match="shapes differ, .*candidates .2, 5."):
        fork_points(mask, torch.rand(2, 6), candidates=mask[:, 1:])
