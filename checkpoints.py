"""Checkpoints of a run: folders that Hugging Face loads, with the trainer's state beside the weights; each is complete or does not count.

    save        on all processes: room on the disk, weights, each process's part of the trainer's state, manifest, rename
    newest      the newest complete one
    load_state  the trainer's state back, bit for bit

A checkpoint is written into NAME.tmp, listed with the lengths of its files in manifest.json, and renamed: a kill at any moment leaves the one before. Where several
nodes hold copies of the shards (HSDP) the first copy is written.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch.distributed.tensor import DTensor

from model import Policy, Ranks


def local(x):
    """This rank's part of a sharded tensor; anything else as it is."""
    return x.to_local() if isinstance(x, DTensor) else x


def part_of(policy: Policy, ranks: Ranks) -> tuple[int, int, bool]:
    """Which part of the trainer's state this rank holds, of how many, and whether it is the one to write it. Copied weights: one part, rank 0's."""
    mesh = next((p.device_mesh for p in policy.model.parameters() if isinstance(p, DTensor)), None)
    if mesh is None:
        return 0, 1, ranks.rank == 0
    return (
        mesh.get_local_rank(mesh.ndim - 1),
        mesh.size(mesh.ndim - 1),
        mesh.ndim == 1 or mesh.get_local_rank(0) == 0,
    )


def save(
    folder: Path, policy: Policy, optimizers: list, numbers: dict, ranks: Ranks = Ranks()
) -> None:
    """Write a checkpoint, unless it is there; every rank calls it. numbers: what else the trainer wants back, plain numbers.

    Raises: OSError, on all ranks, if the disk has no room or a rank cannot write; what was saved before stays.
    """
    aside, (part, _, writes) = folder.with_name(folder.name + ".tmp"), part_of(policy, ranks)
    if ranks.gather(complete(folder))[0]:
        return
    _agree(lambda: make_room(folder, aside, policy), folder, ranks.rank == 0, ranks)
    weights = whole_weights(policy, keep=ranks.rank == 0)
    _agree(lambda: write_model(aside, policy, weights), folder, ranks.rank == 0, ranks)
    _agree(
        lambda: torch.save(
            trainer_state(policy, optimizers, numbers), aside / f"trainer_{part}.pt"
        ),
        folder,
        writes,
        ranks,
    )
    _agree(lambda: publish(aside, folder), folder, ranks.rank == 0, ranks)


def _agree(work, folder: Path, mine: bool, ranks: Ranks) -> None:
    """Do something that may fail, on the ranks whose task it is; if it fails on any, clean up and raise OSError on all. A collective, even where it fails."""
    problem = ""
    try:
        if mine:
            work()
    # torch.save and safetensors report a full disk in exceptions of their own
    except (OSError, RuntimeError, SafetensorError) as failed:
        problem = f"rank {ranks.rank}: {failed}"
    problems = list(filter(None, ranks.gather(problem)))
    if problems:
        if ranks.rank == 0:
            shutil.rmtree(folder.with_name(folder.name + ".tmp"), ignore_errors=True)
        raise OSError(
            f"no checkpoint {folder.name}: {problems[0]}; the newest complete one is {newest(folder.parent)}"
        )


def make_room(folder: Path, aside: Path, policy: Policy) -> None:
    """Empty folder to write into; OSError that says how much is missing if the disk has less room than the checkpoint takes."""
    shutil.rmtree(aside, ignore_errors=True)
    numbers = sum(p.numel() for p in policy.model.parameters())
    # weights; AdamW's two moments, float32 weights of shards
    needed = numbers * (policy.dtype.itemsize + (12 if policy.shards else 8)) + (64 << 20)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise OSError(
            f"{folder.parent} has {free / 1e9:.2f} GB free, a checkpoint takes {needed / 1e9:.2f}: {(needed - free) / 1e9:.2f} GB are missing"
        )
    aside.mkdir()


def whole_weights(policy: Policy, keep: bool) -> dict | None:
    """The weights as save_pretrained wants them, in the dtype they work in; None for those of an unsharded model, which it takes itself. A collective."""
    if not policy.shards:
        return None
    weights = {}
    # a tied head comes once
    for name, p in policy.model.named_parameters():
        whole = p.full_tensor() if isinstance(p, DTensor) else p.detach()
        if keep:
            weights[name] = whole.to(policy.dtype).cpu()
    return weights


