"""extras/study: curves, budgets, intervals, and the runner with a stand-in for train.py."""

import dataclasses
import json
import random
import xml.etree.ElementTree as ET

import pytest
import torch
from conftest import SMALL

from config import read_settings
from extras.bench import runs as bench_runs
from extras.study import arms, choices, pace, runs, signal
from extras.study.arms import ARMS, COMMON, CURVES, FEWER, LANGUAGE, PER_PROMPT, Table, sized
from extras.study.curves import AXES, Curve, load, read_run, row_of
from extras.study.figure import pen, picture
from extras.study.intervals import interval, paired
from extras.study.planned import REPORT, TABLES
from extras.study.tables import (
    budget_of,
    colds_table,
    difference_table,
    ends_table,
    questions_table,
    runs_table,
    trials_table,
    world_table,
)
from extras.study.trials import (
    BEST,
    CHOSEN,
    MORE_OF_APPO,
    OTHER_TREES,
    RATES,
    RETUNED,
    SEQUENCES,
    TRIALS,
)
from methods import PRESETS

KEY = ("table", "easy", 1, "grpo", 1)
FILES = ("data", "eval_data", "corpus")


def curve(accuracy=(0.0, 1.0), edges=(0, 10, 40), key=KEY, after=0.5):
    calls = [3.0] * len(accuracy)
    return Curve(*key, list(accuracy), calls, {axis: list(edges) for axis in AXES}, 0.1, after)


def test_a_step_weighs_by_what_it_spends_of_the_budget():
    assert curve().mean("seconds", 40) == pytest.approx(30 / 40)
    assert curve().mean("seconds", 20) == pytest.approx(10 / 20)
    assert curve().mean("seconds", 5) == 0
    with pytest.raises(ValueError, match="spent 40 seconds, less than 41"):
        curve().mean("seconds", 41)


def test_what_was_spent_when_an_accuracy_was_reached():
    rising = curve((0.2, 0.4, 0.6, 0.8), (0, 1, 2, 3, 4))
    # the window is three steps long
    assert rising.reached("seconds", 0.4, 3) == 2 and rising.reached("seconds", 0.6, 3) == 3
    assert rising.reached("seconds", 0.7, 3) is None
    # half of the second step, then the end of a step that is longer than the window
    assert curve((0.2, 0.8), (0, 1, 2)).reached("seconds", 0.6, 1.5) == 1
    assert curve((0.2, 0.8), (0, 4, 8)).reached("seconds", 0.8, 3) == 4


def test_a_run_is_read_from_its_log(tmp_path):
    step = dict(tokens_sampled=5, tokens_trained=3, calls_made=2, optimizer_steps=1, seconds=0.5)
    lines = [
        {"step": 0, "eval_avg@2": 0.25, "eval_avg@2_se": 0.04, "eval_greedy": 0.3},
        {"step": 1, "accuracy": 0.5, "calls": 2.5} | step,
        {"step": 2, "accuracy": 0.75, "calls": 3} | step,
        {"step": 2, "eval_avg@2": 0.8, "eval_avg@2_se": 0.01, "eval_greedy": 0.9},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_run(tmp_path, KEY)
    assert (
        read.accuracy == [0.5, 0.75]
        and read.calls == [2.5, 3]
        and (read.before, read.after, read.errors) == (0.25, 0.8, [0.04, 0.01])
    )
    assert read.spent["sampled tokens"] == [0, 5, 10] and read.spent["seconds"] == [0, 0.5, 1.0]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    with pytest.raises(ValueError, match="no evaluation after its last step, 2"):
        read_run(tmp_path, KEY)


def test_a_run_has_intervals_over_its_questions():
    """1.96 standard errors, within 0 to 1."""
    one = dataclasses.replace(curve(after=0.99), errors=[0.05, 0.01])
    [row] = questions_table([one]).splitlines()[2:]
    name, cold, seed = one.arm, one.cold, one.seed
    ends = "0.100 (0.002 to 0.198) | 0.990 (0.970 to 1.000)"
    assert row == f"| {name} | {cold} | {seed} | {ends} | 2 |"


def test_curves_survive_their_file(tmp_path):
    curves = [curve(), curve(key=("table", "late", 2, "appo", 9))]
    (tmp_path / "curves.jsonl").write_text("".join(map(row_of, curves)))
    assert load(tmp_path / "curves.jsonl") == curves and load(tmp_path / "none") == []


def test_intervals():
    """The mean is over cold starts; bounds hold what they should; pairs cancel what they share."""
    runs_a = {1: {1: 1.0, 2: 0.0}, 2: {1: 1.0}}
    assert interval(runs_a)[0] == 0.75
    assert interval({1: {1: 0.3, 2: 0.3}}) == pytest.approx((0.3, 0.3, 0.3))
    rng, inside = random.Random(0), 0
    for _ in range(200):
        drawn = {}
        for cold in range(8):
            base = rng.gauss(0, 1)
            drawn[cold] = {seed: base + rng.gauss(0, 1) for seed in range(5)}
        _, low, high = interval(drawn, draws=400)
        inside += low <= 0 <= high
    assert 165 <= inside <= 198
    shifted = {cold: {s: x + 0.1 for s, x in seeds.items()} for cold, seeds in drawn.items()}
    assert paired(shifted, drawn, draws=100) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="no runs"):
        interval({})


