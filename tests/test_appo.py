"""appo.py against an independent GRPO, closed forms and its own bookkeeping."""

import copy
import dataclasses
import gc
import math

import pytest
import torch
from conftest import (
    CONFIG,
    judge,
    one_step,
    prompts_for,
    sampler_for,
    snapshot,
)
from test_policy import of_lengths

import appo
from advantage import policy_loss
from kv_cache import KVCache
from policy import Policy
from rollout import Rollout
from sampling import Sampler
from support.schedule import split_minibatches
from support.seeds import mix_seed


def replaced(**changes):
    return dataclasses.replace(CONFIG, **changes)


# ---- decision points


def scored(agent, rollouts):
    """Rollouts with the numbers of a policy that has not moved."""
    agent.score(rollouts, 1.0, 1024)
    for r in rollouts:
        r.logp_old = r.logp
    return rollouts


def test_candidates(agent, tokenizer):
    text = "<think> So,  use 12 times\n3 . </think><python> 12 * 3</python>"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    result = " <result>\n36\n</result><answer> \\boxed{36}</answer><|im_end|>"
    r = Rollout([1], 0, ids=ids + tokenizer(result).input_ids)
    call = r.ids.index(tokenizer.convert_tokens_to_ids("<result>")) - 1
    end = r.ids.index(tokenizer.convert_tokens_to_ids("</result>"))
    r.mask = [not call <= t <= end for t in range(len(r.ids))]
    ok = appo.candidates(agent, r, replaced(max_tokens=len(r.ids) + 1))
    names = [agent.text[i] for i in r.ids]
    assert len(ok) == len(r.ids)
    assert not ok[0] and not any(ok[call : end + 1]) and not any(ok[len(r.ids) - 2 :])
    chosen = {names[t] for t in range(len(r.ids)) if ok[t]}
    wanted = " So, use, 12,</think>,<python>, *, \\,</python>,<answer>".split(",")
    assert set(wanted) <= chosen
    assert not chosen & {",", " .", "\n", " ", "  ", "<|im_end|>", "{"}
    whole = appo.candidates(agent, r, replaced(max_tokens=len(r.ids) + 4, exclude_punct=False))
    last = max(t for t, good in enumerate(whole) if good and t < call)
    small = replaced(max_tokens=last + 4, min_new=4, exclude_punct=False)
    assert appo.candidates(agent, r, small) == [good and t <= last for t, good in enumerate(whole)]
    small = replaced(max_tokens=last + 3, min_new=4, exclude_punct=False)
    assert not appo.candidates(agent, r, small)[last], "a branch has min_new tokens to draw"
    use, pad = names.index(" use"), agent.tokenizer.pad_token_id
    padded = dataclasses.replace(r, ids=[pad if t == use else i for t, i in enumerate(r.ids)])
    assert ok[use] and not appo.candidates(agent, padded, CONFIG)[use]
    loose = appo.candidates(agent, r, replaced(exclude_punct=False))
    assert loose[names.index(",")]
    assert not loose[names.index("\n")] and not loose[len(r.ids) - 1]


def test_the_best_b_of_every_rollout(agent, rollouts):
    _, mine = rollouts
    appo.set_omega(scored(agent, mine), CONFIG)
    points = appo.decision_points(agent, mine, CONFIG)
    assert all(len(places) == 3 == len(set(places)) for places in points)
    for r, places in zip(mine, points):
        ok = appo.candidates(agent, r, CONFIG)
        assert all(ok[t] for t in places) and r.degenerate
        assert (r.omega == 1).all() and r.omega.shape == r.branching_score.shape == (len(r.ids),)
        best = sorted((t for t, good in enumerate(ok) if good), key=lambda t: -r.entropy[t])[:3]
        assert places == best, "entropy alone chooses where Omega is constant"


def test_points_of_a_rollout_without_any_variation_are_drawn_at_random(agent, rollouts):
    _, mine = rollouts
    for r in scored(agent, mine):
        r.entropy = torch.where(torch.tensor(r.mask), 0.5, 0.0)
    appo.set_omega(mine, CONFIG)
    first, again = (appo.decision_points(agent, mine, CONFIG) for _ in range(2))
    assert first == again and len({tuple(p) for p in first}) > len(first) // 2
    assert not all(sorted(p) == list(range(1, 4)) for p in first)


# ---- a step


