"""extras/plan.py: settings of the paper's runs, work, seconds, and the printed plan."""

import dataclasses
import math
from contextlib import contextmanager
from pathlib import Path

import pytest
import transformers
from conftest import CONFIG, one_step, untrained

import train
from config import ALGOS, LAPTOP, Config, read_settings
from extras import plan
from extras.memory import GIB, advice, most, without_checkpointing
from extras.plan import Hardware, count_questions, scoring_passes, seconds, work
from extras.shape import read_shape
from policy import Policy
from support import inputs

CONFIGS = Path(__file__).parents[1] / "configs"


# ---- the files in configs/

# As in the paper: prompts, minibatch, N, B, b, half-life, response budget, KL, steps.
# Steps: reasoning 2 epochs of 78, search 5 of 8.
PAPER = {
    "qwen2.5-7b-reasoning": (128, 16, 4, 3, 0.5, 32, 4096, 0, 156),
    "llama3.1-8b-reasoning": (128, 16, 4, 3, 0.5, 32, 4096, 0, 156),
    "qwen3-8b-search": (128, 16, 4, 3, 0.5, 32, 8192, 0, 40),
    "qwen3-14b-search": (128, 16, 4, 3, 0.5, 32, 8192, 0, 40),
}
# As in the released scripts, which draw N branches a prompt: B = 1 with their algo.
# Steps: epochs x whole batches of 10,000 or 1,071.
RELEASED = {
    "qwen2.5-7b-reasoning-released": (96, 16, 8, 1, 1.0, 64, 6144, 0.001, 208),
    "llama3.1-8b-reasoning-released": (96, 16, 8, 1, 1.0, 64, 6144, 0.001, 208),
    "qwen3-8b-search-released": (128, 16, 8, 1, 1.0, 64, 10000, 0.001, 40),
    "qwen3-14b-search-released": (64, 8, 6, 1, 1.0, 64, 6192, 0.001, 80),
}
COMMON = dict(
    lr=1e-6,
    weight_decay=0.01,
    clip_grad=1.0,
    clip_low=0.2,
    clip_high=0.28,
    clip_c=3.0,
    ppo_epochs=1,
    temperature=1.0,
    topk=10,
    future_clip=(1.0, 1.2),
)
MODELS = {
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-14b": "Qwen/Qwen3-14B",
}


def model_of(name: str) -> str:
    return MODELS[name.split("-reasoning")[0].split("-search")[0]]


@pytest.mark.parametrize("name", PAPER | RELEASED)
def test_config_holds_the_papers_numbers(name):
    run = read_settings(["--config", str(CONFIGS / f"{name}.json"), "--data", "d.jsonl"])
    sizes = (
        run.prompts,
        run.minibatch,
        run.initial,
        run.branches,
        run.future_weight,
        run.half_life,
        run.max_tokens,
        run.kl_coef,
        run.steps,
    )
    assert sizes == (PAPER | RELEASED)[name] and (run.model, run.data) == (
        model_of(name),
        "d.jsonl",
    )
    assert {key: getattr(run, key) for key in COMMON} == COMMON
    search, released = "search" in name, name in RELEASED
    assert (run.max_prompt, run.max_calls, run.tool_timeout) == (
        (2000, 6, 120.0) if search else (2048, 3, 30.0)
    )
    method = (run.algo, run.dual, run.aggregate, run.score_half_life, run.reward, run.cold_batch)
    assert method == (
        ("released", "sum", "token-mean", math.inf, "released", 16)
        if released
        else ("appo", "avg", "seq-mean", 32, "auto", 128)
    )
    if not released:
        assert (
            run.cold_lr,
            run.cold_epochs,
            run.cold_max_tokens,
            run.cold_weight_decay,
            run.cold_steps,
        ) == (7e-6, 3, 4096, 0.1, 0)
    else:
        assert (run.cold_schedule, run.cold_warmup, run.cold_weight_decay, run.cold_max_tokens) == (
            "cosine",
            0.1,
            0,
            15000,
        )


def test_every_config_is_in_the_table():
    assert {file.stem for file in CONFIGS.glob("*.json")} == {
        *PAPER,
        *RELEASED,
        "laptop",
        "small",
        "smollm2",
    }