def test_a_cold_start_that_fails_leaves_the_other_worlds(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runs, "CURVES", tmp_path / "curves.jsonl")

    def train(settings, out):
        if settings.get("world") == "late":
            raise RuntimeError("it did not learn")

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(runs, "read_run", lambda out, key: curve(key=key))
    table = Table("t", ("late", "easy"), {"a": {}}, colds=(3,), seeds=(1,), budget=10)
    with pytest.raises(SystemExit, match="1 failed:\ncold starts, .*late.*3.*it did not learn"):
        runs.make(table, 1)
    assert [c.world for c in load(tmp_path / "curves.jsonl")] == ["easy"]


def some_curves():
    return [
        curve((0.1, level), (0, 20, 40 + seed), ("t", "easy", cold, arm, seed), after=level)
        for arm, level in (("grpo", 0.5), ("appo", 0.7))
        for cold in (1, 2)
        for seed in (1, 2)
    ]


def test_the_table_compares_at_equal_budgets():
    curves = some_curves()
    assert budget_of(curves, "seconds") == 41
    table = world_table(curves).splitlines()
    assert len({line.count("|") for line in table}) == 1
    # the best arm first; (0.1 * 20 + 0.7 * 21) / 41
    assert table[2].startswith("| appo | 4 | 0 | 0.407 |")
    # (0.7 - 0.5) * 21 / 41 on all axes, 0.7 - 0.5 at the end
    less = difference_table(curves, "grpo").splitlines()
    assert less[2:] == ["| appo |" + 5 * " 0.102 |" + " 0.200 |"]
    # two seeds of cold start 2 are not made yet
    ends = runs_table(curves[:6]).splitlines()
    assert ends[2:] == ["| appo | 0.700, 0.700 |  |", "| grpo | 0.500, 0.500 | 0.500, 0.500 |"]
    rows = colds_table(curves[:6]).splitlines()
    assert rows[0] == "| cold start | 1 | 2 |"
    assert rows[2] == "| held-out before | 0.100 | 0.100 |"
    assert rows[3:] == ["| appo | 0.407 |  |", "| grpo | 0.305 | 0.305 |"]


