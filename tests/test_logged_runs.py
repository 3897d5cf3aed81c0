"""support/logged_runs.py: groups, bands, axes, alarms, the sentence, against hand-made metrics."""

import math

import pytest
from report_parts import step_row, write_run

from support.logged_runs import (
    alarm_spans,
    cold_start,
    comparison,
    curves_of,
    group_runs,
    headline,
    opening,
    read_run,
)


def made(tmp_path, name, metrics, **config):
    return read_run(write_run(tmp_path / name, metrics, config={"seed": 0, "steps": 2} | config))


def evaluated(step, accuracy):
    return {"step": step, "eval_avg@4": accuracy, "eval_avg@4_se": 0.1, "eval_greedy": 1.0}


def test_a_step_and_its_evaluation_are_one_row(tmp_path):
    run = made(tmp_path, "a", [evaluated(0, 0.2), step_row(1, 0.5), evaluated(1, 0.7)])
    assert list(run.rows) == [0, 1]
    assert (run.rows[1]["reward"], run.rows[1]["eval_avg@4"]) == (0.5, 0.7)


def test_runs_that_differ_only_in_seed_are_one_group(tmp_path):
    def of(name, seed, **more):
        data = f"data/world/easy-{seed}/train.jsonl"
        return made(tmp_path, name, [step_row(1, 0.1)], seed=seed, out=name, data=data, **more)

    runs = [of("a", 10, lr=1e-3), of("b", 11, lr=1e-3), of("c", 11, lr=1e-4)]
    alone = read_run(write_run(tmp_path / "d", [step_row(1, 0.1)]))
    other = read_run(write_run(tmp_path / "e", [step_row(1, 0.1)]))
    groups = group_runs([*runs, alone, other])
    assert [[run.folder.name for run in group] for group in groups] == [
        ["a", "b"], ["c"], ["d"], ["e"]
    ]  # fmt: skip


def test_another_number_than_the_seed_keeps_runs_apart(tmp_path):
    """Seed 1 is not the 1 of 10."""
    runs = [
        made(tmp_path, "a", [], seed=1, data="set-10.jsonl"),
        made(tmp_path, "b", [], seed=2, data="set-20.jsonl"),
    ]
    assert len(group_runs(runs)) == 2


def test_the_seed_s_digit_in_the_name_of_a_model_is_no_seed(tmp_path):
    def of(name, seed, model):
        return made(tmp_path, name, [step_row(1, 0.1)], seed=seed, model=model)

    three = [of(str(seed), seed, "Qwen/Qwen2.5-1.5B") for seed in (1, 2, 5)]
    assert len(group_runs(three)) == 1
    assert len(group_runs([of("a", 7, "Qwen2.5-7B"), of("b", 3, "Qwen2.5-3B")])) == 2


def test_bands_are_mean_lowest_and_highest_over_common_steps(tmp_path):
    rewards = {"a": [0.1, 0.5, 0.9], "b": [0.3, 0.6], "c": [0.8, 0.7, 0.2]}
    runs = [
        made(tmp_path, name, [step_row(k + 1, x) for k, x in enumerate(values)], seed=name)
        for name, values in rewards.items()
    ]
    group = curves_of(runs)
    assert group["axis"]["step"] == [1, 2], "b has two steps"
    band = group["curves"]["reward"]
    assert band["mean"] == pytest.approx([0.4, 0.6])
    assert band["low"] == [0.1, 0.5] and band["high"] == [0.8, 0.7]
    assert list(curves_of(runs[:1])["curves"]["reward"]) == ["mean"]


def test_a_run_that_has_not_begun_takes_nothing_from_its_group(tmp_path):
    runs = [made(tmp_path, "a", [step_row(1, 0.5)]), made(tmp_path, "b", [])]
    assert curves_of(runs)["curves"]["reward"]["mean"] == [0.5]


def test_axes_are_sums_over_all_steps(tmp_path):
    rows = [evaluated(0, 0.1)] + [step_row(k, 0.5) for k in (1, 2)]
    runs = [made(tmp_path, "a", rows)]
    runs += [made(tmp_path, "b", [rows[0], *(row | {"seconds": 4.0} for row in rows[1:])])]
    axis = curves_of(runs)["axis"]
    assert axis == {"step": [0, 1, 2], "tokens": [0, 100, 200], "seconds": [0, 3.0, 6.0]}


def test_long_curves_are_thinned_and_keep_evaluations_and_sums(tmp_path):
    rows = [step_row(k, 0.5) for k in range(1, 1001)]
    run = made(tmp_path, "a", rows + [evaluated(333, 0.4)])
    axis = curves_of([run])["axis"]
    assert len(axis["step"]) <= 401 and axis["step"][-1] == 1000 and 333 in axis["step"]
    assert axis["tokens"][-1] == 100_000 and axis["tokens"][axis["step"].index(333)] == 33_300