# ---- work, seconds


def test_work_by_hand():
    names = (
        "initial rollouts",
        "branches",
        "tokens sampled",
        "tokens trained on",
        "optimizer steps",
    )
    assert work(Config(), 4096, 0.5) == dict(
        zip(names, (512, 1536, 512 * 4096 + 1536 * 2048, 512 * 4096, 8))
    )
    assert work(Config(branches=0, future_weight=0.0, ppo_epochs=2), 100, 0.5) == dict(
        zip(names, (512, 0, 51200, 102400, 16))
    )


def test_seconds_scale_and_follow_the_settings():
    shape, run, hardware = (
        read_shape("Qwen/Qwen2.5-7B-Instruct"),
        Config(model="m", decode_rows=16, shard=True, dtype="bfloat16", checkpointing=True),
        Hardware(),
    )
    base = seconds(shape, run, hardware)
    twice = seconds(
        shape, run, dataclasses.replace(hardware, gpu_tflops=2 * 990.0, gpu_bandwidth=2 * 3350.0)
    )
    assert all(
        a == pytest.approx(2 * b) for phase in base for a, b in zip(base[phase], twice[phase])
    )
    score = base["score"][0]
    assert base["update"][0] == pytest.approx(4 / 2 * score), (
        "3 passes and one again; logp_old of all rollouts, and now"
    )
    grpo = dict(algo="grpo", branches=0, future_weight=0.0)
    for changes, passes in (
        (dict(dtype="float32"), 2),
        (dict(algo="released"), 2),
        (dict(kl_coef=0.1), 3),
        (dict(ppo_epochs=2), 3),
        (grpo, 1),
        (grpo | dict(dtype="float32"), 0),
        (grpo | dict(dtype="float32", kl_coef=0.1), 2),
    ):
        changed = seconds(shape, dataclasses.replace(run, **changes), hardware)
        assert changed["score"][0] == pytest.approx(passes / 2 * score), changes
    assert seconds(shape, dataclasses.replace(run, branches=0, future_weight=0.0), hardware)[
        "branch"
    ] == (0, 0)
    assert (
        seconds(shape, dataclasses.replace(run, decode_rows=32), hardware)["sample"][1]
        < base["sample"][1]
    ), "weights are read half as often"
    weights = (7_615_616_512 - 152064 * 3584) * 2
    # a row holds its prompt and, on average, half of its response
    keys = 64 * 4096 * (2048 + 2048) * 2 * 28 * 4 * 128 * 2
    assert base["sample"][1] == pytest.approx((4096 * 4 * weights + keys) / 3350e9, rel=1e-4)


def test_branches_that_are_trained_cost_an_update():
    """All of a branch, but for our trees, which compute a shared prefix once."""
    shape, hardware = read_shape("Qwen/Qwen2.5-7B-Instruct"), Hardware(fork_depth=0.25)
    run = Config(model="m", initial=2, branches=2, future_weight=0.0)
    update = {
        algo: seconds(shape, dataclasses.replace(run, algo=algo, aggregate="token-mean"), hardware)[
            "update"
        ][0]
        for algo in ("appo", "arpo", "tree")
    }
    assert update["arpo"] == pytest.approx(3 * update["appo"])
    assert update["tree"] == pytest.approx((1 + 2 * 0.75) * update["appo"])