def test_the_trials_of_an_arm_are_in_order():
    """The mean over worlds decides; a trial without a run in one of them is not there."""
    first, second, third = "a m m1 lr0.1", "a m p2 m2 lr1e-05", "b m1 lr1"
    made = {(first, "x"): 0.2, (first, "y"): 0.4, (second, "x"): 0.9, (second, "y"): 0.1}
    made |= {(third, "x"): 0.7}
    curves = [curve((v,), (0, 10), ("t", w, 1, arm, 1)) for (arm, w), v in made.items()]
    assert trials_table(curves).splitlines()[2:] == [
        "| a m | t | p2 m2 lr1e-05 | 0.900 | 0.100 | 0.500 |",
        "| a m | t | m1 lr0.1 | 0.200 | 0.400 | 0.300 |",
    ]


def test_seconds_are_sampled_tokens_at_the_measured_pace(tmp_path, monkeypatch, capsys):
    """Arms in turn, the median of the rounds; without a pace for all arms there are no seconds."""
    arms, tuned = {"grpo": {"lr": 1}, "appo": {"lr": 1}}, {"easy": {"appo": {"lr": 2}}}
    table = Table("t", ("easy",), arms, (1,), (1,), 10, "", ("grpo",), tuned)
    order, factors = [], iter((1, 1, 5, 5, 2, 4))
    monkeypatch.setattr(pace, "PACE", tmp_path / "pace.json")
    monkeypatch.setattr(pace, "RUNS", tmp_path)
    monkeypatch.setattr(runs, "cold_start", lambda world, cold: tmp_path / "cold")

    def train(settings, out):
        assert settings["model"] == tmp_path / "cold" and settings["threads"] == 1
        assert (settings["max_sampled"], settings["eval_questions"]) == (pace.TOKENS, 0)
        assert not out.exists()
        order.append(settings["lr"])
        out.mkdir()
        step = {"tokens_sampled": 500, "seconds": next(factors) * settings["lr"]}
        (out / "metrics.jsonl").write_text('{"eval_greedy": 1}\n' + 2 * (json.dumps(step) + "\n"))

    monkeypatch.setattr(pace, "train", train)
    curves = some_curves()
    assert pace.at_pace(curves)[0].spent.keys() == AXES.keys() - {"seconds"}
    pace.measure(table, rounds=3)
    # there and back
    assert order == [1, 2, 2, 1, 1, 2]
    # seconds for 1,000 tokens: grpo 2, 10, 4; appo 4, 20, 16
    assert pace.load_pace() == {"t": {"easy": {"grpo": 4.0, "appo": 16.0}}}
    assert "| appo | 16.000 | 2.00 (2.00 to 4.00) |" in capsys.readouterr().out
    grpo, appo = pace.at_pace(curves)[0], pace.at_pace(curves)[-1]
    assert grpo.spent["seconds"] == pytest.approx([0, 0.08, 0.164])
    assert appo.spent["seconds"][1] == pytest.approx(20 / 1000 * 16)
    assert curves[0].spent["seconds"] == [0, 20, 41]
    # one arm without a pace: seconds of none
    other = dataclasses.replace(curves[0], arm="other")
    assert "seconds" not in pace.at_pace([*curves, other])[0].spent


def levels_of(curves: list) -> dict:
    """Arm, table and settings of each trial -> mean until 150,000 tokens over its worlds."""
    first = next(iter(AXES))
    runs_of: dict = {}
    for c in curves:
        settings = TABLES[c.table].arms[c.arm]
        trial = settings.get("prompts", 16), settings["minibatch"], settings["lr"]
        name = next(name for name in (ARMS | FEWER) if c.arm.startswith(f"{name} "))
        budget = min(150_000, c.spent[first][-1])
        runs_of.setdefault((name, c.table, trial), []).append(c.mean(first, budget))
    return {key: (sum(x) / len(x), len(x)) for key, x in runs_of.items()}


def test_each_arm_of_the_report_has_its_best_trial():
    """By the committed curves of the tuning table; as many trials for each arm."""
    levels = levels_of([c for c in load(CURVES) if c.table == "tuning"])
    for name, trial in CHOSEN.items():
        own = {key[2]: level for key, level in levels.items() if key[0] == name}
        assert len(own) == len(TRIALS) and all(made == 2 for _, made in own.values())
        assert max(own, key=own.get)[1:] == trial, (name, own)
    seeds = TABLES["main"].colds + TABLES["main"].seeds
    assert min(seeds) >= 1000 and TABLES["main"].arms.keys() == CHOSEN.keys()


