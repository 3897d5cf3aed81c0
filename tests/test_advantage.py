"""advantage.py against hand calculations, finite differences and the identities that tie it to GRPO
and REINFORCE.
"""

import math

import pytest
import torch

from advantage import (
    dual_group_advantage,
    group_advantage,
    low_variance_kl,
    policy_loss,
    scale_by_future,
)

f64 = torch.float64
NO = torch.zeros(0, dtype=torch.long)


def tensor(*values):
    return torch.tensor(values, dtype=f64)


# ---- group_advantage


def test_group_advantage_by_hand():
    z = group_advantage(tensor(1, 0, 0, 1))
    torch.testing.assert_close(z, tensor(1, -1, -1, 1) * (0.5 / (0.5 + 1e-6)), atol=1e-15, rtol=0)
    # 1.155 apart at N = 4
    assert group_advantage(tensor(1, 0, 0, 1), correction=1)[0].item() == pytest.approx(
        0.5 / (math.sqrt(1 / 3) + 1e-6)
    )


@pytest.mark.parametrize("dtype", [torch.float32, f64])
@pytest.mark.parametrize("rewards", [[], [0.3], [-1, -1, -1, -1], [1.1] * 7, [0.1] * 3])
def test_group_advantage_without_variance_is_exactly_zero(rewards, dtype):
    z = group_advantage(torch.tensor(rewards, dtype=dtype))
    assert z.shape == (len(rewards),) and (z == 0).all()


def test_group_advantage_shift_scale_mean():
    R = torch.rand(9, dtype=f64)
    z = group_advantage(R)
    assert abs(z.mean()) < 1e-12
    torch.testing.assert_close(group_advantage(R + 5), z, atol=1e-12, rtol=0)
    # up to the 1e-6
    torch.testing.assert_close(group_advantage(100 * R), z, atol=1e-4, rtol=0)


def test_group_advantage_without_scale_is_the_distance_from_the_mean():
    group = torch.tensor([0, 1, 0, 1, 1, 2])
    z = group_advantage(tensor(1, 5, 0, 5, 2, 9), group=group, scale=False)
    torch.testing.assert_close(z, tensor(0.5, 1, -0.5, 1, -2, 0), atol=1e-15, rtol=0)
    # three times 0.1 have a mean beside 0.1
    assert (group_advantage(tensor(0.1, 0.1, 0.1), scale=False) == 0).all()


# ---- dual_group_advantage


def example(how="avg", branch=(1.0, 0.0, 0.0), correction=0):
    """Two initial rollouts of 6 and 5 tokens, token 2 of the first a tool result;
    branches: two from rollout 0 (sharing 4 and 2 tokens), one from rollout 1 (3).
    """
    mask = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 0]], dtype=torch.bool)
    return dual_group_advantage(
        tensor(1, 0),
        torch.tensor(branch, dtype=f64),
        torch.tensor([0, 0, 1]),
        torch.tensor([4, 2, 3]),
        mask,
        how,
        correction,
    ), mask


