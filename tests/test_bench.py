"""bench.py runs and prints what the README quotes; the numbers themselves are measured elsewhere."""
import argparse
import json
import math
import shutil

import pytest

import bench
from benches import agent_tools, measure, models, runs, sampling, training


def test_laptop_figures(tmp_path, capfd):
    seed = "987654"
    try:
        bench.main(["laptop", "--seeds", seed, "--out", str(tmp_path), "--json", str(tmp_path / "f.json"), "--steps", "1", "--cold_steps", "3", "--eval_questions", "3", "--prompts", "2", "--minibatch", "1", "--threads", "1"])
    finally:
        shutil.rmtree(runs.HERE / "data" / "world" / f"easy-{seed}", ignore_errors=True)
    figures = json.loads((tmp_path / "f.json").read_text())
    printed = capfd.readouterr().out
    assert measure.machine() in printed and all(name in printed for name in figures)
    assert all(set(f) == {"value", "low", "high", "n", "unit"} and f["low"] <= f["value"] <= f["high"] and f["n"] == 1 for f in figures.values())
    assert figures["laptop: optimizer steps"]["value"] == 2 and 0.9 < figures["laptop: computed / unique"]["value"] <= 1
    assert figures["laptop: sampled tokens"]["value"] > figures["laptop: trained tokens"]["value"] > 0


def test_figure():
    assert measure.figure([1.0, 2.0, 6.0], "s") == {"value": 3.0, "low": 1.0, "high": 6.0, "n": 3, "unit": "s"}


def test_tool_figures(tmp_path, capfd):
    for what in ("python", "search"):
        bench.main([what, "--light", "--json", str(tmp_path / "f.json")])
        figures = json.loads((tmp_path / "f.json").read_text())
        assert all(f["low"] <= f.get("ratio", f.get("value")) <= f["high"] for f in figures.values()) and all(name in capfd.readouterr().out for name in list(figures)[:1])
    assert figures["search: 2,000 documents, query p95"]["value"] < 50


def test_generated_corpus_is_the_same_again(tmp_path):
    first, second = (agent_tools.generated_corpus(tmp_path / name, 50, 20) for name in ("a", "b"))
    assert first == second and len(first) == 20 and (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    words = [len(json.loads(line)["contents"].split()) for line in open(tmp_path / "a")]
    assert len(words) == 50 and all(40 <= n <= 80 for n in words) and all(3 <= len(q.split()) <= 12 for q in first)


RATIO, FIGURE = {"ratio", "low", "high", "n", "unit"}, {"value", "low", "high", "n", "unit"}


@pytest.fixture(scope="module")
def light(world, agent_folder, tmp_path_factory):
    """Figures of a part at small sizes, with the tests' world and agent."""
    out = tmp_path_factory.mktemp("bench")
    shutil.copytree(world, out / "world"), shutil.copytree(agent_folder, out / "agent")
    def run(what: str) -> dict:
        bench.main([what, "--light", "--out", str(out), "--json", str(out / "f.json")])
        figures = json.loads((out / "f.json").read_text())
        for f in figures.values():
            assert set(f) in (RATIO, FIGURE) and all(math.isfinite(f[key]) for key in set(f) - {"unit"}) and f["n"] >= 1
            assert f["low"] <= f.get("ratio", f.get("value")) <= f["high"]
        return figures
    return run


def value(figures: dict, ending: str) -> float:
    """The one figure whose name ends so."""
    found = [f for name, f in figures.items() if name.endswith(ending)]
    assert len(found) == 1, (ending, list(figures))
    return found[0].get("ratio", found[0].get("value"))


def test_decode_figures(light):
    figures = light("decode")
    assert all(value(figures, f"batch {rows}, ours") > 0 and value(figures, f"batch {rows}, seconds of generate / ours") > 0 for rows in (1, 8))


def test_forks_sample_the_tokens_that_computing_anew_samples(light):
    figures = light("forks")
    assert value(figures, "share of equal ids") == 1
    assert value(figures, "seconds anew / forked") > 0 and value(figures, "memory of a fork") < value(figures, "memory computed anew")


def test_tool_turns_compute_nothing_twice(light):
    figures = light("turns")
    assert value(figures, "computed / unique, live") <= 1 < value(figures, "computed / unique, rounds")
    assert value(figures, "the same by both") == 1 and value(figures, "calls per rollout") > 1


def test_occupancy_figures(light):
    figures = light("occupancy")
    assert value(figures, "static batches") < value(figures, "ours") <= 1


def test_logprob_figures(light):
    figures = light("logprob")
    assert value(figures, "no gradient, memory of ours / log_softmax") < 0.1


def test_scaling_figures(light):
    figures = light("scaling")
    unique = [int(name.split(", ")[-2].split()[0]) for name in figures if name.endswith("step")]
    assert len(unique) == 9 and all(a < b < c for a, b, c in zip(unique[::3], unique[1::3], unique[2::3])), "a step grows along each axis"


def test_peers_that_are_not_installed_are_left_out(light, monkeypatch, capfd):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    for peer, part in (("trl", training.trl), ("vllm", sampling.vllm)):
        assert part(argparse.Namespace(light=False, out="")) == {}
        assert f"{peer}: left out, {peer} is not installed" in capfd.readouterr().out
