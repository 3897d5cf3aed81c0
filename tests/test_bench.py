"""bench.py runs and prints what the README quotes; the numbers themselves are measured elsewhere."""
import json
import shutil

import bench
from benches import agent_tools, measure, runs


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
        printed = capfd.readouterr().out
        assert all(f["low"] <= f.get("ratio", f.get("value")) <= f["high"] and name in printed for name, f in figures.items())
    assert figures["search: 2,000 documents, query p95"]["value"] < 50


def test_generated_corpus_is_the_same_again(tmp_path):
    first, second = (agent_tools.generated_corpus(tmp_path / name, 50, 20) for name in ("a", "b"))
    assert first == second and len(first) == 20 and (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    words = [len(json.loads(line)["contents"].split()) for line in open(tmp_path / "a")]
    assert len(words) == 50 and all(40 <= n <= 80 for n in words) and all(3 <= len(q.split()) <= 12 for q in first)