def test_dual_avg_by_hand():
    A, _ = example()
    zi = 0.5 / (0.5 + 1e-6)
    s = math.sqrt(2 / 9) + 1e-6
    up, down = (2 / 3) / s, (-1 / 3) / s
    both = (zi + (up + down) / 2) / 2
    torch.testing.assert_close(
        A[0], tensor(both, both, 0, (zi + up) / 2, zi, zi), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(
        A[1], tensor(*[(-zi + down) / 2] * 3, -zi, -zi, 0), atol=1e-12, rtol=0
    )


def test_dual_sum_literal_off_by_hand():
    zi, s = 0.5 / (0.5 + 1e-6), math.sqrt(2 / 9) + 1e-6
    up, down = (2 / 3) / s, (-1 / 3) / s
    A, _ = example("sum")
    torch.testing.assert_close(
        A[0], tensor(*[zi + (up + down) / 2] * 2, 0, zi + up, zi, zi), atol=1e-12, rtol=0
    )
    A, mask = example("literal")
    expected = (tensor(zi, -zi) + tensor((1 - 1 / 3) / s, (0 - 1 / 3) / s)) / 2
    # the same along every rollout
    torch.testing.assert_close(A, expected[:, None] * mask, atol=1e-12, rtol=0)
    A, _ = example("off")
    # one group 1 0 1 0 0: mean .4, variance .24
    s = math.sqrt(0.24) + 1e-6
    hi, lo = 0.6 / s, -0.4 / s
    torch.testing.assert_close(
        A[0], tensor(*[(hi + (hi + lo) / 2) / 2] * 2, 0, (hi + hi) / 2, hi, hi), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("how", ["avg", "sum", "literal", "off"])
@pytest.mark.parametrize("correction", [0, 1])
def test_dual_without_branches_is_grpo(how, correction):
    R, mask = torch.rand(4, dtype=f64), torch.rand(4, 9) < 0.7
    A = dual_group_advantage(R, tensor(), NO, NO, mask, how, correction)
    assert torch.equal(A, group_advantage(R, correction)[:, None] * mask)


def test_dual_with_equal_branches():
    """Branches without variance say nothing:
    the sum keeps the initial credit, the average halves it on covered tokens.
    """
    (avg, mask), (total, _) = example("avg", (1, 1, 1)), example("sum", (1, 1, 1))
    initial = group_advantage(tensor(1, 0))[:, None] * mask
    torch.testing.assert_close(total, initial, atol=0, rtol=0)
    covered = torch.arange(6) < torch.tensor([[4], [3]])
    torch.testing.assert_close(avg, torch.where(covered, initial / 2, initial), atol=0, rtol=0)


@pytest.mark.parametrize("how", ["avg", "sum", "literal", "off"])
def test_dual_no_variance_anywhere_is_exactly_zero(how):
    mask = torch.ones(3, 5, dtype=torch.bool)
    for reward in (-1.0, 1.1):
        A = dual_group_advantage(
            torch.full((3,), reward),
            torch.full((2,), reward),
            torch.tensor([0, 2]),
            torch.tensor([2, 4]),
            mask,
            how,
        )
        assert (A == 0).all()


def test_dual_groups_of_one():
    def one(how):
        return dual_group_advantage(
            tensor(0.5),
            tensor(0.7),
            torch.tensor([0]),
            torch.tensor([2]),
            torch.ones(1, 5, dtype=torch.bool),
            how,
        )

    for how in ("avg", "sum", "literal"):
        assert (one(how) == 0).all()
    # one group of .5 and .7
    z = 0.1 / (0.1 + 1e-6)
    torch.testing.assert_close(one("off"), tensor(0, 0, -z, -z, -z)[None], atol=1e-9, rtol=0)


def test_branch_credit_touches_exactly_the_shared_prefix():
    A, mask = example()
    # the two branches of rollout 0 swap rewards: the group's statistics stay
    B, _ = example(branch=(0.0, 1.0, 0.0))
    changed = (A - B).abs() > 1e-12
    assert changed.tolist() == [[False, False, False, True, False, False], [False] * 6]
    assert (A[~mask] == 0).all()


def test_dual_errors():
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="how must be"):
        dual_group_advantage(tensor(1, 0), tensor(), NO, NO, mask, "mean")
    with pytest.raises(ValueError, match="parent must be in 0..1"):
        dual_group_advantage(tensor(1, 0), tensor(1), torch.tensor([2]), torch.tensor([1]), mask)
    with pytest.raises(ValueError, match=r"rewards .2,. need a mask of .N, T., got .1, 3."):
        dual_group_advantage(tensor(1, 0), tensor(), NO, NO, mask[:1])


# ---- batches of several prompts


def test_group_by_hand():
    """Rewards 1 0 of one prompt and 2 8 of another: one standard deviation from their means."""
    rewards, group = tensor(1, 2, 0, 8), torch.tensor([7, -3, 7, -3])
    near, far = 0.5 / (0.5 + 1e-6), 3 / (3 + 1e-6)
    z = group_advantage(rewards, group=group)
    torch.testing.assert_close(z, tensor(near, -far, -near, far), atol=1e-15, rtol=0)
    # a branch of each: groups of one say nothing, and halve the credit of the tokens they share
    A = dual_group_advantage(
        rewards,
        tensor(5, 6),
        torch.tensor([0, 3]),
        torch.tensor([1, 2]),
        torch.ones(4, 2),
        group=group,
    )
    wanted = [[near / 2, near], [-far, -far], [-near, -near], [far / 2, far / 2]]
    torch.testing.assert_close(A, tensor(*wanted), atol=1e-12, rtol=0)


@pytest.mark.parametrize("how", ["avg", "sum", "literal", "off"])
@pytest.mark.parametrize("seed", range(8))
def test_a_batch_of_prompts_equals_one_call_for_each(how, seed):
    """Prompts in any order, of any size, with any numbers, some without branches."""
    g = torch.Generator().manual_seed(seed)
    N, K, T, correction = 20, 30, 9, seed % 2
    group = torch.tensor([40, -1, 7, 3, 12])[torch.randint(5, (N,), generator=g)]
    # the prompt 40 has no branches
    parents = (group != 40).nonzero()[:, 0]
    parent = parents[torch.randint(len(parents), (K,), generator=g)]
    rewards = torch.randint(3, (N,), generator=g).to(f64)
    branch_rewards = torch.randint(3, (K,), generator=g).to(f64)
    fork_at = torch.randint(T + 1, (K,), generator=g)
    mask = torch.rand(N, T, generator=g) < 0.7
    A = dual_group_advantage(rewards, branch_rewards, parent, fork_at, mask, how, correction, group)
    z = group_advantage(rewards, correction, group)
    for number in group.unique():
        rows, forks = group == number, group[parent] == number
        place = rows.cumsum(0) - 1
        alone = dual_group_advantage(
            rewards[rows],
            branch_rewards[forks],
            place[parent[forks]],
            fork_at[forks],
            mask[rows],
            how,
            correction,
        )
        torch.testing.assert_close(A[rows], alone, atol=1e-12, rtol=0)
        assert torch.equal(z[rows], group_advantage(rewards[rows], correction))
    assert not torch.equal(
        A, dual_group_advantage(rewards, branch_rewards, parent, fork_at, mask, how, correction)
    ), "one group for all is another thing"


def test_other_prompts_change_nothing():
    """Rewards of one prompt that move leave the credit of the others, bit for bit."""
    group, parent = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 2])
    fork_at, mask = torch.tensor([3, 2, 4]), torch.ones(4, 5)

    def credit(other):
        rewards, branch = tensor(1, other, 0, 2), tensor(0, other, 1)
        return dual_group_advantage(rewards, branch, parent, fork_at, mask, "off", group=group)

    before, after = credit(1.0), credit(50.0)
    assert torch.equal(before[0::2], after[0::2]) and (before[1::2] != after[1::2]).any()