def test_omega_is_exactly_one_in_the_first_mini_batch_and_only_there(agent, tools, prompts):
    metrics, rollouts = one_step(agent, tools, prompts)
    assert metrics["degenerate_first"] == 1 and metrics["degenerate_later"] < 0.2
    assert metrics["degenerate"] == (1 + metrics["degenerate_later"]) / 2
    initial = [r for r in rollouts if r.parent is None]
    exact = [bool((r.omega == 1).all()) for r in initial]
    assert sum(exact) == CONFIG.minibatch * CONFIG.initial
    assert metrics["optimizer_steps"] == 2
    assert metrics["branches"] == CONFIG.prompts * 4 * 3 == len(rollouts) - len(initial)
    assert metrics["tokens_trained"] == sum(sum(r.mask) for r in initial)
    assert metrics["tokens_sampled"] == sum(sum(r.mask[r.fork_at :]) for r in rollouts)
    assert metrics["computed_per_unique"] <= 1 and metrics["sampler_gap"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("why", ["no rate", "skipped"])
def test_a_policy_that_has_not_moved_has_omega_one(
    agent_folder, tools, prompts, monkeypatch, dtype, why
):
    """In later mini-batches too: logp_old and logp come from the same passes, bit for bit."""
    policy = Policy.load(str(agent_folder), dtype=dtype)
    asked = prompts_for(prompts[: CONFIG.prompts])
    if why == "skipped":
        spoil_credit(monkeypatch, set(split_minibatches(asked, CONFIG)[0]))
    rate = 0.0 if why == "no rate" else 1e-3
    config = replaced(score_half_life=math.inf)
    metrics, rollouts = one_step(policy, tools, asked, config, lr=rate)
    assert metrics["skipped"] == (0.5 if why == "skipped" else 0)
    assert metrics["degenerate_first"] == metrics["degenerate_later"] == 1
    assert all((r.omega == 1).all() for r in rollouts if r.parent is None)


def count_passes(monkeypatch):
    """Scoring passes over rollouts, from here on: how many rollouts, with a cache or not."""
    made, score = [], Policy.score

    def counted(self, rollouts, *rest, keep_cache=False):
        made.append((len(rollouts), keep_cache))
        return score(self, rollouts, *rest, keep_cache=keep_cache)

    monkeypatch.setattr(Policy, "score", counted)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("epochs, branches", [(1, 3), (2, 3), (1, 0)])
def test_scoring_passes_of_a_step(agent, tools, prompts, monkeypatch, epochs, branches):
    """Two mini-batches: each is scored once at the start, and once before each of its updates."""
    made = count_passes(monkeypatch)
    one_step(agent, tools, prompts, replaced(ppo_epochs=epochs, branches=branches))
    rollouts = CONFIG.minibatch * CONFIG.initial
    assert made == [(rollouts, False)] * 2 + [(rollouts, branches > 0)] * 2 * epochs


@pytest.mark.slow
def test_logp_old_is_that_of_the_start_and_kept_in_later_epochs(agent, tools, prompts, monkeypatch):
    before, seen, update = copy.deepcopy(agent.model), [], appo.update

    def watched(policy, optimizer, rows, *rest):
        seen.append([r.logp_old for r in rows])
        return update(policy, optimizer, rows, *rest)

    monkeypatch.setattr(appo, "update", watched)
    metrics, rollouts = one_step(agent, tools, prompts, replaced(ppo_epochs=2))
    firsts, laters = seen[:2], seen[2:]
    assert sorted(id(x) for old in laters for x in old) == sorted(
        id(x) for old in firsts for x in old
    )
    assert metrics["kl_old"] > 0
    mine = [r for r in rollouts if r.parent is None]
    kept = [r.logp_old for r in mine]
    Policy(before, agent.tokenizer).score(mine, 1.0, 1024)
    for r, old in zip(mine, kept):
        torch.testing.assert_close(old, r.logp, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("by", [0.0, 0.01])
def test_a_sampler_that_disagrees_is_noticed(agent, tools, prompts, by):
    sampler = sampler_for(agent, tools, max_tokens=CONFIG.max_tokens)
    original = sampler.initial

    def misrecorded(*arguments, **keywords):
        made = original(*arguments, **keywords)
        for r in made:
            r.sampled_logp = [x + by * own for x, own in zip(r.sampled_logp, r.mask)]
        return made

    sampler.initial = misrecorded
    metrics, _ = one_step(agent, tools, prompts, sampler=sampler)
    assert metrics["sampler_gap"] == pytest.approx(by, abs=1e-4)


@pytest.mark.slow
def test_a_step_is_reproducible(agent_folder, tools, prompts):
    results = []
    for _ in range(2):
        policy = Policy.load(str(agent_folder))
        metrics, rollouts = one_step(policy, tools, prompts)
        exact = {k: v for k, v in metrics.items() if not k.startswith(("seconds", "occupancy"))}
        weights = [p.clone() for p in policy.model.parameters()]
        results.append(([snapshot(r) for r in rollouts], exact, weights))
    assert results[0][0] == results[1][0] and results[0][1] == results[1][1]
    assert all(torch.equal(a, b) for a, b in zip(results[0][2], results[1][2]))


def test_without_branches_and_b_it_is_grpo(agent_folder, tools, prompts):
    """Two updates against GRPO written on Hugging Face's forward: parameters within 1e-6."""
    config = replaced(branches=0, future_weight=0.0)
    policy = Policy.load(str(agent_folder))
    other = copy.deepcopy(policy.model).eval()
    before = [p.clone() for p in policy.model.parameters()]
    # AdamW's first steps would turn rounding into signs
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.1)
    metrics, rollouts = one_step(policy, tools, prompts, config, optimizer=optimizer)
    assert metrics["branches"] == 0 and metrics["tokens_sampled"] == metrics["tokens_trained"]
    other.set_attn_implementation("eager")
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)

    def logp_of(r):
        logits = other(torch.tensor([r.prompt + r.ids])).logits[0, len(r.prompt) - 1 : -1]
        return torch.distributions.Categorical(logits=logits).log_prob(torch.tensor(r.ids))

    with torch.no_grad():
        old = {id(r): logp_of(r) for r in rollouts}
    for indices in split_minibatches(prompts_for(prompts[: config.prompts]), config):
        batch = [r for r in rollouts if r.group in indices]
        optimizer.zero_grad()
        for r in batch:
            R = torch.tensor([x.reward for x in batch if x.group == r.group], dtype=torch.float64)
            A = float((r.reward - R.mean()) / (R.std(correction=0) + 1e-6))
            ratio = (logp_of(r) - old[id(r)]).exp()
            surrogate = torch.minimum(ratio * A, ratio.clamp(0.8, 1.28) * A)
            if A < 0:
                surrogate = surrogate.clamp(min=3 * A)
            (-surrogate[torch.tensor(r.mask)].mean() / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        optimizer.step()
    after = list(policy.model.parameters())
    moved = max((a - b).abs().max() for a, b in zip(before, after))
    apart = max((a - b).abs().max() for a, b in zip(other.parameters(), after))
    assert moved > 1e-3 and apart < 1e-6, (moved, apart)


@pytest.mark.slow
def test_branches_without_variance_do_not_rescale_the_update(agent_folder, tools, prompts):
    """Rewards that do not vary among branches, dual="sum": the update is that of no branches."""
    results = []
    for branches in (0, 3):
        policy = Policy.load(str(agent_folder))
        config = replaced(branches=branches, future_weight=0.0, dual="sum", minibatch=4)
        asked = prompts_for(prompts[:4], lambda r: judge(r) if r.parent is None else 0.5)
        optimizer = torch.optim.SGD(policy.model.parameters(), lr=1.0)
        one_step(policy, tools, asked, config, optimizer=optimizer)
        results.append([p.clone() for p in policy.model.parameters()])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_minibatch_in_parts(agent_folder, tools, prompts):
    """With fork_tokens some prompts at a time: never more slots kept; the step is the same."""
    results = []
    for budget in (0, 1600):
        policy, caches = Policy.load(str(agent_folder)), []
        sampler = sampler_for(policy, tools, max_tokens=CONFIG.max_tokens)
        config = replaced(prompts=8, minibatch=8, fork_tokens=budget)
        branches = sampler.branches

        def watched(rollouts, points, cache, finished, kept=caches, grow=branches):
            kept.append((cache.scratch, cache.capacity))
            return grow(rollouts, points, cache, finished)

        sampler.branches = watched
        optimizer = torch.optim.SGD(policy.model.parameters(), lr=1.0)
        numbers, tree = one_step(
            policy, tools, prompts, config, optimizer=optimizer, sampler=sampler
        )
        weights = [p.detach().clone() for p in policy.model.parameters()]
        results.append((numbers, tree, weights, caches))
    (whole, tree, weights, one), (parts, tree_in_parts, weights_in_parts, few) = results
    assert [rows for rows, _ in one] == [32] and sum(rows for rows, _ in few) == 32
    assert len(few) > 1 and all(rows * slots <= 1600 or rows == 4 for rows, slots in few)
    assert [(r.ids, r.fork_at) for r in tree] == [(r.ids, r.fork_at) for r in tree_in_parts]
    for a, b in zip(weights, weights_in_parts):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    for name in whole:
        if name not in ("occupancy", "sampler_gap") and not name.startswith("seconds"):
            assert parts[name] == pytest.approx(whole[name], abs=1e-5), name
    for r, other in zip(tree, tree_in_parts):
        for name in ("logp_old", "omega", "branching_score", "advantage") * (r.parent is None):
            a, b = getattr(r, name), getattr(other, name)
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        dict(ppo_epochs=2),
        dict(dual="literal", norm="budget"),
        dict(dual="off", decay_over="policy", prefer_positive=False),
        dict(kl_coef=0.1),
    ],
)
def test_every_switch_runs(agent, tools, prompts, changes):
    config = replaced(**changes)
    if config.kl_coef:
        agent.reference = Policy(copy.deepcopy(agent.model), agent.tokenizer)
    metrics, rollouts = one_step(agent, tools, prompts, config)
    assert all(math.isfinite(v) for v in metrics.values()) and metrics["grad_norm"] > 0
    assert metrics["optimizer_steps"] == 2 * config.ppo_epochs
    assert (metrics["kl_ref"] > 0) == bool(config.kl_coef)
    branches = [r for r in rollouts if r.parent is not None]
    assert (
        len({r.seed for r in branches}) == len(branches) == CONFIG.prompts * 12 * config.ppo_epochs
    )


