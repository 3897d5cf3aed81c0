"""support/steplog.py: trees, alarms, giving up."""

import time
from types import SimpleNamespace

import pytest
import torch
from conftest import lines

from config import Config
from rollout import Rollout
from support.steplog import ADVICE, alarms, give_up, progress, step_line, tree_rows


def test_rollouts_file_holds_whole_trees(finished):
    rows = [x for x in lines(finished, "rollouts") if x["step"] == 3]
    initial, branches = (
        [x for x in rows if x["parent"] is None],
        [x for x in rows if x["parent"] is not None],
    )
    assert len(initial) == 4 and len(branches) == 12
    for x in rows:
        n = len(x["ids"])
        assert n == len(x["pieces"]) == len(x["mask"]) == len(x["logp"]) == len(x["entropy"])
        assert all(c["status"] and c["seconds"] >= 0 for c in x["calls"])
    for x in initial:
        assert (
            len(x["ids"])
            == len(x["advantage"])
            == len(x["future_value"])
            == len(x["branching_score"])
            == len(x["logp_old"])
        )
    for x in branches:
        assert (
            x["ids"][: x["fork_at"]] == rows[x["parent"]]["ids"][: x["fork_at"]]
            and rows[x["parent"]]["mask"][x["fork_at"]]
        )


def test_a_rank_without_rollouts_gives_up_like_the_others(agent, tmp_path):
    path = tmp_path / "skipped_000007_0.jsonl"
    with pytest.raises(ValueError, match="the gradients of 3 steps in a row were not finite"):
        give_up(path, agent, [], 7, 3)
    assert path.read_text() == ""


def test_alarms():
    fine = dict(
        entropy=0.5,
        zero_std=0.2,
        prompts_drawn=20,
        prompts_dropped=0,
        truncated=0.1,
        tool_infra=0.0,
        sampler_gap=1e-5,
        sampler_gap_exact=True,
        skipped=0.0,
    )
    assert alarms(fine) == []
    for name, value, words in (
        ("entropy", 0.001, "collapsed"),
        ("zero_std", 0.95, "no credit"),
        ("truncated", 0.6, "cut off"),
        ("prompts_dropped", 3, "filled"),
        ("tool_infra", 0.2, "infrastructure"),
        ("sampler_gap", 0.01, "disagree"),
        ("skipped", 0.5, "not finite"),
    ):
        assert len(alarms(fine | {name: value})) == 1 and words in alarms(fine | {name: value})[0]
        assert ADVICE[alarms(fine | {name: value})[0]]
    assert alarms(fine | dict(prompts_dropped=4)) == [], "all whose rewards are equal"
    assert alarms(fine | dict(sampler_gap=0.1, sampler_gap_exact=False)) == [], (
        "in bfloat16 log-probs differ by so much"
    )


def test_the_first_process_logs_a_tree_whichever_prompts_it_has(agent):
    """Its prompts have their numbers among all processes'."""
    mine = [Rollout([1], 0, group=group, ids=[2], mask=[True]) for group in (5, 3, 5)]
    for r in mine:
        r.sampled_logp = r.sampled_entropy = [0.0]
        r.logp_old = r.omega = r.branching_score = r.advantage = torch.zeros(1)
    assert [row["group"] for row in tree_rows(agent, 1, mine, 1)] == [3]
    assert [row["group"] for row in tree_rows(agent, 1, mine, 2)] == [3, 5, 5]


def test_a_rollout_that_was_not_trained_on_has_fewer_numbers(agent):
    r = Rollout([1], 0, ids=[2], mask=[True], sampled_logp=[-1.0], sampled_entropy=[0.5])
    (row,) = tree_rows(agent, 1, [r], 1)
    assert (row["logp"], row["entropy"], row["parent"]) == ([-1.0], [0.5], None)
    assert not {"logp_old", "future_value", "branching_score", "advantage"} & row.keys()


def test_a_step_s_line_fits_80_columns():
    numbers = dict(reward=0.5123, length=96.4, calls=2.06, entropy=0.3123, seconds=4.24)
    assert step_line(12, numbers) == (
        "step   12 reward  0.512            length   96 calls  2.1 entropy 0.312  4.2 s"
    )
    known = numbers | {"eval_greedy": 0.961, "reward": -0.5}
    assert " reward -0.500 eval 0.961 length" in step_line(12, known)
    wide = dict(reward=-99.123, length=32768.0, calls=99.9, entropy=11.93, seconds=9999.0)
    for accuracy in (1.0, None):
        assert len(step_line(9999, wide | {"eval_greedy": accuracy})) <= 80
    huge = dict(reward=-69710.4, eval_greedy=-12345.678, length=65536, calls=1234.5)
    assert len(step_line(9999, wide | huge | {"seconds": 99.0})) <= 80
    assert "reward -1e+07 " in step_line(1, wide | {"reward": -1.2e7})


def test_totals_are_those_of_all_steps():
    """Also right after a run has gone on: the log knows what was before."""
    run, log = Config(lr=0.5, prompts=16), SimpleNamespace(latest={})
    metrics = {"tokens_sampled": 7, "calls_made": 3}
    before = time.time()
    first = progress(run, log, 1, 40, metrics)
    assert before <= first["time"] <= time.time()
    assert (first["lr"], first["epoch"]) == (0.5, 0.4)
    assert (first["tokens_total"], first["calls_total"]) == (7, 3)
    log.latest = {"tokens_total": 100, "calls_total": 10}
    later = progress(run, log, 5, 40, metrics)
    assert (later["tokens_total"], later["calls_total"], later["epoch"]) == (107, 13, 2.0)