def test_the_best_three_trials_are_made_again():
    levels = levels_of([c for c in load(CURVES) if c.table.startswith("tuning")])
    for name, trials in BEST.items():
        own = {key: level for key, level in levels.items() if key[0] == name}
        best = sorted(own, key=own.get)[-len(trials) :]
        assert {key[2] for key in best} == set(trials), (name, own)
        assert all(made == 2 for _, made in own.values())


def test_each_arm_has_its_best_step_and_rate_in_each_world():
    """By the committed curves, means over three cold starts. Ours has the B that is best with 64
    sequences a step and the rates that all B had."""
    curves = [c for c in load(CURVES) if c.table in ("rates", "rates_32")]
    trees = ("tree", "tree, B = 1", "tree, B = 3")
    best, table = {}, TABLES["retuned"]
    for world, chosen in RETUNED.items():
        levels = levels_of([c for c in curves if c.world == world])
        assert all(made == 3 for _, made in levels.values())
        assert chosen.keys() == PER_PROMPT.keys()
        for name in (*PER_PROMPT, *trees):
            own = {trial: level for (arm, _, trial), level in levels.items() if arm == name}
            first = max(own, key=own.get)
            if name in PER_PROMPT:
                assert len(own) == 2 * len(RATES) + len(MORE_OF_APPO) * (name == "appo")
                step, lr = chosen[name]
                assert (*sized(SEQUENCES[name], step).values(), lr) == first, (name, own)
                settings = table.settings(world, name)
                assert tuple(settings[x] for x in ("prompts", "minibatch", "lr")) == first
            rates = [(*sized(SEQUENCES[name]).values(), lr) for _, lr in OTHER_TREES[:2]]
            best[name, world] = max(own[trial] for trial in rates)
    mean = {name: sum(best[name, world][0] for world in RETUNED) for name in trees}
    assert max(mean, key=mean.get) in PER_PROMPT
    assert tuple(RETUNED) == table.worlds
    assert min(table.colds + table.seeds) >= 1000
    assert not set(table.colds + table.seeds) & set(TABLES["main"].colds + TABLES["main"].seeds)


def test_the_study_keeps_its_settings():
    """They stand above the laptop run's, which may change: this says what they are."""
    study = read_settings(runs.flags_of(COMMON))
    assert (study.prompts, study.minibatch, study.lr, study.temperature) == (16, 8, 4e-4, 1.0)
    assert (study.decode_rows, study.prefill_chunk, study.micro_tokens) == (96, 16, 4096)
    assert (study.max_prompt, study.max_tokens, study.max_calls) == (64, 192, 4)
    assert (study.topk, study.max_result_tokens, study.threads) == (1, 64, 1)
    cold = study.cold_batch, study.cold_lr, study.cold_optimizer, study.cold_shuffle
    assert cold == (8, 0.015, "muon", False)


def test_calls_are_counted_per_right_answer():
    """Two steps of 10 and 30 tokens, 3 calls a rollout, 0.2 and then 0.8 of them right."""
    both = [curve((0.2, 0.8), (0, 10, 40)), curve((0.2, 0.8), (0, 10, 40), KEY[:4] + (2,))]
    # 15,000 tokens are not there
    assert ends_table(both).splitlines()[2].endswith("| 0 | never | never | 15.00 | 3.75 |")