def test_settings_reach_omega_and_credit():
    """Half-lives, decay_over, future_clip and std_correction that are not the default, by hand."""
    r = Rollout([1], 0, ids=[2] * 3, mask=[True, False, True], reward=1.0)
    other = Rollout([1], 1, ids=[2], mask=[True])
    other.omega = torch.ones(1)
    r.logp_old, r.logp = torch.zeros(3), torch.tensor([0.0, 0.0, 0.4])
    appo.set_omega([r], replaced(half_life=1.0, score_half_life=math.inf))
    torch.testing.assert_close(r.omega.log(), torch.tensor([0.1, 0.2, 0.4]))
    torch.testing.assert_close(r.score_omega.log(), torch.tensor([0.4] * 3))
    appo.set_omega([r], replaced(half_life=1.0, decay_over="policy"))
    torch.testing.assert_close(r.omega[0].log(), torch.tensor(0.2))
    config = replaced(std_correction=1, future_weight=1.0, future_clip=(1.0, 1.0))
    appo.assign_credit([r, other], [], config)
    # half a reward above the mean, in units of the unbiased deviation, doubled by b = 1
    want = 2 * 0.5 / math.sqrt(0.5)
    torch.testing.assert_close(r.advantage, torch.tensor([want, 0.0, want]), atol=1e-4, rtol=0)


