"""support/processes.py: which device a process takes; the meeting itself is tests/test_ranks.py."""

from datetime import timedelta

import pytest
import torch.distributed as dist

from config import Config
from support import processes
from support.processes import join_ranks, mesh_of
from support.ranks import Ranks


def test_a_missing_gpu_is_refused_and_auto_says_what_it_took(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="--device cuda: this PyTorch sees no GPU"):
        join_ranks(Config(device="cuda"))
    run, ranks = join_ranks(Config(device="auto"))
    assert run.device == "cpu" and ranks.world == 1
    assert capsys.readouterr().out == "--device auto: cpu, as this PyTorch sees no GPU\n"


def test_a_meeting_waits_as_long_as_the_run_says(monkeypatch):
    """At the rendezvous and in the group of all processes."""
    told = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    meeting = [(dist.HashStore(), 0, 2)]
    monkeypatch.setattr(
        processes, "rendezvous", lambda url, timeout: told.append(timeout) or iter(meeting)
    )
    monkeypatch.setattr(
        processes.dist, "init_process_group", lambda *a, timeout, **k: told.append(timeout)
    )
    join_ranks(Config(device="cpu", rank_timeout=7.0))
    assert told == [timedelta(seconds=7)] * 2


def test_on_one_node_there_is_no_mesh():
    assert mesh_of(Config(device="cpu"), Ranks()) is None
