"""bench.py runs and prints what the README quotes; the numbers themselves are measured elsewhere."""
import json
import shutil

import bench


def test_laptop_figures(tmp_path, capfd):
    seed = "987654"
    try:
        bench.main(["laptop", "--seeds", seed, "--out", str(tmp_path), "--json", str(tmp_path / "f.json"), "--steps", "1", "--cold_steps", "3", "--eval_questions", "3", "--prompts", "2", "--minibatch", "1", "--threads", "1"])
    finally:
        shutil.rmtree(bench.HERE / "data" / "world" / f"easy-{seed}", ignore_errors=True)
    figures = json.loads((tmp_path / "f.json").read_text())
    printed = capfd.readouterr().out
    assert bench.machine() in printed and all(name in printed for name in figures)
    assert all(set(f) == {"value", "low", "high", "n", "unit"} and f["low"] <= f["value"] <= f["high"] and f["n"] == 1 for f in figures.values())
    assert figures["laptop: optimizer steps"]["value"] == 2 and 0.9 < figures["laptop: computed / unique"]["value"] <= 1
    assert figures["laptop: sampled tokens"]["value"] > figures["laptop: trained tokens"]["value"] > 0


def test_figure():
    assert bench.figure([1.0, 2.0, 6.0], "s") == {"value": 3.0, "low": 1.0, "high": 6.0, "n": 3, "unit": "s"}