def test_settings_reach_the_loss():
    """Ratio 1.4 at a credit of 1, 0.7 at one of -1: the clips of the configuration decide."""
    r = Rollout([1], 0, ids=[2, 3], mask=[True, True])
    r.logp_old, r.advantage = torch.zeros(2), torch.tensor([1.0, -1.0])
    logp = torch.tensor([[1.4, 0.7]]).log()
    for low, high, want in ((0.2, 0.28, 1.28 - 0.8), (0.1, 0.3, 1.3 - 0.9), (0.4, 0.5, 1.4 - 0.7)):
        config = replaced(clip_low=low, clip_high=high)
        loss, _ = appo.loss_of([r], logp, 1, config, policy_loss)
        assert float(loss) == pytest.approx(-want / 2, abs=1e-6)


def test_logp_ref_is_the_references(agent, rollouts):
    """logp_old is the policy's, logp_ref that of another model."""
    mine, other = rollouts[1], copy.deepcopy(agent.model)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.02)
    agent.reference = Policy(other, agent.tokenizer)
    appo.score_start(agent, [mine], replaced(kl_coef=0.1))
    ref, old = [r.logp_ref for r in mine], [r.logp_old for r in mine]
    assert not torch.equal(ref[0], old[0])
    for policy, found in ((agent.reference, ref), (agent, old)):
        policy.score(mine, 1.0, CONFIG.micro_tokens)
        assert all(torch.equal(r.logp, x) for r, x in zip(mine, found, strict=True))