def test_how_runs_end_and_what_they_need():
    """Medians: of three runs two reach 0.8, after 30,000 and 20,000 tokens; one ends low."""
    edges = [10_000 * k for k in range(5)]
    levels = (0.2, 0.7, 0.8, 0.95), (0.3, 0.9, 0.9, 0.9), (0.1, 0.1, 0.1, 0.1)
    ends = (0.9, 0.7, 0.4)
    arms = [
        curve(level, edges, KEY[:4] + (seed,), after=end)
        for seed, (level, end) in enumerate(zip(levels, ends))
    ]
    cells = ends_table(arms).splitlines()[2].split(" | ")
    assert cells[1:7] == ["3", "0.700", "1", "2", "30,000", "30,000"]
    assert ends_table(arms[:2]).splitlines()[2].split(" | ")[5] == "25,000"
    assert ends_table(arms[1:]).splitlines()[2].split(" | ")[4:6] == ["1", "never"]


def test_signal_and_noise_have_no_bias(monkeypatch):
    """Gradients of known mean (length 2) and covariance (trace 50): within 3% over 4,000 sets."""
    torch.manual_seed(0)
    mean = torch.zeros(50, dtype=torch.float64)
    mean[0] = 2.0
    found = []
    for _ in range(4000):
        g = mean + torch.randn(8, 50, dtype=torch.float64)
        found.append(signal.signal(g @ g.T))
    square, noise = torch.tensor(found).mean(0).tolist()
    assert square == pytest.approx(4, rel=0.03) and noise == pytest.approx(50, rel=0.03)
    g = mean + torch.randn(400, 50, dtype=torch.float64)
    assert signal.ratio(g @ g.T, 5000) == pytest.approx(4 / 50 * 2, rel=0.2)
    # nine in ten intervals hold it, at least
    monkeypatch.setattr(signal, "DRAWS", 200)
    held = 0
    for _ in range(100):
        g = mean + torch.randn(60, 50, dtype=torch.float64)
        low, high = signal.interval(g @ g.T, 5000)
        held += low < 4 / 50 * 2 < high
    assert held >= 90
    g = mean + torch.randn(400, 50, dtype=torch.float64)
    assert signal.cosine(g, mean + torch.randn(400, 50, dtype=torch.float64)) > 0.9
    other = mean.roll(1) + torch.randn(400, 50, dtype=torch.float64)
    assert abs(signal.cosine(g, other)) < 0.2


def test_the_rows_of_a_policy_are_printed_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(signal, "SIGNALS", tmp_path / "signals.json")
    g = torch.randn(8, 5, generator=torch.manual_seed(0)) + 1
    monkeypatch.setattr(signal, "gradients", lambda settings, steps: (g, 123.4))
    for name in ("first", "second"):
        signal.main(["late", "--start", "x", "--data", "y", "--save", name])
    kept = json.loads((tmp_path / "signals.json").read_text())
    assert set(kept) == {"first", "second"} and kept["first"].keys() == arms.SIGNAL.keys()
    n, tokens, middle, low, high, near = kept["first"]["appo"]
    assert (n, tokens) == (8, 123) and low < middle < high
    assert near == pytest.approx(signal.cosine(g, g), abs=1e-3)
    assert middle == pytest.approx(signal.ratio(g @ g.T, 123.4), abs=1e-3)
    assert f"| appo | 8 | 123 | {middle:.3f} ({low:.3f} to {high:.3f}) |" in capsys.readouterr().out


@pytest.mark.slow
def test_gradients_of_a_policy_that_does_not_move(world, agent_folder):
    """As many as updates, of the loss that the update has, and the same when asked again."""
    settings = SMALL | dict(algo="grpo", initial=4, model=agent_folder, data=world / "train.jsonl")
    settings |= dict(corpus=world / "corpus.jsonl", eval_questions=0, eval_data="", seed=1)
    first, tokens = signal.gradients(settings, 2)
    again, same = signal.gradients(settings, 2)
    assert first.shape[0] == 4 and tokens == same > 0 and torch.equal(first, again)


