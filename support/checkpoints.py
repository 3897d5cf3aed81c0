"""Checkpoints of a run: folders that Hugging Face loads, the trainer's state beside the weights.

    1. save         on all processes: room on the disk, weights, trainer's state, manifest, rename
    2. load_state   the trainer's state back, on as many processes as there are then

Weights are written by save_pretrained. What training needs besides, the optimizers' moments and
the float32 weights of shards, goes to trainer/ by torch.distributed.checkpoint: every process
writes its shards, copies of a shard (HSDP) are written once, and any number of processes reads
them. A checkpoint is written into NAME.tmp, listed with the lengths of its files in manifest.json,
and renamed: a kill at any moment leaves the one before.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from policy import Policy
from support.files import replace, write_aside
from support.optimizers import empty_moment
from support.ranks import Ranks
from support.runfiles import complete, newest


def save(folder: Path, policy: Policy, optimizers: list, numbers: dict, ranks: Ranks) -> None:
    """Write a checkpoint, unless it is there; every rank calls it.

    numbers: what else the trainer wants back, plain numbers.
    Raises: OSError, on all ranks, if the disk has no room or a rank cannot write; what was saved
    before stays.
    """
    aside, first = folder.with_name(folder.name + ".tmp"), ranks.rank == 0
    if ranks.gather(complete(folder))[0]:
        return

    def together(work: Callable[[], None], mine: bool) -> None:
        ranks.agree(lambda: _named(work, ranks.rank), mine)

    try:
        together(lambda: make_room(folder, aside, policy), first)
        weights = whole_weights(policy, keep=first)
        together(lambda: write_model(aside, policy, weights, numbers), first)
        together(lambda: write_state(aside, policy, optimizers), first or bool(policy.shards))
        together(lambda: publish(aside, folder), first)
    except OSError as problem:
        if first:
            shutil.rmtree(aside, ignore_errors=True)
        left = f"the newest complete one is {newest(folder.parent)}"
        raise OSError(f"no checkpoint {folder.name}: {problem}; {left}") from None


def _named(work: Callable[[], None], rank: int) -> None:
    """Do something; whatever a full disk makes the libraries raise becomes an OSError."""
    try:
        work()
    except CheckpointException as failed:
        at, (problem, _) = next(iter(failed.failures.items()))
        raise OSError(f"rank {at}: {problem}") from None
    except (OSError, RuntimeError, SafetensorError) as failed:
        raise OSError(f"rank {rank}: {failed}") from None


def make_room(folder: Path, aside: Path, policy: Policy) -> None:
    """Empty folder to write into. OSError that says how much is missing if the disk is too full."""
    shutil.rmtree(aside, ignore_errors=True)
    numbers = sum(p.numel() for p in policy.model.parameters())
    # weights; AdamW's two moments, float32 weights of shards
    needed = numbers * (policy.dtype.itemsize + (12 if policy.shards else 8)) + (64 << 20)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        room = f"{folder.parent} has {free / 1e9:.2f} GB free, a checkpoint takes"
        missing = f"{(needed - free) / 1e9:.2f} GB are missing"
        raise OSError(f"{room} {needed / 1e9:.2f}: {missing}")
    aside.mkdir()


def whole_weights(policy: Policy, keep: bool) -> dict | None:
    """The weights in the dtype they work in, whole, where they are kept; a collective.

    None for an unsharded model, whose weights save_pretrained takes itself.
    """
    if not policy.shards:
        return None
    weights = {}
    # a tied head comes once
    for name, p in policy.model.named_parameters():
        whole = p.full_tensor() if isinstance(p, DTensor) else p.detach()
        if keep:
            weights[name] = whole.to(policy.dtype).cpu()
    return weights


def write_model(aside: Path, policy: Policy, weights: dict | None, numbers: dict) -> None:
    """Model and tokenizer as Hugging Face has them, the trainer's numbers beside them."""
    policy.model.save_pretrained(aside, state_dict=weights)
    # save_pretrained takes the dtype from the shards
    config = json.loads((aside / "config.json").read_text())
    config["dtype"] = str(policy.dtype).removeprefix("torch.")
    (aside / "config.json").write_text(json.dumps(config, indent=2))
    policy.tokenizer.save_pretrained(aside)
    (aside / "trainer.json").write_text(json.dumps(numbers))


def write_state(aside: Path, policy: Policy, optimizers: list) -> None:
    """The tensors of the trainer's state; of shards every rank writes its own."""
    state = trainer_state(policy, optimizers)
    writer = dcp.FileSystemWriter(aside / "trainer")
    with warnings.catch_warnings():
        # one process alone is meant
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.save(state, storage_writer=writer, no_dist=not policy.shards)


def trainer_state(policy: Policy, optimizers: list) -> dict[str, torch.Tensor]:
    """What a checkpoint needs besides the model, by names such as moments/0/lm_head.weight/step.

    weights/NAME: float32 ones of shards. moments/OPTIMIZER/NAME/MOMENT: of the optimizers.
    """
    names = {p: name for name, p in policy.model.named_parameters()}
    weights = {f"weights/{name}": p.detach() for p, name in names.items() if policy.shards}
    return weights | {
        f"moments/{k}/{names[p]}/{moment}": x
        for k, optimizer in enumerate(optimizers)
        for p, moments in optimizer.state.items()
        for moment, x in moments.items()
    }


@torch.no_grad()
def load_state(policy: Policy, optimizers: list, folder: Path) -> dict:
    """Put a checkpoint's trainer state back, bit for bit, and return its numbers."""
    reader = dcp.FileSystemReader(folder / "trainer")
    saved = reader.read_metadata().state_dict_metadata
    named, state = dict(policy.model.named_parameters()), {}
    for key, what in saved.items():
        kind, *where = key.split("/")
        if kind == "weights":
            state[key] = named[where[0]].detach()
            continue
        number, name, moment = where
        p = named[name]
        optimizer = optimizers[int(number)]
        x = empty_moment(optimizer, p, what.size, what.properties.dtype)
        state[key] = optimizer.state[p][moment] = x
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(state, storage_reader=reader, no_dist=not policy.shards)
    return json.loads((folder / "trainer.json").read_text())


def publish(aside: Path, folder: Path) -> None:
    """Make a finished checkpoint the newest: manifest, disk, rename; `latest` names a step's."""
    files = sorted(file for file in aside.rglob("*") if file.is_file())
    sizes = {str(file.relative_to(aside)): file.stat().st_size for file in files}
    (aside / "manifest.json").write_text(json.dumps(sizes, indent=1))
    for file in [*aside.rglob("*"), aside]:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    # one that is there is not complete
    replace(aside, folder)
    if folder.name.startswith("step_"):
        write_aside(folder.parent / "latest", folder.name)