@pytest.mark.parametrize(
    "algo, changes",
    [
        ("appo", {}),
        ("appo", {"ppo_epochs": 2, "fork_tokens": 1}),
        ("appo", {"kl_coef": 0.1}),
        ("appo", {"branches": 0}),
        ("released", {"kl_coef": 0.1}),
        ("grpo", {"branches": 0, "future_weight": 0.0}),
        ("grpo", {"branches": 0, "future_weight": 0.0, "kl_coef": 0.1}),
        ("gigpo", {"branches": 0, "future_weight": 0.0}),
        ("reinforce_pp", {"branches": 0, "future_weight": 0.0, "kl_coef": 0.1}),
        ("tempo", {"branches": 0, "future_weight": 0.0}),
        ("tree", ALGOS["tree"]),
    ],
)
def test_scoring_passes_are_those_of_a_step(algo, changes, tokenizer, monkeypatch):
    policies = [Policy(untrained("llama", tokenizer), tokenizer) for _ in range(2)]
    policy, reference = policies
    policy.reference = reference
    sizes = {"prompts": 4, "minibatch": 2, "max_tokens": 16}
    run = dataclasses.replace(CONFIG, algo=algo, **sizes, **changes)
    scored, score, unsharded = [], Policy.score, Policy.unsharded

    @contextmanager
    def alone(policy):
        """Whole weights of one model at a time: the plan counts no more."""
        other = reference if policy is policies[0] else policies[0]
        assert not other._whole
        with unsharded(policy):
            yield

    def counted(policy, rollouts, *args, **kwargs):
        scored.extend(rollouts)
        return score(policy, rollouts, *args, **kwargs)

    monkeypatch.setattr(Policy, "score", counted)
    monkeypatch.setattr(Policy, "unsharded", alone)
    # without a tool no turn follows a result
    monkeypatch.setattr("methods.tree.after_results", lambda rollout, config: [1])
    one_step(policy, {}, [[5, 6, 7]] * run.prompts, run, step=train.step_of(algo))
    assert len(scored) == scoring_passes(run) * run.prompts * run.initial


# ---- the printed plan


@pytest.fixture
def nothing_loaded(monkeypatch):
    def loaded(*args, **kwargs):
        raise AssertionError("a model, a tokenizer or data was loaded")

    for module, name in (
        (transformers.AutoModelForCausalLM, "from_pretrained"),
        (transformers.AutoTokenizer, "from_pretrained"),
        (inputs, "load_questions"),
    ):
        monkeypatch.setattr(module, name, loaded)


def printed(capsys, *flags) -> str:
    plan.main([*map(str, flags)])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", PAPER | RELEASED)
def test_plan_of_every_config(name, capsys, nothing_loaded):
    text = printed(
        capsys, "--config", CONFIGS / f"{name}.json", "--gpus", 16 if "14b" in name else 8
    )
    assert (
        model_of(name) in text
        and "peak" in text
        and "at least" in text
        and "disk:" in text
        and "fits:" in text
    )


def test_plan_counts_the_data(capsys, nothing_loaded, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"question": "a", "answer": "1"}\n' * 300 + "\n")
    flags = ("--model", "Qwen/Qwen2.5-0.5B", "--data", tmp_path / "d.jsonl", "--gpus", 1)
    assert f"300 questions ({tmp_path / 'd.jsonl'})" in printed(
        capsys, *flags
    ) and "an epoch, 2 steps" in printed(capsys, *flags)
    assert "500 questions (--questions)" in printed(
        capsys, "--model", "Qwen/Qwen2.5-0.5B", "--questions", 500
    )
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.table({"question": ["a"] * 700}), tmp_path / "d.parquet")
    assert count_questions(str(tmp_path / "d.parquet")) == 700


@pytest.mark.parametrize("keep, kl, kept", [(0, 0.0, 5), (2, 0.0, 3), (2, 0.1, 4), (9, 0.0, 5)])
def test_checkpoints_that_are_kept(keep, kl, kept, capsys):
    text = printed(
        capsys,
        "--config",
        CONFIGS / "qwen2.5-7b-reasoning.json",
        "--keep_checkpoints",
        keep,
        "--kl_coef",
        kl,
    )
    room = f"{99.295 * kept:.0f} GiB for the {kept} that are there at most"
    flags = f"(--save_every 50, --keep_checkpoints {keep})"
    assert f"disk: 99.3 GiB a checkpoint, {room} {flags}" in text


def test_a_length_above_the_limit_is_refused(capsys):
    with pytest.raises(ValueError, match="--length 9999 is above --max_tokens 4096"):
        printed(capsys, "--config", CONFIGS / "qwen2.5-7b-reasoning.json", "--length", 9999)