def test_group_errors():
    with pytest.raises(ValueError, match=r"rewards and group are .G,., got .2,. and .3,."):
        group_advantage(tensor(1, 0), group=torch.zeros(3))
    with pytest.raises(ValueError, match=r"rewards and group are .G,., got .1, 2. and .1, 2."):
        group_advantage(tensor(1, 0)[None])
    with pytest.raises(ValueError, match=r"got .2,. and .1,."):
        dual_group_advantage(tensor(1, 0), tensor(), NO, NO, torch.ones(2, 3), group=torch.zeros(1))


# ---- scale_by_future


def test_scale_by_future_by_hand():
    adv, omega = tensor(1, -1, 2, 0), tensor(0.5, 1.1, 3, 7)
    torch.testing.assert_close(
        scale_by_future(adv, omega, 0.5), tensor(1.5, -1.55, 2 * 1.6, 0), atol=1e-12, rtol=0
    )
    assert torch.equal(scale_by_future(adv, omega, 0.0), adv)
    assert torch.equal(scale_by_future(adv, torch.ones(4, dtype=f64), 1.0), 2 * adv)
    scaled = scale_by_future(adv, omega, 0.5, (0.8, 1.2))
    assert torch.equal(scaled.sign(), adv.sign())


def test_no_gradient_through_the_future_term():
    omega = torch.ones(3, dtype=f64, requires_grad=True)
    assert not scale_by_future(tensor(1, 2, 3), omega, 0.5).requires_grad


