"""checkpoints.py: ordinary Hugging Face folders, and what kills, full disks and damage leave
behind.
"""

import os
import resource
import shutil
import signal

import pytest
import torch
import transformers
from conftest import SMALL, arguments, forked, lines

import train
from policy import Policy
from support import checkpoints
from support.ranks import Ranks
from support.runfiles import newest


def test_checkpoints_are_ordinary_hugging_face_folders(finished, world, prompts):
    model = transformers.AutoModelForCausalLM.from_pretrained(finished / "step_000004")
    tok = transformers.AutoTokenizer.from_pretrained(finished / "step_000004")
    policy = Policy.load(str(finished / "step_000004"))
    x = torch.tensor([prompts[0]])
    assert torch.allclose(model(x).logits, policy.model(x).logits, atol=1e-5)
    assert tok.get_vocab() == policy.tokenizer.get_vocab()
    before = Policy.load(str(finished / "step_000000"))
    assert any(
        not torch.equal(a, b) for a, b in zip(before.model.parameters(), policy.model.parameters())
    )


def test_reloaded_weights_give_the_logits_of_the_live_model(agent, tmp_path, prompts):
    """After updates, so that the weights in memory are not those that were loaded."""
    optimizer, x = torch.optim.AdamW(agent.model.parameters(), lr=1e-2), torch.tensor([prompts[0]])
    agent.model(x).logits.logsumexp(-1).sum().backward(), optimizer.step()
    checkpoints.save(tmp_path / "step_000001", agent, [optimizer], {}, Ranks())
    with torch.no_grad():
        assert torch.equal(
            Policy.load(str(tmp_path / "step_000001")).model(x).logits, agent.model(x).logits
        )


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(finished, world, agent_folder, tmp_path, capsys):
    """The newest one cut short, another left half-written by a kill:
    the run goes on from the one before and ends the same.
    """
    shutil.copytree(finished, tmp_path / "run")
    file = next((tmp_path / "run" / "step_000004").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    (tmp_path / "run" / "step_000006.tmp").mkdir()
    train.main(arguments(world, tmp_path, model=agent_folder, out=tmp_path / "run", **SMALL))
    assert f"going on from {tmp_path / 'run' / 'step_000002'}" in capsys.readouterr().out
    a, b = (
        Policy.load(str(out / "step_000004")).model.parameters()
        for out in (finished, tmp_path / "run")
    )
    assert all(torch.equal(x, y) for x, y in zip(a, b))
    assert [x["step"] for x in lines(tmp_path / "run", "metrics") if "reward" in x] == [1, 2, 3, 4]


def longer(world, agent_folder, tmp_path, finished):
    """The flags of one step more in a copy of the finished run."""
    shutil.copytree(finished, tmp_path / "run")
    settings = SMALL | dict(steps=5, eval_questions=0)
    return arguments(world, tmp_path, model=agent_folder, out=tmp_path / "run", **settings)


@pytest.mark.slow
def test_a_disk_without_room_leaves_the_old_checkpoint(
    finished, world, agent_folder, tmp_path, monkeypatch
):
    flags, usage = longer(world, agent_folder, tmp_path, finished), shutil.disk_usage
    monkeypatch.setattr(
        checkpoints.shutil, "disk_usage", lambda path: usage(path)._replace(free=10**6)
    )
    with pytest.raises(
        OSError,
        match=r"no checkpoint step_000005: rank 0: .*run has 0.00 GB free, a checkpoint takes "
        r"0.07: 0.07 GB are missing; the newest complete one is .*step_000004",
    ):
        train.main(flags)
    monkeypatch.undo()
    assert {p.name for p in (tmp_path / "run").glob("step_*")} == {
        "step_000000",
        "step_000002",
        "step_000004",
    }
    train.main(flags)
    assert (tmp_path / "run" / "latest").read_text() == "step_000005"


def _without_room(_, checkpoint, folder, kilobytes, said):
    """Save once; then again, when files may not be larger than that."""
    policy = Policy.load(str(checkpoint))
    optimizer = torch.optim.AdamW(policy.model.parameters())
    checkpoints.load_state(policy, [optimizer], checkpoint)
    checkpoints.save(folder / "step_000001", policy, [optimizer], {}, Ranks())
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))
    with pytest.raises(OSError) as problem:
        checkpoints.save(folder / "step_000002", policy, [optimizer], {}, Ranks())
    said.write_text(str(problem.value))


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [200, 2000], ids=["the weights", "the trainer's state"])
def test_a_disk_that_is_full_after_all_leaves_the_old_checkpoint(finished, tmp_path, kilobytes):
    """The operating system refuses to write on, first the weights, then the trainer's state:
    an OSError that says so, no rubbish, the old checkpoint.
    """
    said = tmp_path / "said"
    forked(_without_room, 1, finished / "step_000004", tmp_path, kilobytes, said).join()
    text = said.read_text()
    assert text.startswith("no checkpoint step_000002: rank 0: "), text
    assert f"the newest complete one is {tmp_path / 'step_000001'}" in text
    assert [p.name for p in tmp_path.iterdir() if "step_" in p.name] == [
        "step_000001"
    ] and checkpoints.complete(tmp_path / "step_000001")


