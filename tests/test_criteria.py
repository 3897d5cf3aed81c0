"""support/criteria.py: orders worked out by hand, the one rule of fallback, Eq. 5 as it was."""

import dataclasses
import math
import statistics

import pytest
import torch
from conftest import CONFIG, one_step
from test_appo import scored

import appo
from advantage import scale_by_future
from branching import both_above_average, branching_score, choose_branch_points
from config import Config, read_settings
from extras.world.decisions import decisions
from rollout import Rollout
from support.criteria import CRITERIA, Tokens, ranked
from support.seeds import BRANCHES, mix_seed, uniform

# two results: at 3 and at 6
MASK = [True, True, True, False, True, True, False, True, True, True]
ENTROPY = [0.1, 0.9, 0.2, 5.0, 0.5, 0.4, 5.0, 0.3, 0.6, 0.7]
OMEGA = [1.0, 1.1, 0.7, 1.0, 1.3, 0.9, 1.0, 1.0, 1.05, 0.95]
BY_ENTROPY = [1, 9, 8, 4, 5, 7, 2, 0]
READ_OMEGA = ("score", "sum", "omega", "abs_omega")


def named(criterion, **other):
    return dataclasses.replace(CONFIG, criterion=criterion, **other)


def by_hand(entropy=ENTROPY, omega=OMEGA, seeds=(7,)):
    rows = [Rollout([1], seed, ids=[2] * len(MASK), mask=MASK) for seed in seeds]
    same = [torch.tensor([x] * len(rows)) for x in (entropy, omega, MASK)]
    return Tokens(rows, [], *same)


def order(tokens, config):
    """All policy tokens of the first rollout, best first."""
    scores, preferred, top_up = ranked(tokens, config)
    return choose_branch_points(scores, tokens.mask, len(MASK), preferred, top_up)[0]


@pytest.mark.parametrize(
    "criterion, wanted",
    [
        ("entropy", BY_ENTROPY),
        ("omega", [4, 1, 8, 0, 7, 9, 5, 2]),
        ("abs_omega", [2, 4, 5, 1, 9, 8, 0, 7]),
        ("boundary", [4, 7, 1, 9, 8, 5, 2, 0]),
        ("turn", [7, 4, 1, 9, 8, 5, 2, 0]),
        ("late", [9, 8, 1, 4, 5, 7, 2, 0]),
    ],
)
def test_orders_by_hand(criterion, wanted):
    assert order(by_hand(), named(criterion)) == wanted


def test_sum_is_half_of_each_z_score():
    own = [t for t, policy in enumerate(MASK) if policy]

    def z(values):
        mean, std = statistics.fmean(values), statistics.pstdev(values)
        return [(x - mean) / std for x in values]

    entropy = z([ENTROPY[t] for t in own])
    omega = z([min(max(OMEGA[t], 0.8), 1.2) for t in own])
    scores, preferred, _ = ranked(by_hand(), named("sum"))
    assert scores[0, own].tolist() == pytest.approx(
        [(a + b) / 2 for a, b in zip(entropy, omega)], abs=1e-6
    )
    assert preferred is None and not scores[0, [3, 6]].any()


def test_random_is_of_the_rollouts_seed_alone():
    tokens = by_hand(seeds=(7, 8, 7))
    scores, _, _ = ranked(tokens, named("random"))
    assert torch.equal(scores[0], scores[2]) and not torch.equal(scores[0], scores[1])
    other = ranked(by_hand([1.0] * 10, [2.0] * 10), named("random"))[0]
    assert torch.equal(scores[:1], other) and (scores[0] > 0).tolist() == MASK


@pytest.mark.parametrize("criterion", READ_OMEGA)
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_where_omega_is_constant_entropy_ranks(criterion, noise):
    omega = [1 + noise * t for t in range(10)]
    assert order(by_hand(omega=omega), named(criterion)) == BY_ENTROPY


def test_the_first_token_is_no_boundary():
    """Not even of a rollout that ends with a result."""
    tokens = by_hand()
    tokens.mask[0, 9] = False
    assert ranked(tokens, named("boundary"))[1][0].nonzero()[:, 0].tolist() == [4, 7]