def test_numbers_that_are_missing_or_not_finite(tmp_path):
    rows = [step_row(1, 0.5, loss=math.nan), step_row(2, 0.6, loss=0.25, note="x")]
    curves = curves_of([made(tmp_path, "a", rows)])["curves"]
    assert curves["loss"]["mean"] == [None, 0.25] and "note" not in curves


def test_rows_that_are_none_are_left_out(tmp_path):
    run = made(tmp_path, "a", [{"step": None}, {"step": "x", "reward": 1}, step_row(1, 0.5)])
    assert list(run.rows) == [1]


def test_small_numbers_keep_their_digits(tmp_path):
    run = made(tmp_path, "a", [step_row(1, 0.5, sampler_gap=6.318092e-06)])
    assert curves_of([run])["curves"]["sampler_gap"]["mean"] == [6.3181e-06]


def said(run):
    return headline([run], curves_of([run]))


def test_the_sentence(tmp_path):
    rewards = [step_row(1, 0.25), step_row(2, 0.125)]
    whole = made(tmp_path, "a", [evaluated(0, 0.2), *rewards, evaluated(2, 0.75)])
    assert said(whole) == (
        "Held-out accuracy rose from 0.200 at step 0 to 0.750 at step 2; 2 of 2 steps are done."
    )
    going = made(tmp_path, "b", [evaluated(0, 0.2), *rewards], steps=9)
    assert said(going) == (
        "Mean reward fell from 0.250 at step 1 to 0.125 at step 2; 2 of 9 steps are done."
    )
    begun = made(tmp_path, "c", [evaluated(0, 0.2)])
    assert said(begun) == "Held-out accuracy is 0.200 at step 0; 0 of 2 steps are done."
    assert said(made(tmp_path, "d", [])) == "Nothing is logged yet."
    own = [{"step": k, "eval_reward": 3.0} for k in (0, 2)]
    assert said(made(tmp_path, "e", own)).startswith("Held-out reward stayed from 3.000")


def test_a_reward_is_the_mean_of_five_steps(tmp_path):
    """One step's reward is noise."""
    rows = [step_row(k, reward) for k, reward in enumerate([0.0, 0.5] * 5 + [1.0] * 6, 1)]
    assert said(made(tmp_path, "a", rows, steps=16)).startswith(
        "Mean reward rose from 0.200 at steps 1 to 5 to 1.000 at steps 12 to 16; 16 of 16"
    )


def test_the_sentence_of_several(tmp_path):
    first = made(tmp_path, "a", [evaluated(0, 0.2), evaluated(2, 0.75)])
    second = made(tmp_path, "b", [evaluated(0, 0.4), evaluated(2, 0.25)], seed=1)
    both = headline([first, second], curves_of([first, second]))
    assert "from 0.300 at step 0 to 0.500 at step 2, mean of 2 runs" in both
    third = made(tmp_path, "c", [step_row(1, 0.25), step_row(2, 0.5)], lr=3)
    groups = {"a": curves_of([first]), "c": curves_of([third])}
    assert comparison(groups) == "Last numbers: held-out accuracy 0.750 (a); mean reward 0.500 (c)."


def test_the_first_curve_needs_three_points(tmp_path):
    rewards = [step_row(1, 0.25), step_row(2, 0.125)]
    two = made(tmp_path, "a", [evaluated(0, 0.2), *rewards, evaluated(2, 0.75)])
    assert opening(curves_of([two])["curves"]) == "reward"
    three = made(tmp_path, "b", [evaluated(0, 0.2), *rewards, evaluated(1, 0.5), evaluated(2, 1.0)])
    assert opening(curves_of([three])["curves"]) == "eval_avg@4"
    assert opening(curves_of([made(tmp_path, "c", [evaluated(0, 0.2)])])["curves"]) == "eval_avg@4"


def test_alarms_of_steps_in_a_row_are_one(tmp_path):
    rows = [step_row(k, 0.1) for k in range(1, 7)]
    for step in (2, 3, 5):
        rows[step - 1]["alarms"] = ["cut off"]
    rows[2]["alarms"].append("collapsed")
    run = made(tmp_path, "a", rows)
    spans = [(s["first"], s["last"], s["text"]) for s in alarm_spans(run.alarms, list(run.rows))]
    assert spans == [(2, 3, "cut off"), (3, 3, "collapsed"), (5, 5, "cut off")]


def test_a_cold_start(tmp_path):
    run = made(tmp_path, "a", [])
    assert cold_start(run.folder) == {"step": [], "loss": []}
    lines = '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 1.25}\n{"step": 3, "lo'
    (run.folder / "cold_start.jsonl").write_text(lines)
    assert cold_start(run.folder) == {"step": [1, 2], "loss": [2.5, 1.25]}


def test_folders_that_hold_no_run(tmp_path):
    with pytest.raises(ValueError, match="none is not a folder: give the --out of a run"):
        read_run(tmp_path / "none")
    with pytest.raises(ValueError, match=f"{tmp_path} holds no metrics.jsonl"):
        read_run(tmp_path)
