"""The processes of a run: how they meet, and which of them hold shards and copies."""

import dataclasses
import datetime
import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from config import Config
from support.models import pick_device
from support.ranks import Ranks


def join_ranks(run: Config) -> tuple[Config, Ranks]:
    """Join the other processes if torchrun started several; with --shard one alone joins itself.

    Returns: the run with this process's device, the ranks.
    """
    several, asked = int(os.environ.get("WORLD_SIZE", 1)) > 1, run.device
    run = dataclasses.replace(run, device=pick_device(asked))
    cuda = run.device.startswith("cuda")
    if several and cuda:
        run = dataclasses.replace(run, device=f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        torch.cuda.set_device(run.device)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if several:
        patience = datetime.timedelta(seconds=run.rank_timeout)
        store, rank, world = next(rendezvous("env://", timeout=patience))
        # torchrun keeps its store when it restarts the processes: their addresses there are old
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
        store = dist.PrefixStore(f"attempt_{attempt}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience)
    elif run.shard and not dist.is_initialized():
        # of the kind that torchrun makes, which every backend is used with
        store = dist.TCPStore("127.0.0.1", 0, world_size=1, is_master=True)
        dist.init_process_group(backend, rank=0, world_size=1, store=store)
    ranks = Ranks()
    if asked == "auto":
        why = "" if cuda else ", as this PyTorch sees no GPU"
        print(f"--device auto: {run.device}{why}", flush=True)
    return run, ranks


def mesh_of(run: Config, ranks: Ranks) -> DeviceMesh | None:
    """Shards within a node, copies across nodes (HSDP); None, all processes, on a single node."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))
    if ranks.world <= here:
        return None
    return node_mesh(run.device.split(":")[0], ranks.world // here, here, run.rank_timeout)


def node_mesh(kind: str, nodes: int, here: int, patience: float) -> DeviceMesh:
    """A mesh of `nodes` copies of `here` shards each. kind: "cpu" or "cuda".

    patience: seconds that its processes wait for each other.
    """
    mesh = torch.arange(nodes * here).view(nodes, here)
    timeout = datetime.timedelta(seconds=patience)
    groups = [
        dist.new_subgroups_by_enumeration(lines.tolist(), timeout=timeout)[0]
        for lines in (mesh.T, mesh)
    ]
    return DeviceMesh.from_group(groups, kind, mesh, mesh_dim_names=("node", "shard"))


def local(x: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor; anything else as it is."""
    return x.to_local() if isinstance(x, DTensor) else x