def _killed_in(_, where, flags):
    """A run that kill -9 ends in the middle of saving."""
    module, name = (os, "replace") if where == "os.replace" else (checkpoints, where)
    work = getattr(module, name)

    def killed(*a):
        if where == "os.replace" and "step_" not in str(a[0]):
            return work(*a)
        if where == "write_model":
            work(*a)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, killed)
    train.main(flags)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["write_model", "trainer_state", "publish", "os.replace"])
def test_kill_9_in_the_middle_of_saving_leaves_the_old_checkpoint(
    finished, world, agent_folder, tmp_path, where
):
    flags = longer(world, agent_folder, tmp_path, finished)
    killed = forked(_killed_in, 1, where, flags).processes[0]
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert (tmp_path / "run" / "step_000005.tmp").exists() and newest(
        tmp_path / "run"
    ).name == "step_000004"
    train.main(flags)
    assert (
        not (tmp_path / "run" / "step_000005.tmp").exists()
        and newest(tmp_path / "run").name == "step_000005"
    )


def test_a_checkpoint_that_is_there_is_not_written_again(agent, tmp_path):
    """Between deleting and renaming there would be none."""
    optimizer = torch.optim.AdamW(agent.model.parameters())
    checkpoints.save(tmp_path / "step_000001", agent, [optimizer], {"skipped": 2}, Ranks())
    before = {file.name: file.stat().st_ino for file in (tmp_path / "step_000001").iterdir()}
    checkpoints.save(tmp_path / "step_000001", agent, [optimizer], {"skipped": 0}, Ranks())
    assert before == {
        file.name: file.stat().st_ino for file in (tmp_path / "step_000001").iterdir()
    }
    assert checkpoints.load_state(agent, [optimizer], tmp_path / "step_000001") == {"skipped": 2}


@pytest.mark.slow
def test_an_old_checkpoint_is_there_until_a_newer_one_is_complete(
    finished, world, agent_folder, tmp_path, monkeypatch
):
    flags = longer(world, agent_folder, tmp_path, finished)
    monkeypatch.setattr(checkpoints, "publish", lambda *a: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no checkpoint step_000005"):
        train.main(flags + ["--keep", "1"])
    assert {p.name for p in (tmp_path / "run").glob("step_*")} == {"step_000004"}


@pytest.mark.slow
def test_old_checkpoints_are_deleted_when_a_newer_one_is_complete(world, agent_folder, tmp_path):
    train.main(
        arguments(
            world,
            tmp_path,
            model=agent_folder,
            **SMALL | dict(steps=3, save_every=1, keep_checkpoints=2, eval_questions=0),
        )
    )
    assert {p.name for p in (tmp_path / "run").glob("step_*")} == {"step_000002", "step_000003"}