def test_what_a_run_chose_is_read_from_its_rollouts(tmp_path):
    """A rollout for each version asked for: one searches the other version, one computes."""

    def rollout(question: str, version: str, *python: str, **other) -> dict:
        searched = [("search", "port of Kex"), ("search", f"{version} height of Nor")]
        calls = [*searched, *(("python", line) for line in python)]
        row = {"step": 1, "parent": None, "prompt": question, "reward": 0.0}
        return row | {"calls": [{"name": name, "argument": x} for name, x in calls]} | other

    asked = "What is the {}height of the port of Kex {} 2?"
    rows = [
        rollout(asked.format("old ", "plus"), "new", "7 + 2", reward=1.1),
        rollout(asked.format("old ", "times"), "old"),
        rollout(asked.format("", "times"), "new", "7 - 2", "7 * 2", step=2),
        rollout(asked.format("", "times"), "old", "7 * 2", step=2, parent=0),
    ]
    assert choices.asked_for(rows[1]["prompt"]) == ("old", "times")
    assert choices.chosen(rows[2]) == {"version": "new", "operator": "times"}
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = choices.read_rollouts(tmp_path)
    assert len(read) == 3
    first, second = choices.table(read, 2).splitlines()[2:]
    assert first == "| 1 to 1 |  | 0.50 | 1.00 |  |  | 0.50 | 0.50 |"
    assert second == "| 2 to 2 | 0.00 |  |  |  | 1.00 | 1.00 | 0.00 |"
    # no more parts than steps
    assert choices.table(read, 5) == choices.table(read, 2)
    with pytest.raises(ValueError, match="holds no rollout: train with --log_trees"):
        choices.read_rollouts(tmp_path / "nowhere")
    with pytest.raises(SystemExit):
        choices.main([str(tmp_path), "--parts", "0"])


def test_the_picture_is_well_formed():
    root = ET.fromstring(picture(some_curves()))
    lines = [x for x in root.iter() if x.tag.endswith("polyline")]
    # of each arm its curve, its tool calls and its mark in the legend
    assert sorted(len(x.attrib["points"].split()) for x in lines) == [2, 2, 10, 10, 30, 30]
    # and the band of its interval, there and back
    bands = [x for x in root.iter() if x.tag.endswith("polygon")]
    assert [len(x.attrib["points"].split()) for x in bands] == [60, 60]
    assert len({pen(n) for n in range(36)}) == 36


def test_the_command_line(tmp_path, monkeypatch, capsys):
    """What is missing, then the tables and the picture of what is there."""
    from extras.study import __main__ as study

    table = Table("t", ("easy",), {"grpo": {}, "appo": {}}, (1, 2), (1, 2), 10, baselines=("grpo",))
    monkeypatch.setattr(study, "TABLES", {"t": table})
    monkeypatch.setattr(pace, "PACE", tmp_path / "pace.json")
    for module in (study, runs):
        monkeypatch.setattr(module, "CURVES", tmp_path / "curves.jsonl")
    with pytest.raises(SystemExit, match="t has no complete run yet"):
        study.main(["show", "t"])
    (tmp_path / "curves.jsonl").write_text("".join(map(row_of, some_curves()[:6])))
    study.main(["list"])
    assert "t: 2 of 8 runs missing" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        study.main(["best", "t"])
    assert "t has arms that are no trials: " in capsys.readouterr().err
    study.main(["show", "t", "--picture", str(tmp_path / "x.svg")])
    shown = capsys.readouterr().out
    assert "no seconds: python -m extras.study pace t" in shown and " seconds |" not in shown
    assert "less grpo" in shown and "| appo | 2 |" in shown and "| grpo | 4 |" in shown
    assert (tmp_path / "x.svg").read_text().startswith("<svg")