def test_checkpointing_only_where_it_is_needed(capsys, nothing_loaded):
    """It is on in every run of the paper that needs it, whatever the passes, and nowhere else.

    Needed: without it less than a tenth of the memory would be left. Where it is not needed the
    plan says so, and where it would help.
    """
    for name in PAPER | RELEASED:
        run = read_settings(["--config", str(CONFIGS / f"{name}.json"), "--data", "d"])
        needed = not without_checkpointing(
            read_shape(run.model),
            dataclasses.replace(run, checkpointing=True),
            16 if "14b" in name else 8,
            0.9 * 80 * GIB,
        )
        assert run.checkpointing == needed, name
    reasoning = ("--config", CONFIGS / "qwen2.5-7b-reasoning.json")
    on = ("--checkpointing", "--micro_tokens", 49152)
    assert "--checkpointing is not needed with --micro_tokens 6144: 62." in printed(
        capsys, *reasoning, *on, "--gpu_gib", 70
    )
    assert "--checkpointing is not needed: " in printed(capsys, *reasoning, *on, "--gpu_gib", 500)
    off = read_settings(
        [
            "--config",
            str(CONFIGS / "qwen2.5-7b-reasoning.json"),
            "--data",
            "d",
            "--checkpointing",
            "false",
            "--rows",
            "1",
            "--micro_tokens",
            "6144",
        ]
    )
    shape = read_shape(off.model)
    flag, peak = advice(shape, off, 8, 60 * GIB)
    assert flag == "--checkpointing true" and peak <= 60 * GIB < most(shape, off, 8)
    read_settings(["--config", str(CONFIGS / "qwen2.5-7b-reasoning.json"), *flag.split()])


def test_plan_of_the_bundled_world(world, capsys, nothing_loaded):
    text = printed(
        capsys,
        "--config",
        LAPTOP,
        "--model",
        world / "model",
        "--data",
        world / "train.jsonl",
        "--gpus",
        1,
    )
    assert (
        "1 GPU of 80 GiB: a copy on each, float32" in text
        and "200 questions" in text
        and "fits:" in text
    )


def test_what_does_not_fit_comes_with_advice(capsys, nothing_loaded):
    text = printed(
        capsys, "--config", CONFIGS / "qwen2.5-7b-reasoning.json", "--prompts", 512, "--rows", 256
    )
    assert "DOES NOT FIT" in text and "of one setting --decode_rows 128 helps most" in text


@pytest.mark.slow
def test_bad_flags_of_a_plan(capsys):
    with pytest.raises(ValueError, match="--gpus must be whole nodes of --gpus_per_node 8, got 12"):
        Hardware(gpus=12)
    with pytest.raises(ValueError, match="--gpus must be >= 1"):
        plan.main(["--gpus", "0", "--model", "m"])
    with pytest.raises(ValueError, match=r"--fork_depth must be in \[0, 1\]"):
        plan.main(["--fork_depth", "1.5", "--model", "m"])
    for main, flags in ((plan.main, ["--gpu", "8", "--model", "m"]), (train.main, ["--gpus", "8"])):
        with pytest.raises(ValueError, match=f"unknown flag {flags[0]}"):
            main(flags)
    with pytest.raises(ValueError, match="python -m extras.plan, with the same flags"):
        train.main(["--plan", "--model", "m"])
    with pytest.raises(SystemExit):
        read_settings(["--help"])
    assert "extras.plan with the same flags prints what the run will cost" in " ".join(
        capsys.readouterr().out.split()
    )


def test_what_fits(capsys, nothing_loaded):
    """A row's cells are what the plan itself says of that model."""
    plan.main(["--fits", "--config", str(CONFIGS / "small.json"), "--checkpointing", "true"])
    table = capsys.readouterr().out
    assert table in (CONFIGS.parent / "docs" / "running.md").read_text()
    rows = dict(line.strip("| ").split(" | ", 1) for line in table.splitlines()[2:])
    assert rows["qwen2.5-7b"] == "split, bfloat16 | - | 4 | 2"
    flags = ["--config", CONFIGS / "small.json", "--checkpointing", "true"]
    flags += ["--model", "Qwen/Qwen2.5-7B-Instruct", "--data", "d"]
    flags += ["--shard", "true", "--dtype", "bfloat16", "--gpu_gib", 0.9 * 80]
    assert "DOES NOT FIT" in printed(capsys, *flags, "--gpus", 1)
    assert "fits: " in printed(capsys, *flags, "--gpus", 2)