# ---- policy_loss


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(1)
    mask = torch.rand(6, 11, generator=g) < 0.7
    mask[:, 0] = True
    old = -torch.rand(6, 11, generator=g, dtype=f64) * 3
    logp = (old + torch.randn(6, 11, generator=g, dtype=f64) * 0.4).requires_grad_()
    adv = torch.randn(6, 11, generator=g, dtype=f64)
    return logp, old, adv, mask


def by_hand(logp, old, adv, mask, lo=0.2, hi=0.28, c=3.0):
    """Eq. 8 token by token in plain Python."""
    rows, logp = [], logp.detach()
    for n in range(len(mask)):
        terms = []
        for t in range(mask.shape[1]):
            if mask[n, t]:
                rho, A = math.exp(logp[n, t] - old[n, t]), float(adv[n, t])
                value = min(rho * A, min(max(rho, 1 - lo), 1 + hi) * A)
                terms.append(-(max(value, c * A) if A < 0 else value))
        rows.append(terms)
    return rows


def test_policy_loss_by_hand(batch):
    rows = by_hand(*batch)
    seq, _ = policy_loss(*batch)
    token, _ = policy_loss(*batch, aggregate="token-mean")
    assert seq.item() == pytest.approx(sum(sum(r) / len(r) for r in rows) / len(rows), abs=1e-12)
    assert token.item() == pytest.approx(sum(map(sum, rows)) / sum(map(len, rows)), abs=1e-12)


def test_what_the_loss_reports_by_hand(batch):
    """Shares of clipped tokens, the mean ratio, a KL estimate, all over policy tokens; float32."""
    logp, old, adv, mask = (x.detach() for x in batch)
    pairs = [
        (math.exp(logp[n, t] - old[n, t]), float(adv[n, t])) for n, t in mask.nonzero().tolist()
    ]

    def mean(number):
        return sum(number(ratio, a) for ratio, a in pairs) / len(pairs)

    want = {
        "ratio": mean(lambda ratio, a: ratio),
        "clip_low": mean(lambda ratio, a: a < 0 and ratio < 0.8),
        "clip_high": mean(lambda ratio, a: a > 0 and ratio > 1.28),
        "clip_dual": mean(lambda ratio, a: a < 0 and ratio > 1.5),
        "kl_old": mean(lambda ratio, a: ratio - 1 - math.log(ratio)),
        "adv_abs": mean(lambda ratio, a: abs(a)),
        "ratio_max": max(ratio for ratio, a in pairs),
    }
    stats = policy_loss(*batch, clip_c=1.5)[1]
    assert {name: stats[name] for name in want} == pytest.approx(want, abs=1e-6)
    assert min(want["clip_low"], want["clip_high"], want["clip_dual"]) > 0


def test_unmoved_policy_is_reinforce(batch):
    _, old, adv, mask = batch
    logp = old.clone().requires_grad_()
    loss, stats = policy_loss(logp, old, adv, mask)
    assert (
        stats["ratio"] == pytest.approx(1)
        and stats["clip_low"] == stats["clip_high"] == stats["clip_dual"] == 0
    )
    per_row = torch.where(mask, adv, 0).sum(1) / mask.sum(1)
    assert loss.item() == pytest.approx(-per_row.mean().item(), abs=1e-12)
    loss.backward()
    torch.testing.assert_close(
        logp.grad, torch.where(mask, -adv / mask.sum(1, keepdim=True) / 6, 0), atol=1e-14, rtol=0
    )


def test_gradient_by_finite_differences_and_where_it_is_zero(batch):
    logp, old, adv, mask = batch
    loss, _ = policy_loss(*batch)
    loss.backward()
    ratio = (logp - old).detach().exp()
    kink = torch.stack([(ratio - x).abs() for x in (0.8, 1.28, 3.0)]).amin(0) < 1e-3
    h = 1e-6
    for n, t in (mask & ~kink).nonzero().tolist():
        shift = torch.zeros_like(old)
        shift[n, t] = h
        slope = (
            policy_loss(logp.detach() + shift, old, adv, mask)[0]
            - policy_loss(logp.detach() - shift, old, adv, mask)[0]
        ) / (2 * h)
        assert logp.grad[n, t].item() == pytest.approx(slope.item(), abs=1e-8)
    assert (logp.grad[~mask] == 0).all()
    clipped = mask & (((adv > 0) & (ratio > 1.28)) | ((adv < 0) & (ratio < 0.8)))
    assert clipped.any() and (logp.grad[clipped] == 0).all()
    assert (logp.grad[mask & ~clipped & (ratio < 3)] != 0).all()