def test_every_arm_is_a_run_that_train_py_accepts():
    for table in TABLES.values():
        assert len(set(table.seeds)) == len(table.seeds)
        for world in table.worlds:
            arms = [runs.common(world) | table.settings(world, arm) for arm in table.arms]
            settings = [read_settings(runs.flags_of(arm)) for arm in arms]
            assert not any(s.max_sampled for s in settings)
            assert len(set(map(str, settings))) == len(arms), "two arms are the same"
    variants, methods = TABLES["variants"], TABLES["methods"]
    assert variants.colds == methods.colds and min(variants.seeds + methods.seeds) >= 1000
    # methods and variants share theirs
    reports = [table for table in REPORT if table.name != "methods"]
    colds = [cold for table in reports for cold in table.colds]
    assert len(set(colds)) == len(colds) and min(colds) >= 1000
    for table in (variants, methods):
        for name, arm in table.arms.items():
            settings = read_settings(runs.flags_of(COMMON | arm))
            drawn = settings.initial * (settings.branches + 1)
            # a branch has a branch of its own
            drawn += settings.initial * settings.branches * (settings.depth - 1) * 2
            assert 60 <= drawn * settings.prompts <= 64, (table.name, name, drawn)
    released = read_settings(["--preset", "released"])
    ours = read_settings(runs.flags_of(COMMON | methods.arms["released"]))
    for name in PRESETS["released"].keys() - {"prompts", "max_tokens", "reward"}:
        assert getattr(ours, name) == getattr(released, name), name


def test_a_language_model_has_a_world_of_its_own(tmp_path, monkeypatch):
    """Fewer examples than the tiny model's, none to copy; its runs use the same questions."""
    monkeypatch.setattr(runs, "WORLDS", tmp_path)
    monkeypatch.setattr(bench_runs, "smollm2_folder", lambda folder: tmp_path / "smollm2")
    monkeypatch.setattr(runs, "cold_start", lambda world, cold: tmp_path / "cold")
    before, after = (f("easy_smollm2", 3) for f in (runs.untrained, runs.from_cold))
    assert before["model"] == tmp_path / "smollm2" and after["model"] == tmp_path / "cold"
    assert len(before["cold_start"].read_text().splitlines()) == LANGUAGE["easy_smollm2"].traces
    assert {before[name] == after[name] and before[name].is_file() for name in FILES} == {True}
    made = before["cold_start"].stat().st_mtime_ns
    given = read_settings(runs.flags_of(runs.common("easy_smollm2") | before))
    assert given.cold_optimizer == "adamw" and not given.constant_rows
    # it is made once
    runs.untrained("easy_smollm2", 3)
    assert before["cold_start"].stat().st_mtime_ns == made
    assert runs.untrained("late", 3) == {"world": "late"}


def test_the_runner_makes_what_is_missing_and_goes_on(tmp_path, monkeypatch):
    """Cold starts once; a run that fails is named, and made the next time."""
    made, broken = [], {"b"}
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runs, "CURVES", tmp_path / "curves.jsonl")

    def train(settings, out):
        made.append(out.name)
        assert "algo" not in settings or settings["lr"] == {"a": 5, "b": 1}[settings["algo"]]
        if settings.get("algo") in broken:
            raise RuntimeError("it broke")
        (out / "step_000000").mkdir(parents=True)
        (out / "step_000000" / "manifest.json").write_text("{}")

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(runs, "read_run", lambda out, key: curve(key=key))
    arms = {"a": {"algo": "a", "lr": 1}, "b": {"algo": "b", "lr": 1}}
    tuned = {"easy": {"a": {"lr": 5}}, "late": {"b": {"lr": 6}}}
    table = Table("t", ("easy",), arms, colds=(3,), seeds=(1, 2), budget=10, tuned=tuned)
    with pytest.raises(SystemExit, match="2 failed(.|\n)*'b', 1(.|\n)*it broke"):
        runs.make(table, 1)
    assert made == ["easy-3", "easy-3-a-1", "easy-3-b-1", "easy-3-a-2", "easy-3-b-2"]
    broken.clear(), made.clear()
    runs.make(table, 2)
    assert sorted(made) == ["easy-3-b-1", "easy-3-b-2"] and runs.missing(table) == []
    assert len(load(tmp_path / "curves.jsonl")) == 4