@pytest.mark.parametrize("criterion", [c for c in CRITERIA if c != "oracle"])
def test_where_nothing_varies_a_draw_ranks_within_what_is_preferred(criterion):
    tokens = by_hand(entropy=[0.5] * 10, omega=[1.0] * 10)
    draw = order(tokens, named("random"))
    assert draw != sorted(draw)
    first = {"boundary": [4, 7], "turn": [4, 7], "late": [8, 9]}.get(criterion, [])
    found = order(tokens, named(criterion))
    ahead = found[: len(first)]
    assert set(ahead) == set(first)
    assert ahead == ([7, 4] if criterion == "turn" else [t for t in draw if t in first])
    assert found[len(first) :] == [t for t in draw if t not in first]


@pytest.mark.parametrize("prefer_positive", [True, False])
def test_the_default_is_equation_5(prefer_positive):
    """Bit for bit: branching.py's functions, random where entropy does not vary."""
    draw = torch.Generator().manual_seed(3)
    entropy, omega = torch.rand((6, 40), generator=draw), torch.rand((6, 40), generator=draw) + 0.5
    mask = torch.rand((6, 40), generator=draw) < 0.8
    entropy[2], omega[3], entropy[4], omega[4] = 0.5, 1.0, 0.7, 1.0
    rows = [Rollout([1], seed, ids=[0] * 40, mask=m.tolist()) for seed, m in enumerate(mask)]
    scores = branching_score(entropy, omega, mask)
    flat = torch.tensor([[row in (2, 4)] for row in range(6)])
    for row in (2, 4):
        seed = torch.full((40,), mix_seed(row, BRANCHES))
        scores[row] = mask[row] * uniform(seed, torch.arange(40)).to(scores)
    above = both_above_average(entropy, omega, mask) | flat if prefer_positive else None
    config = named("score", prefer_positive=prefer_positive)
    found, preferred, top_up = ranked(Tokens(rows, [], entropy, omega, mask), config)
    assert torch.equal(found, scores)
    assert (preferred is None) if above is None else torch.equal(preferred, above)
    points = choose_branch_points(scores, mask, 40, above, entropy if prefer_positive else None)
    assert choose_branch_points(found, mask, 40, preferred, top_up) == points


def test_the_oracle_finds_the_decisions_of_a_policy(agent, rollouts):
    _, mine = rollouts
    appo.set_omega(scored(agent, mine), CONFIG)
    points = appo.decision_points(agent, mine, named("oracle", branches=4))
    hits = 0
    for r, places in zip(mine, points):
        allowed = appo.candidates(agent, r, CONFIG)
        known = decisions([agent.text[i] for i in r.ids], r.mask)
        known = sorted((t for t in known if allowed[t]), key=lambda t: -r.entropy[t])
        assert places[: len(known)] == known[:4] and len(places) == 4
        hits += len(known)
    assert hits > 2 * len(mine)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["oracle", pytest.param("random", marks=pytest.mark.slow)])
def test_a_step(agent, tools, prompts, criterion):
    config = named(criterion, prompts=4, minibatch=2, initial=2, branches=2)
    before = [p.clone() for p in agent.model.parameters()]
    metrics, rollouts = one_step(agent, tools, prompts, config)
    assert all(math.isfinite(v) for v in metrics.values()) and metrics["branches"] == 16
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.model.parameters()))


def test_settings_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--criterion late is for --algo appo, ahead and deep"):
        read_settings(["--algo", "grpo", "--criterion", "late"])
    data = tmp_path / "train.jsonl"
    with pytest.raises(ValueError, match="--criterion oracle knows where bundled worlds"):
        Config(criterion="oracle", data=str(data))
    with pytest.raises(ValueError, match="--criterion oracle knows where bundled worlds"):
        Config(criterion="oracle", data=str(data), algo="deep", depth=2)
    (tmp_path / "mode.json").write_text("{}")
    with pytest.raises(ValueError, match="and --protocol hermes"):
        Config(criterion="oracle", data=str(data), protocol="hermes")
    assert Config(criterion="oracle", data=str(data)).criterion == "oracle"
    assert Config(criterion="oracle").criterion == "oracle"


def test_without_the_future_term_at_matched_scale():
    """--future_clip 1 1: the factor of Eq. 7 is 1 + b whatever Omega is."""
    run = read_settings(["--future_clip", "1", "1"])
    adv, omega = torch.randn(3, 50), torch.rand(3, 50) * 4
    scaled = scale_by_future(adv, omega, run.future_weight, run.future_clip)
    assert torch.equal(scaled, adv * (1 + run.future_weight))