def test_future_term_is_frozen_in_the_gradient(batch):
    """With Omega held fixed the gradient agrees with finite differences;
    letting Omega follow the log-probs it must not.
    """
    from branching import future_value

    _, old, adv, mask = batch
    logp = (old + 0.02).requires_grad_()
    omega = future_value(logp.detach(), old, mask, 8)

    def whole(x, o):
        return policy_loss(x, old, scale_by_future(adv, o, 1.0, (1e-3, 1e3)), mask)[0]

    whole(logp, future_value(logp, old, mask, 8)).backward()
    shift = torch.zeros_like(old)
    n, t = 0, int(mask[0].nonzero()[-1])
    shift[n, t] = h = 1e-6
    frozen = (whole(logp.detach() + shift, omega) - whole(logp.detach() - shift, omega)) / (2 * h)
    free = (
        whole(logp.detach() + shift, future_value(logp.detach() + shift, old, mask, 8))
        - whole(logp.detach() - shift, future_value(logp.detach() - shift, old, mask, 8))
    ) / (2 * h)
    assert logp.grad[n, t].item() == pytest.approx(frozen.item(), abs=1e-8)
    assert abs(logp.grad[n, t].item() - free.item()) > 1e-4


@pytest.mark.parametrize("aggregate", ["seq-mean", "token-mean"])
def test_any_split_into_micro_batches_gives_the_same_gradient(batch, aggregate):
    logp, old, adv, mask = batch
    total = 6 if aggregate == "seq-mean" else int(mask.sum())
    whole = torch.autograd.grad(policy_loss(*batch, aggregate=aggregate)[0], logp)[0]
    for cuts in ([6], [1] * 6, [4, 2], [1, 5]):
        parts = zip(*(x.split(cuts) for x in (logp, old, adv, mask)))
        loss = sum(policy_loss(*part, aggregate=aggregate, total=total)[0] for part in parts)
        torch.testing.assert_close(torch.autograd.grad(loss, logp)[0], whole, atol=1e-15, rtol=0)


def test_weight_of_a_long_rollout():
    """seq-mean: repeating a rollout's tokens does not change its weight;
    token-mean: weight grows with length.
    """
    old, adv = torch.zeros(2, 4, dtype=f64), torch.ones(2, 4, dtype=f64)
    logp = torch.zeros(2, 4, dtype=f64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)

    def weight(how):
        return torch.autograd.grad(policy_loss(logp, old, adv, mask, aggregate=how)[0], logp)[
            0
        ].sum(1)

    torch.testing.assert_close(weight("seq-mean"), tensor(-0.5, -0.5))
    torch.testing.assert_close(weight("token-mean"), tensor(-0.8, -0.2))


def test_extreme_ratios_and_masked_rubbish_stay_finite():
    mask = torch.tensor([[True, True, True, True, False]])
    logp = torch.tensor([[100.0, -100.0, 100.0, -100.0, math.nan]], requires_grad=True)
    adv = torch.tensor([[1.0, 1.0, -1.0, -1.0, math.inf]])
    loss, stats = policy_loss(logp, torch.zeros(1, 5), adv, mask)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logp.grad).all() and logp.grad[0, 4] == 0
    assert loss.item() == pytest.approx((-1.28 - 0 + 3 + 0.8) / 4, abs=1e-5)
    assert all(math.isfinite(v) for v in stats.values())


def test_everything_masked():
    logp = torch.zeros(2, 3, requires_grad=True)
    for aggregate in ("seq-mean", "token-mean"):
        loss, stats = policy_loss(
            logp,
            torch.zeros(2, 3),
            torch.ones(2, 3),
            torch.zeros(2, 3, dtype=torch.bool),
            aggregate=aggregate,
        )
        loss.backward()
        assert loss.item() == 0 and stats["tokens"] == 0 and (logp.grad == 0).all()


