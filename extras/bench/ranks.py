"""Two processes of torchrun (gloo, CPU) against one: the same rollouts, the same weights.

As a module it is what the part runs: [torchrun ... -m | python -m] extras.bench.ranks FOLDER
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import transformers

import appo
from config import Config
from extras.bench.measure import at_most, figure
from extras.bench.runs import HERE
from extras.world.modes import Mode
from extras.world.prepare import prepare
from policy import Policy
from protocol import encode_prompt
from sampling import Sampler
from support.processes import join_ranks, node_mesh
from support.questions import load_questions
from support.sampling_params import SamplingParams
from support.seeds import mix_seed

SMALL = Mode(questions=64, tests=16, copies=0, traces=160, faultless=160)
CONFIG = Config(
    prompts=4,
    minibatch=4,
    max_tokens=64,
    max_calls=4,
    max_result_tokens=48,
    micro_tokens=512,
    clip_grad=0.5,
    decode_rows=16,
    prefill_chunk=16,
)


def ranks(args) -> dict:
    """Largest difference of any parameter after three updates; rollouts that differ in any id.

    `moved`: what the updates changed, for comparison.
    """
    folder = Path(args.out) / "ranks"
    prepare(SMALL, 0, folder)
    run_as(folder, 1)
    run_as(folder, 2)
    one, two = (torch.load(folder / f"result_{processes}.pt") for processes in (1, 2))
    start = weights_of(Policy.load(str(folder / "model")))
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
        [sys.executable, "-m", *launcher, "extras.bench.ranks", str(folder.resolve())],
        check=True,
        cwd=HERE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def one_process(folder: Path) -> None:
    """One of the processes: its share of the rollouts, then three updates, copied and sharded.

    The updates are on the rollouts that one process alone has drawn.
    """
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    # shards need a process group, even of one
    _, group = join_ranks(Config(shard=True, device="cpu"))
    model = str(folder / "model")
    policy = Policy.load(model)
    questions = load_questions(str(folder / "train.jsonl"))[: CONFIG.prompts]
    mine = group.share(list(range(len(questions))))
    sampler = Sampler(policy, {}, SamplingParams.of(CONFIG))
    rollouts = sampler.initial(
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
    shard: bool | tuple[int, int],
    dtype: str = "float32",
    take: int | None = None,
) -> tuple[list, dict]:
    """Three updates with made-up credit on this rank's part of the rollouts in a file.

    shard: False for copies, True for shards over all processes, (nodes, processes of each) for
    shards in a node and copies across nodes. take: the first so many rollouts.
    Returns: (weights, stats of the last update).
    """
    policy = Policy.load(model)
    rollouts = pickle.loads(Path(file).read_bytes())[:take]
    for p in policy.model.parameters():
        p.data = p.data.to(getattr(torch, dtype))
    policy.dtype = getattr(torch, dtype)
    if shard:
        nodes = None if shard is True else node_mesh("cpu", *shard, 600.0)
        policy.shard(dtype, nodes)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.05, momentum=0.9)
    mine = policy.ranks.share(rollouts)
    for k in range(3):
        with policy.unsharded():
            policy.score(mine, 1.0, config.micro_tokens)
        for r in mine:
            made_up = random_credit(r.seed % 10**9 + k, config.max_tokens)
            r.logp_old, r.advantage = r.logp, made_up[: len(r.ids)] * torch.tensor(r.mask)
        stats = appo.update(policy, optimizer, mine, config)
    return weights_of(policy), stats


def random_credit(seed: int, length: int) -> torch.Tensor:
    """A number for every token."""
    return torch.randn(length, generator=torch.Generator().manual_seed(seed))


def weights_of(policy: Policy) -> list[torch.Tensor]:
    """Copies of the whole weights. A collective where they are sharded."""
    return [
        (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for p in policy.model.parameters()
    ]


def apart(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Largest difference of any number."""
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    one_process(Path(sys.argv[1]))