def write_model(aside: Path, policy: Policy, weights: dict | None) -> None:
    """Model and tokenizer as Hugging Face has them. save_pretrained takes the dtype from the shards: config.json is told the right one."""
    policy.model.save_pretrained(aside, state_dict=weights)
    config = json.loads((aside / "config.json").read_text())
    (aside / "config.json").write_text(
        json.dumps(config | {"dtype": str(policy.dtype).removeprefix("torch.")}, indent=2)
    )
    policy.tokenizer.save_pretrained(aside)


def trainer_state(policy: Policy, optimizers: list, numbers: dict) -> dict:
    """What a checkpoint needs besides the weights: the optimizers' moments, and the float32 weights if others are exported. Of sharded tensors this rank's part."""
    moments = [
        [
            {name: local(x) for name, x in o.state[p].items()}
            for group in o.param_groups
            for p in group["params"]
        ]
        for o in optimizers
    ]
    return {
        "numbers": numbers,
        "weights": [local(p.detach()) for p in policy.model.parameters()] if policy.shards else [],
        "moments": moments,
    }


@torch.no_grad()
def load_state(policy: Policy, optimizers: list, folder: Path, ranks: Ranks = Ranks()) -> dict:
    """Put a checkpoint's trainer state back, bit for bit, and return its numbers. ValueError if it was sharded over another number of processes."""
    part, parts, _ = part_of(policy, ranks)
    saved = len(list(folder.glob("trainer_*.pt")))
    if saved != parts:
        raise ValueError(
            f"{folder} was saved in {saved} parts and this run has {parts}: start with --shard and as many processes per node, or without --shard, as then"
        )
    state = torch.load(folder / f"trainer_{part}.pt", weights_only=True, map_location="cpu")

    def spread(x, p):
        # AdamW counts its steps on the CPU
        x = x.to(p.device) if x.ndim else x
        return (
            DTensor.from_local(x, p.device_mesh, p.placements, shape=p.shape, stride=p.stride())
            if x.ndim and isinstance(p, DTensor)
            else x
        )

    for p, weights in zip(policy.model.parameters(), state["weights"]):
        local(p).copy_(weights)
    for optimizer, moments in zip(optimizers, state["moments"]):
        for p, mine in zip(
            (p for group in optimizer.param_groups for p in group["params"]), moments
        ):
            optimizer.state[p] = {name: spread(x, p) for name, x in mine.items()}
    return state["numbers"]


def publish(aside: Path, folder: Path) -> None:
    """Make a finished checkpoint the newest: manifest, disk, rename, and `latest` names it if it is a step's."""
    sizes = {file.name: file.stat().st_size for file in sorted(aside.iterdir())}
    (aside / "manifest.json").write_text(json.dumps(sizes, indent=1))
    for file in [*aside.iterdir(), aside]:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor), os.close(descriptor)
    # there only if it is not complete
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)
    if folder.name.startswith("step_"):
        marker = folder.parent / "latest.tmp"
        marker.write_text(folder.name)
        os.replace(marker, folder.parent / "latest")


def complete(folder: Path) -> bool:
    """Is every file of the manifest there, at its full length?"""
    try:
        sizes = json.loads((folder / "manifest.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def newest(out: str | Path, kind: str = "step") -> Path | None:
    """Folder of the newest complete checkpoint of a run, if any. kind: "step", or "cold": within the cold start."""
    return next(
        (
            folder
            for folder in sorted(Path(out).glob(f"{kind}_??????"), reverse=True)
            if complete(folder)
        ),
        None,
    )


def step_in(folder: Path | None) -> int:
    """How many steps were done when a checkpoint was saved."""
    return int(folder.name.rpartition("_")[2]) if folder else 0


def prune(out: str | Path, keep: int, spare: str = "", kind: str = "step") -> None:
    """Delete all complete checkpoints but the `keep` newest (0: none is deleted) and the one named `spare`."""
    for folder in (
        [f for f in sorted(Path(out).glob(f"{kind}_??????")) if complete(f)][:-keep] if keep else []
    ):
        if folder.name != spare:
            shutil.rmtree(folder, ignore_errors=True)