def test_a_step_at_another_temperature(agent, tools, prompts):
    """Sampled, scored and trained at 0.7: nothing has moved, so all ratios are 1."""
    rows = dict(max_tokens=CONFIG.max_tokens, decode_rows=24)
    sampler = sampler_for(agent, tools, temperature=0.7, **rows)
    config = replaced(temperature=0.7)
    metrics, _ = one_step(agent, tools, prompts, config, lr=0.0, sampler=sampler)
    assert metrics["sampler_gap"] < 1e-4 and metrics["degenerate"] == 1
    assert metrics["ratio_max"] == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_caches_are_given_back(agent, tools, prompts, monkeypatch):
    """At most one scoring cache lives, and none during an update."""
    seen, update = [], appo.update
    made, forked, new, fork = [], [], Policy._cache_for, Sampler.branches

    def alive():
        return sum(type(x) is KVCache for x in gc.get_objects())

    def watched(*arguments):
        seen.append(alive())
        return update(*arguments)

    monkeypatch.setattr(appo, "update", watched)
    monkeypatch.setattr(Policy, "_cache_for", lambda *a: made.append(alive()) or new(*a))
    monkeypatch.setattr(
        Sampler, "branches", lambda *a, **k: forked.append(alive()) or fork(*a, **k)
    )
    gc.collect()
    before = alive()
    one_step(agent, tools, prompts, replaced(fork_tokens=1))
    assert len(made) == 4 and set(made) == {before} and set(forked) == {before + 1}
    assert seen == [before] * 2


@pytest.mark.slow
def test_bfloat16(agent_folder, tools, prompts):
    """Sampler and trainer may differ by a few roundings of a logit, 1/16 each at 10; Omega still is
    exactly 1 before the first update.
    """
    policy = Policy.load(str(agent_folder), dtype="bfloat16")
    metrics, rollouts = one_step(policy, tools, prompts)
    assert metrics["sampler_gap"] < 0.5 and metrics["degenerate_first"] == 1
    assert metrics["computed_per_unique"] <= 1 and all(math.isfinite(v) for v in metrics.values())
    assert sampler_for(policy, tools).prefill(prompts[:1])[0].kv.dtype == torch.bfloat16


# ---- credit


def test_credit_of_two_prompts():
    """Against Eq. 6-7 by hand: branches in any order, prompts apart, rollouts of any length."""
    mine = [
        Rollout([1, 2], 0, group, ids=ids, mask=[i != 9 for i in ids], reward=reward)
        for group, reward, ids in (
            (5, 1.0, [3, 4, 9, 5, 6]),
            (5, 0.0, [3, 4, 5]),
            (2, 0.0, [7, 7, 7, 7]),
            (2, 0.0, [8, 8]),
        )
    ]
    # 1.00 .. 1.95
    omega = 1 + 0.05 * torch.arange(20.0).reshape(4, 5)
    for r, row in zip(mine, omega):
        r.omega = row[: len(r.ids)]
    branches = []
    for n, at, reward in ((3, 1, 1.0), (0, 4, 1.0), (2, 2, 0.0), (1, 2, 0.0), (0, 1, 0.0)):
        branches.append(mine[n].fork(at))
        branches[-1].reward = reward
    appo.assign_credit(mine, branches, replaced(future_weight=0.5))
    # branches of prompt 5: rewards 1, 0, 0; of prompt 2: 1, 0
    init, s = 0.5 / (0.5 + 1e-6), math.sqrt(2 / 9) + 1e-6
    up, down, own = (2 / 3) / s, (-1 / 3) / s, 0.5 / (0.5 + 1e-6)
    base = [
        [(init + (up + down) / 2) / 2, (init + up) / 2, 0, (init + up) / 2, init],
        [(-init + down) / 2, (-init + down) / 2, -init],
        [-own / 2, -own / 2, 0, 0],
        [own / 2, 0],
    ]
    for r, row in zip(mine, base):
        expected = torch.tensor(row) * (1 + 0.5 * r.omega.clamp(1, 1.2))
        torch.testing.assert_close(r.advantage, expected, atol=1e-5, rtol=0)
    # a branch of prompt 5 fails: nothing of prompt 2 changes
    before = [r.advantage for r in mine]
    branches[1].reward = 0.0
    appo.assign_credit(mine, branches, replaced(future_weight=0.5))
    same = [torch.equal(a, r.advantage) for a, r in zip(before, mine)]
    assert same == [False, False, True, True]


