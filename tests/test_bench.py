"""extras/bench runs and prints its figures; the numbers themselves are measured elsewhere."""

import argparse
import dataclasses
import json
import math
import shutil
import types

import pytest
import torch
from conftest import run_forked
from fake_cuda import flash

from extras.bench import __main__ as bench
from extras.bench import (
    decode,
    gpu,
    gpu_kernels,
    gpu_model,
    gpu_numbers,
    gpu_speed,
    gpu_step,
    measure,
    models,
    peers,
    runs,
    scaling,
    search,
)
from extras.memory import GIB, PHASES, memory, peaks
from extras.world.prepare import WORLDS
from sampling import Sampler
from support import draw, gpu_decoder


@pytest.mark.slow
def test_laptop_figures(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(runs, "subprocess", types.SimpleNamespace(run=run_forked))
    seed = "987654"
    try:
        small = "--steps 1 --cold_steps 3 --eval_questions 3 --prompts 2 --minibatch 1 --threads 1"
        small += " --max_tokens 64 --decode_rows 16"
        where = ["--out", str(tmp_path), "--json", str(tmp_path / "f.json")]
        bench.main(["laptop", "--seeds", seed, *where, *small.split()])
    finally:
        shutil.rmtree(WORLDS / f"easy-{seed}", ignore_errors=True)
    figures = json.loads((tmp_path / "f.json").read_text())
    printed = capfd.readouterr().out
    assert measure.machine() in printed and all(name in printed for name in figures)
    assert all(
        set(f) == {"value", "low", "high", "n", "unit"}
        and f["low"] <= f["value"] <= f["high"]
        and f["n"] == 1
        for f in figures.values()
    )
    assert (
        figures["laptop: optimizer steps"]["value"] == 2
        and 0.9 < figures["laptop: computed / unique"]["value"] <= 1
    )
    assert (
        figures["laptop: sampled tokens"]["value"] > figures["laptop: trained tokens"]["value"] > 0
    )


def test_a_run_of_two_processes_is_one_of_torchrun(tmp_path, monkeypatch):
    commands = []

    def run(command, check):
        commands.append(command[1:])
        (tmp_path / "out").mkdir()
        (tmp_path / "out/metrics.jsonl").write_text('{"step": 1}\n')

    monkeypatch.setattr(runs, "subprocess", types.SimpleNamespace(run=run))
    for processes in (1, 2):
        lines, _ = runs.run_training(tmp_path / "out", "--seed", "3", processes=processes)
        assert lines == [{"step": 1}]
    one, two = commands
    assert one[0].endswith("train.py") and one[-2:] == ["--seed", "3"]
    assert two == ["-m", "torch.distributed.run", "--nproc_per_node=2", *one]


def test_figure():
    assert measure.figure([1.0, 2.0, 6.0], "s") == {
        "value": 3.0,
        "low": 1.0,
        "high": 6.0,
        "n": 3,
        "unit": "s",
    }


def test_things_run_in_turn_and_each_is_first(monkeypatch):
    """After one run of each that does not count; seconds stand in the order of the things."""
    said, clock = [], iter(range(1, 100))
    monkeypatch.setattr(measure, "seconds", lambda thing: (thing(), next(clock))[1])
    taken = measure.in_turn(lambda: said.append("a"), lambda: said.append("b"), times=3)
    assert "".join(said) == "ab" + "ab" + "ba" + "ab"
    assert taken == [(1, 2), (4, 3), (5, 6)]


@pytest.mark.slow
def test_tool_figures(tmp_path, capfd):
    for what in ("python", "search"):
        bench.main([what, "--light", "--json", str(tmp_path / "f.json")])
        figures = json.loads((tmp_path / "f.json").read_text())
        assert all(
            f["low"] <= f.get("ratio", f.get("value")) <= f["high"] for f in figures.values()
        ) and all(name in capfd.readouterr().out for name in list(figures)[-1:])
    # those of the part before are kept
    assert {name.split(":")[0] for name in figures} == {"python", "search"}
    assert figures["search: 2,000 documents, query p95"]["value"] < 500


def test_generated_corpus_is_the_same_again(tmp_path):
    first, second = (search.generated_corpus(tmp_path / name, 50, 20) for name in ("a", "b"))
    assert (
        first == second
        and len(first) == 20
        and (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    )
    words = [len(json.loads(line)["contents"].split()) for line in open(tmp_path / "a")]
    assert (
        len(words) == 50
        and all(40 <= n <= 80 for n in words)
        and all(3 <= len(q.split()) <= 12 for q in first)
    )


@pytest.mark.slow
def test_a_failed_check_fails_the_bench_after_the_others(tmp_path, monkeypatch, capfd):
    def breaks(*_):
        raise RuntimeError("no room")

    checks = {
        "wrong": lambda args, *_: measure.at_most(args, "a gap", [0.1, 2.0], 1, "nats"),
        "breaks": breaks,
        "right": lambda args, *_: measure.at_least(args, "calls", 3, 1, ""),
    }
    monkeypatch.setattr(gpu, "CHECKS", checks)
    with pytest.raises(
        SystemExit, match="FAILED: a gap is 2 nats, not at most 1; breaks broke off"
    ):
        bench.main(["gpu", "--light", "--out", str(tmp_path), "--json", str(tmp_path / "f.json")])
    assert (
        set(json.loads((tmp_path / "f.json").read_text())) == {"a gap (<= 1)", "calls (>= 1)"}
        and "no room" in capfd.readouterr().err
    )


@pytest.mark.parametrize("values", [[], [0.0, math.nan], [math.inf]])
def test_nothing_and_no_number_are_no_success(values):
    args = types.SimpleNamespace(failed=[])
    measure.at_most(args, "gap", values, 1.0, "nats")
    assert len(args.failed) == 1


def test_attention_by_lengths_is_held_to_float64(monkeypatch):
    """With arithmetic in the place of the kernel; one that reads a key too few fails."""
    args = types.SimpleNamespace(failed=[])
    monkeypatch.setattr(gpu_decoder, "FLASH", flash)
    figures = gpu_kernels.attention_figures(args, gpu_model.SMALL, 8, "cpu")
    assert not args.failed and any("by lengths, a layer" in name for name in figures)

    def short(*given, scale, seqused_k):
        return flash(*given, scale=scale, seqused_k=(seqused_k - 1).clamp(min=1))

    monkeypatch.setattr(gpu_decoder, "FLASH", short)
    gpu_kernels.attention_figures(args, gpu_model.SMALL, 8, "cpu")
    assert len(args.failed) == 1 and "gap of lengths to exact" in args.failed[0]


@pytest.mark.slow
def test_a_fork_from_a_wrong_state_is_seen(world, monkeypatch, tmp_path):
    """In bfloat16 too: branches begin with the hidden states of other rollouts."""
    right = Sampler.branches

    def wrong(sampler, rollouts, points, cache):
        cache.states = cache.states.roll(1, 0)
        return right(sampler, rollouts, points, cache)

    monkeypatch.setattr(Sampler, "branches", wrong)
    args = types.SimpleNamespace(failed=[])
    gpu_numbers.numbers_agree(args, gpu_model.SMALL, "cpu", world)
    assert {name.split(" is ")[0].split(", ")[0] for name in args.failed} == {
        "float32",
        "bfloat16",
    } and all("fork - fresh pass" in name for name in args.failed)


@pytest.mark.slow
def test_peaks_of_a_step_cover_the_plans_phases(world, monkeypatch):
    class Pretended(gpu_step.Peaks):
        def __init__(self):
            super().__init__()
            self.real = True

        def __call__(self, phase):
            self.bytes[self.phase], self.phase = GIB, phase

    monkeypatch.setattr(gpu_step, "Peaks", Pretended)
    args = types.SimpleNamespace(failed=[])
    figures = gpu_step.step_float32(args, gpu_model.SMALL, "cpu", world)
    assert not args.failed and all(
        figures[f"step, float32, 3 layers: peak of {phase}"]["value"] == 1
        and figures[f"step, float32, 3 layers: peak of {phase} / plan"]["ratio"] > 1
        for phase in PHASES
        if phase != "load"
    )


def test_layers_at_the_real_shape():
    run = gpu_model.settings(width=4, **gpu_model.REAL.step)
    layers = gpu_step.layers_that_fit(gpu_model.REAL.shape, run, 78 * GIB)
    more = dataclasses.replace(gpu_model.REAL.shape, layers=layers + 1)
    assert (
        8 <= layers < 28
        and max(peaks(memory(dataclasses.replace(more, layers=layers), run, 1)).values())
        <= 0.85 * 78 * GIB
    )
    # AdamW's temporaries among them
    held = max(20 * more.parameters, *peaks(memory(more, run, 1)).values())
    assert held > 0.85 * 78 * GIB, "no room for one more"
    with pytest.raises(ValueError, match="not one layer fits into 4.0 GiB"):
        gpu_step.layers_that_fit(gpu_model.REAL.shape, run, 4 * GIB)


def test_speed_at_the_real_shape():
    times = [[0.04, 0.02, 0.001, 0.1]] * 5
    figures = gpu_speed.speed_figures(times, 3350.0, gpu_model.REAL, 2, "cuda")
    weights = 2 * (28 * gpu_model.REAL.shape.layer + 152064 * 3584)
    key, name = 2 * 2 * 28 * 512, "decode, 128 rows of 2048 tokens"
    share = (weights + key * 128 * (2048 + 34)) / 3350e9 / 0.02
    found = figures[f"{name}: share of 3350 GB/s (aimed at: 0.6)"]["ratio"]
    assert found == pytest.approx(share)
    assert figures[f"{name}: ours / generate (aimed at: 3)"]["ratio"] == 2
    assert figures[f"{name}: ours"]["value"] == 6400
    assert value(figures, "seconds of fresh prefill / fork") == pytest.approx(100)
    assert value(figures, "forked in (aimed at: 50)") == pytest.approx(128)


@pytest.mark.slow
def test_processes_and_resume(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(runs, "subprocess", types.SimpleNamespace(run=run_forked))
    bench.main(
        ["ranks", "resume", "--light", "--out", str(tmp_path), "--json", str(tmp_path / "f.json")]
    )
    figures = json.loads((tmp_path / "f.json").read_text())
    assert (
        figures["ranks: parameters moved by at most"]["value"]
        > 1e-3
        > 1e-6
        > figures["ranks: parameters of 1 and 2 processes, sharded (<= 1e-06)"]["value"]
    )
    assert figures["resume, laptop model: checkpoint"]["value"] == pytest.approx(3.9, abs=0.5)
    assert (
        figures["resume, laptop model: start to the next step"]["value"]
        > figures["resume, laptop model: optimizer's state"]["value"]
        > 0
    )


RATIO, FIGURE = {"ratio", "low", "high", "n", "unit"}, {"value", "low", "high", "n", "unit"}


@pytest.fixture(scope="module")
def light(world, agent_folder, tmp_path_factory):
    """Figures of a part at small sizes, with the tests' world and agent."""
    out = tmp_path_factory.mktemp("bench")
    shutil.copytree(world, out / "world"), shutil.copytree(agent_folder, out / "agent")

    def run(what: str) -> dict:
        (out / "f.json").unlink(missing_ok=True)
        bench.main([what, "--light", "--out", str(out), "--json", str(out / "f.json")])
        figures = json.loads((out / "f.json").read_text())
        for f in figures.values():
            assert (
                set(f) in (RATIO, FIGURE)
                and all(math.isfinite(f[key]) for key in set(f) - {"unit"})
                and f["n"] >= 1
            )
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
    assert all(
        value(figures, f"batch {rows}, ours") > 0
        and value(figures, f"batch {rows}, seconds of generate / ours") > 0
        for rows in (1, 8)
    )


def test_what_calls_itself_is_timed_once(monkeypatch):
    """draw, for parts of its rows: counted in every part too, its share would come near 2."""
    monkeypatch.setattr(draw, "BLOCK", 1)
    logits, u = torch.randn(64, 1000), torch.rand(64)

    def work():
        for _ in range(20):
            decode.sampling.draw(logits, u, 1.0)

    assert 0 < decode.shares(work)["drawing"] <= 1


def test_operations():
    """Only operations are compared: time between them grows when the machine is busy."""
    x = torch.randn(1000, 1000)
    spent = measure.operations(lambda: (x @ x, x[0].exp()))
    assert list(spent.values()) == sorted(spent.values(), reverse=True)
    assert {"aten::mm", "aten::exp", "between operations"} <= set(spent)
    assert spent["aten::mm"] > spent["aten::exp"]
    figures = peers.longest(lambda: x @ x, "x")
    shares = [f["value"] for f in figures.values() if f["unit"] == "share"]
    assert figures["x, aten::mm"]["value"] > 0 and sum(shares) <= 1 + 1e-9


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    reason="it times the packed decoder, which needs AVX2",
)
def test_anatomy(light):
    figures = light("anatomy")
    products, attention, reading, drawing = (
        figures[f"anatomy: 2 M Llama, batch 2, {what}"]["value"]
        for what in ("matrix products", "attention", "decoder and cache", "drawing")
    )
    assert (
        all(0 < part < 1 for part in (products, attention, reading, drawing))
        and reading + drawing < 1
        and attention < reading
    )
    assert value(figures, "seconds of generate / our matrix products and attention alone") > 0


@pytest.mark.slow
def test_trl(light):
    pytest.importorskip("trl")
    figures = light("trl")
    assert {"whole step", "update alone"} == {
        name.split(", ")[2] for name in figures
    } and 0 < value(figures, "ours in matrix products and attention") < 1


@pytest.mark.slow
def test_forks_sample_the_tokens_that_a_fresh_prefill_samples(light):
    figures = light("forks")
    assert value(figures, "share of equal ids") == 1
    assert value(figures, "seconds of fresh prefill / forked") > 0
    assert value(figures, "memory of a fork") < value(figures, "memory of a fresh prefill")


@pytest.mark.slow
def test_tool_turns_compute_nothing_twice(light):
    figures = light("turns")
    for tools in ("20 to 400 ms", "5 to 50 ms"):
        own = {name: f for name, f in figures.items() if f"tools of {tools}, " in name}
        assert value(own, "computed / unique, live") <= 1 < value(own, "computed / unique, rounds")
        assert value(own, "the same by both") == 1 and value(own, "calls per rollout") > 1
        waits = value(own, "share of live seconds that the slowest rollout waits")
        assert value(own, "rounds / live if only tools took time") >= 1 > waits > 0


def test_occupancy_figures(light):
    figures = light("occupancy")
    assert value(figures, "static batches") < value(figures, "ours") <= 1


@pytest.mark.slow
def test_logprob_figures(light):
    figures = light("logprob")
    assert value(figures, "no gradient, memory of log_softmax / ours") > 1.5
    assert value(figures, "with gradient, memory of torch.utils.checkpoint / ours") >= 1
    assert value(figures, "no gradient, seconds of our products alone / ours") > 0


@pytest.mark.slow
def test_scaling_figures(light):
    figures = light("scaling")
    unique = [int(name.split(", ")[-2].split()[0]) for name in figures if name.endswith("step")]
    assert len(unique) == 9 and all(
        a < b < c for a, b, c in zip(unique[::3], unique[1::3], unique[2::3])
    ), "a step grows along each axis"


@pytest.mark.skipif(not scaling.watches_memory(), reason="needs Linux and glibc")
def test_memory_that_was_resident_only_for_a_while():
    """Blocks of 1 MiB, small enough that their memory would be kept for later."""

    def work():
        assert len([torch.ones(2**18) for _ in range(80)]) == 80

    for _ in range(2):
        assert 78 <= scaling.most_resident(work) / 2**20 < 84


def test_vllm_is_handed_all_weights_before_a_batch(agent_folder):
    """Under their names in the checkpoint; then it generates."""
    said = []

    class Engine:
        def collective_rpc(self, method, kwargs):
            said.append((method, dict(kwargs["weights_iterator"])))

    policy = models.endless_policy(agent_folder)
    peers.renewed(Engine(), policy, lambda: said.append("batch"))
    (method, weights), batch = said
    assert (method, batch) == ("reload_weights", "batch")
    # the head is tied to the embedding
    assert set(weights) == set(policy.model.state_dict()) - {"lm_head.weight"}
    assert not any(x.requires_grad for x in weights.values())


def test_peers_that_are_not_installed_are_left_out(light, monkeypatch, capfd):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    for peer, part in (("trl", peers.trl), ("vllm", peers.vllm)):
        assert part(argparse.Namespace(light=False, out="")) == {}
        assert f"{peer}: left out, {peer} is not installed" in capfd.readouterr().out