def test_an_unknown_aggregate_is_refused():
    rows, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="aggregate"):
        policy_loss(rows, rows, rows, mask, aggregate="mean")


def test_low_variance_kl_is_unbiased():
    p, q = torch.tensor([0.5, 0.3, 0.2], dtype=f64), torch.tensor([0.2, 0.3, 0.5], dtype=f64)
    estimate = low_variance_kl(p.log(), q.log())
    assert (estimate >= 0).all() and (low_variance_kl(p.log(), p.log()) == 0).all()
    assert (p * estimate).sum().item() == pytest.approx((p * (p / q).log()).sum().item(), abs=1e-12)
    logp = p.log().requires_grad_()
    with_kl = policy_loss(
        logp[None],
        p.log()[None],
        torch.zeros(1, 3, dtype=f64),
        torch.ones(1, 3, dtype=torch.bool),
        logp_ref=q.log()[None],
        kl_coef=0.1,
    )[0]
    assert with_kl.item() == pytest.approx(0.1 * estimate.mean().item(), abs=1e-12)


def test_no_branches_and_b_zero_is_grpo(batch):
    """The whole chain of the credit with B = 0 and b = 0 against GRPO written out."""
    logp, old, _, mask = batch
    R = torch.rand(6, dtype=f64)
    adv = scale_by_future(
        dual_group_advantage(R, tensor(), NO, NO, mask), torch.rand(6, 11, dtype=f64), b=0.0
    )
    grpo = ((R - R.mean()) / (R.std(correction=0) + 1e-6))[:, None].expand(6, 11)
    expected = sum(sum(r) / len(r) for r in by_hand(logp, old, grpo, mask)) / 6
    assert policy_loss(logp, old, adv, mask)[0].item() == pytest.approx(expected, abs=1e-12)


# ---- the baselines' losses


def test_a_surrogate_of_ones_own_replaces_the_clipped_loss(batch):
    """It gets the ratio, its bounds and the dual clip; masks and means stay policy_loss'."""
    logp, old, adv, mask = batch

    def surrogate(logp, ratio, A, bounds, clip_c):
        assert bounds == (1 - 0.1, 1 + 0.3) and clip_c == 5.0
        assert (ratio[mask] - (logp - old).exp()[mask]).abs().max() < 1e-12
        return A * logp

    how = dict(clip_low=0.1, clip_high=0.3, clip_c=5.0, surrogate=surrogate)
    loss, _ = policy_loss(*batch, **how, aggregate="token-mean")
    expected = (adv * logp)[mask].sum() / mask.sum()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)


def test_dapo_without_filtering_is_grpo_with_token_mean(batch):
    """DAPO's loss is GRPO's with the token mean and a higher upper bound;
    with a symmetric clip nothing is left of the difference.
    """
    logp, old, _, mask = batch
    R = torch.rand(6, dtype=f64)
    adv = dual_group_advantage(R, tensor(), NO, NO, mask)
    grpo = ((R - R.mean()) / (R.std(correction=0) + 1e-6))[:, None].expand(6, 11)
    rows = by_hand(logp, old, grpo, mask, lo=0.2, hi=0.2, c=math.inf)
    dapo = policy_loss(
        logp, old, adv, mask, clip_low=0.2, clip_high=0.2, clip_c=math.inf, aggregate="token-mean"
    )[0]
    assert dapo.item() == pytest.approx(sum(map(sum, rows)) / sum(map(len, rows)), abs=1e-12)


def test_a_loss_of_one_row_without_a_batch_axis_is_refused():
    row = torch.zeros(4)
    with pytest.raises(ValueError, match=r"are \(R, T\), got \(4,\)"):
        policy_loss(row, row, row, torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize("aggregate", ["seq-mean", "token-mean"])
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_a_loss_of_nothing_is_0(aggregate, shape):
    empty = torch.zeros(shape)
    loss, stats = policy_loss(empty, empty, empty, empty.bool(), aggregate=aggregate)
    assert loss == 0 and stats["tokens"] == 0 and all(x == x for x in stats.values())