# ---- the update


class Keep(torch.optim.SGD):
    """Changes nothing and keeps the gradients it was given."""

    def step(self):
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"]]


def credited(agent, rollouts):
    """Rollouts with random advantages, for a policy that has not moved."""
    agent.score(rollouts, 1.0, 4096)
    generator = torch.Generator().manual_seed(0)
    for r in rollouts:
        r.logp_old = r.logp
        r.advantage = torch.randn(len(r.ids), generator=generator) * torch.tensor(r.mask)
    return rollouts


def gradients(policy, rollouts, config):
    optimizer = Keep(policy.model.parameters(), lr=0.0)
    appo.update(policy, optimizer, rollouts, config)
    return optimizer.seen


@pytest.mark.parametrize("aggregate", ["seq-mean", "token-mean"])
def test_gradient_does_not_depend_on_the_split_into_passes(agent, rollouts, aggregate):
    mine = credited(agent, rollouts[1])
    whole, *others = (
        gradients(agent, mine, replaced(micro_tokens=budget, aggregate=aggregate, clip_grad=1e9))
        for budget in (4096, 1, 400, 1024)
    )
    for other in others:
        for a, b in zip(whole, other):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_norm_and_kl_reach_the_gradient(agent, rollouts):
    mine, loose = credited(agent, rollouts[1]), replaced(clip_grad=1e9, micro_tokens=4096)
    init = gradients(agent, mine, loose)
    budget = gradients(agent, mine, dataclasses.replace(loose, norm="budget"))
    for a, b in zip(init, budget):
        torch.testing.assert_close(a, 4 * b, atol=1e-6, rtol=0)
    for r in mine:
        r.advantage = torch.zeros(len(r.ids))
        r.logp_ref = r.logp_old - 0.1 * torch.tensor(r.mask)
    optimizer = torch.optim.SGD(agent.model.parameters(), lr=0.0)
    config = dataclasses.replace(loose, kl_coef=0.5, micro_tokens=400)
    stats = appo.update(agent, optimizer, mine, config)
    per_token = math.exp(-0.1) - 1 + 0.1
    assert stats["loss"] == pytest.approx(0.5 * per_token, rel=1e-3)
    assert stats["kl_ref"] == pytest.approx(per_token, rel=1e-3) and stats["grad_norm"] > 0


def test_padding_of_an_update(agent):
    """1 - tokens / slots of the passes; sorted passes hold less of it than one of everything."""
    mine = credited(agent, of_lengths(20, 100, 30, 70))
    optimizer = torch.optim.SGD(agent.model.parameters(), lr=0.0)
    for budget, slots in ((448, 4 * 112), (224, 2 * 112 + 2 * 32), (1, 112 + 80 + 32 + 32)):
        stats = appo.update(agent, optimizer, mine, replaced(micro_tokens=budget))
        assert stats["padding"] == pytest.approx(1 - 220 / slots)


def spoil_credit(monkeypatch, groups):
    """Credit that is not a number, of these prompts."""
    assign = appo.assign_credit

    def spoilt(rollouts, branches, config):
        assign(rollouts, branches, config)
        for r in rollouts:
            r.advantage = r.advantage * (math.nan if r.group in groups else 1.0)

    monkeypatch.setattr(appo, "assign_credit", spoilt)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_changes_nothing(agent, tools, prompts, monkeypatch):
    spoil_credit(monkeypatch, range(CONFIG.prompts))
    before = [p.clone() for p in agent.model.parameters()]
    metrics, _ = one_step(agent, tools, prompts)
    assert metrics["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, agent.model.parameters()))


def test_seeds_of_branches_follow_their_parent():
    parent = Rollout([1], 7, ids=[1, 2, 3], mask=[True] * 3)
    parent.sampled_logp = parent.sampled_entropy = [0.0] * 3
    seeds = [parent.fork(1).seed for _ in range(3)]
    assert seeds == [mix_seed(7, 1, k) for k in (1, 2, 3)]
