"""extras/pilot: regions, statistics, and the whole study on a small agent."""

import itertools
import json
import random
import xml.etree.ElementTree as ET
from math import comb

import pytest
from conftest import SMALL

import train
from extras.pilot import __main__ as pilot
from extras.pilot import outcomes
from extras.pilot.entropy import by_distance, enrichment
from extras.pilot.regions import distances, regions
from extras.pilot.stats import (
    interval,
    partial_spearman,
    pass_at,
    quantile_bins,
    ranks,
    spearman,
    spread_of,
)
from extras.pilot.tables import ONE, SPREAD, passes


def test_regions_follow_the_tags():
    texts = ["<think>", " So", "</", "think>", "\n", "<search>", " q", "</search>", "<think>"]
    mask = [True] * 8 + [False]
    assert regions(texts, mask, ["search"]) == (
        ["tag", "thought", "tag", "tag", "other", "tag", "call", "tag", ""]
    )
    # a token belongs where it begins, and a tool's words open nothing
    assert regions([" a<th", "ink>b"], [True, True], []) == ["other", "tag"]
    assert regions(["<answer>", "x"], [False, True], []) == ["", "other"]
    assert regions(["<answer>", "x"], [True, True], []) == ["tag", "answer"]


def test_distances_to_the_nearest_result():
    mask = [True] * 3 + [False] * 2 + [True] * 4 + [False] + [True]
    assert distances(mask, [(3, 5), (9, 10)]) == [-3, -2, -1, None, None, 0, 1, 2, -1, None, 0]
    assert distances([True, True], []) == [None, None]


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_spread_has_no_bias(n, p):
    """Its expectation over all outcomes of n branches is p (1 - p)."""
    expected = sum(comb(n, c) * p**c * (1 - p) ** (n - c) * spread_of(c, n) for c in range(n + 1))
    assert expected == pytest.approx(p * (1 - p), abs=1e-12)


def test_pass_at_counts_subsets():
    for n, right, k in [(5, 2, 1), (5, 2, 3), (6, 1, 6), (4, 0, 2), (4, 4, 1)]:
        subsets = list(itertools.combinations([1] * right + [0] * (n - right), k))
        assert pass_at(k, right, n) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_rank_correlations():
    assert ranks([3, 1, 3, 2]).tolist() == [3.5, 1, 3.5, 2]
    assert spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    # 1 - 6 sum d^2 / (n (n^2 - 1)), without ties
    assert spearman([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(1 - 6 * 4 / (4 * 15))
    assert spearman([1, 2, 3], [5, 5, 5]) == 0
    rng = random.Random(0)
    z = [rng.random() for _ in range(4000)]
    x, y = ([v + 0.3 * rng.random() for v in z] for _ in range(2))
    # both owe their correlation to z alone
    assert spearman(x, y) > 0.8 and abs(partial_spearman(x, y, z)) < 0.1


def test_bins_are_equal_in_size():
    assert quantile_bins([5, 1, 1, 9, 3, 7], 3) == [1, 0, 0, 2, 1, 2]


def test_interval_draws_prompts_not_rows():
    def mean(rows):
        return sum(rows) / len(rows)

    # a hundred copies of a row are no further evidence
    assert interval([[0.0] * 100, [1.0] * 100], mean) == (0.5, 0.0, 1.0)
    value, low, high = interval([[0.0, 1.0]] * 50, mean)
    assert value == low == high == 0.5


def test_enrichment_of_the_most_uncertain_tokens():
    """20 tokens of each of 4 prompts; thoughts are a quarter, and hold all of the top 5%."""
    rows = [
        {
            "prompt": p,
            "entropy": 2.0 if t == 0 else 0.01 * t,
            "kinds": ["thought" if t < 5 else "call"],
            "away": t,
        }
        for p in range(4)
        for t in range(20)
    ]
    found = enrichment(rows)
    assert found["thought"]["of all"] == 0.25 and found["call"]["of all"] == 0.75
    assert found["thought"]["top 5%"] == [1.0, 4.0, 4.0, 4.0]
    assert found["call"]["top 5%"] == [0.0] * 4 and "tag" not in found
    assert by_distance(rows)[0] == [0, 2.0, 2.0, 2.0, 4]


def test_passes_of_a_criterion():
    rows = [{"one": 8, "spread": [0, 1, 0]}, {"one": 0, "spread": [0, 0, 0]}]
    assert passes(rows, 1, ONE) == 0.25 and passes(rows, 16, ONE) == 0.5
    assert [passes(rows, k, SPREAD) for k in (1, 2)] == [0, 0.5]


@pytest.mark.slow
def test_the_study_on_a_small_agent(world, agent_folder, tmp_path, monkeypatch, capsys):
    """All three parts, their tables and figures; bad flags are named."""
    (tmp_path / "odd.py").write_text(
        "def odd(rollout, question):\n    return sum(rollout.ids) % 2\n"
    )
    flags = SMALL | dict(
        steps=2, reward_fn=f"{tmp_path}/odd.py:odd", save_every=1, max_tokens=64, lr=1e-4
    )
    given = dict(model=agent_folder, data=world / "train.jsonl", eval_data=world / "test.jsonl")
    given |= dict(corpus=world / "corpus.jsonl", out=tmp_path / "run")
    train.main([word for name, x in (flags | given).items() for word in (f"--{name}", str(x))])
    monkeypatch.setattr(pilot, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(outcomes, "TRIED", 3)
    # the small agent answers nothing right
    monkeypatch.setattr(outcomes, "is_correct", lambda r, question: sum(r.ids) % 2 == 0)
    sizes = "--prompts 4 --each 3 --tokens 12 --branches 2 --compared 2 --near 4".split()
    steps = ["--run", str(tmp_path / "run"), "--older", "1", "--newer", "2"]
    pilot.main(["measure", "small", *steps, *sizes])
    found = json.loads((tmp_path / "results" / "small.json").read_text())
    assert {row["criterion"] for row in found["criteria"]} == {*outcomes.CRITERIA, "best"}
    assert all(0 <= row["one"] <= outcomes.MOST for row in found["criteria"])
    assert found["decisions"][""]["decisions"] >= 1
    assert all(0 <= found["decisions"]["random"][x] <= 1 for x in ("recall", "after_last"))
    assert len(found["outcomes"]) >= 12 and all(row["n"] == 2 for row in found["outcomes"])
    assert found["about"]["omega constant"] < found["about"]["kept"]
    pilot.main(["show", "--folder", str(tmp_path)])
    assert "at equal position" in capsys.readouterr().out
    assert "| branching score |" in (tmp_path / "pilot.md").read_text()
    for part in "abc":
        ET.fromstring((tmp_path / f"pilot-{part}.svg").read_text())
    with pytest.raises(SystemExit, match="--keep_checkpoints 0"):
        pilot.main(["measure", "small", *steps[:-1], "9"])
    with pytest.raises(SystemExit, match="--branches must be >= 2, got 1"):
        pilot.main(["measure", "small", *steps, "--branches", "1"])
