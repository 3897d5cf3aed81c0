"""examples/lift_*.py as a stranger runs them, and their numbers against the project's own."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import sampler_for

import appo
from config import Config
from policy import Policy, pad
from protocol import encode_prompt
from rollout import Rollout

HERE = Path(appo.__file__).parent
EQUATIONS = HERE / "examples" / "lift_equations.py"
SAMPLER = HERE / "examples" / "lift_sampler.py"


def run(script, *flags, folder=HERE):
    """The script in a process of its own, from a folder; one thread, as in the tests."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    command = [sys.executable, str(script), *map(str, flags)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


# ---- lift_equations


@pytest.fixture(scope="module")
def lifted():
    """The names of the example."""
    return SimpleNamespace(**runpy.run_path(str(EQUATIONS)))


@pytest.mark.slow
def test_the_two_files_are_all_it_needs_and_it_learns(lifted, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for file in (EQUATIONS, HERE / "branching.py", HERE / "advantage.py"):
        shutil.copy(file, folder)
    done = run("lift_equations.py", folder=folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    updates = list(lifted.train(steps=15, seed=0))
    assert len(lines) == len(updates) == 30
    for line, (batch, points, branches, adv, value) in zip(lines, updates):
        said = [float(x) for x in re.findall(r"[+-]?\d+\.\d+", line)]
        wanted = [batch["rewards"].mean(), branches["rewards"].mean(), adv.abs().mean(), value]
        assert said == pytest.approx([float(x) for x in wanted], abs=1e-3)
        assert f"branches {len(branches['rewards'])}, " in line and line.endswith(str(points[0]))
    rewards = [float(re.search(r"reward (\S+)", line)[1]) for line in lines]
    assert rewards[0] < 0.2 and rewards[-1] > 0.9


def as_rollouts(lifted, batch, branches):
    """A batch of the example as rollouts of this project, and its branches."""
    groups = list(dict.fromkeys(batch["uid"]))
    mine = []
    for row, uid in enumerate(batch["uid"]):
        ids = batch["responses"][row].tolist()
        ended = lifted.END in ids
        T = ids.index(lifted.END) + 1 if ended else len(ids)
        r = Rollout([0], 0, group=groups.index(uid), ids=ids[:T])
        r.mask = batch["response_mask"][row, :T].bool().tolist()
        r.reward = batch["rewards"][row].item()
        r.logp, r.logp_old, r.entropy = (
            torch.where(torch.tensor(r.mask), batch[name][row, :T].detach(), 0.0)
            for name in ("log_probs", "old_log_probs", "entropys")
        )
        mine.append(r)
    forked = []
    for reward, parent, t in zip(*(branches[k].tolist() for k in ("rewards", "parent", "fork_at"))):
        x = Rollout([0], 0, group=mine[parent].group, parent=mine[parent], fork_at=t)
        x.reward = reward
        forked.append(x)
    return mine, forked


def test_equations_equal_those_of_a_step(lifted):
    """Points, credit and loss of six updates: appo.py finds the same from the same numbers."""
    config = Config(branches=lifted.B, max_tokens=lifted.T + 4, min_new=4)
    stub = SimpleNamespace(text=lifted.WORDS, stop_ids={lifted.END})
    stub.tokenizer = SimpleNamespace(pad_token_id=None)
    degenerate = []
    for batch, points, branches, adv, value in lifted.train(steps=3, seed=1):
        mine, forked = as_rollouts(lifted, batch, branches)
        appo.set_omega(mine, config)
        assert appo.decision_points(stub, mine, config) == points
        places = [(row, t) for row, ts in enumerate(points) for t in ts]
        assert [(mine.index(x.parent), x.fork_at) for x in forked] == places
        appo.assign_credit(mine, forked, config)
        ours = pad([r.advantage for r in mine], torch.float32, lifted.T)
        torch.testing.assert_close(adv, ours, atol=1e-5, rtol=0)
        logp = pad([r.logp for r in mine], torch.float32)
        loss, _ = appo.loss_of(mine, logp, len(mine), config, appo.policy_loss)
        assert value == pytest.approx(loss.item(), abs=1e-6)
        degenerate.append(all(r.degenerate for r in mine))
        assert len(forked) > 20 and adv.abs().max() > 0.5
    # entropy alone chooses before each batch's first update
    assert degenerate == [True, False] * 3


def test_points_are_what_the_policy_said_and_no_end_of_turn(lifted):
    for batch, points, *_ in lifted.train(steps=3, seed=2):
        assert not batch["response_mask"].all()
        for row, ts in enumerate(points):
            assert len(ts) <= lifted.B
            for t in ts:
                word = lifted.WORDS[batch["responses"][row, t]]
                assert t > 0 and batch["response_mask"][row, t]
                assert word not in (".", "<end>")


# ---- lift_sampler


def tree(policy, prompt, places=None):
    """The lines that the example should print, and its rollouts."""
    sampler = sampler_for(policy, {}, max_tokens=40, max_calls=3, max_result_tokens=16)
    ids = encode_prompt(policy.tokenizer, [{"role": "user", "content": prompt}])
    mine = sampler.initial([ids], 8, [0])
    cache = policy.score(mine, 1.0, 8192, keep_cache=True)
    best = [
        max((t for t, own in enumerate(r.mask) if own), key=lambda t: r.entropy[t]) for r in mine
    ]
    places = places or list(enumerate(best[:3]))
    points = [[t for n, t in places if n == row] for row in range(8)]
    branches = sampler.branches(mine, points, cache)

    def text(ids):
        whole = "".join(policy.text[i] for i in ids)
        return "".join(c if c.isprintable() else "·" for c in whole)

    lines = []
    for n, r in enumerate(mine):
        lines.append(f"{n}  {text(r.ids)}")
        for x in branches:
            if x.parent is r:
                indent = len(f"{n}  {text(r.ids[: x.fork_at])}") - 1
                lines.append(" " * indent + "└" + text(x.ids[x.fork_at :]))
    return lines, mine


@pytest.fixture
def main(monkeypatch, capsys):
    """lift_sampler.py with flags, in this process: the lines that it prints."""

    def called(*flags):
        monkeypatch.setattr(sys, "argv", [str(SAMPLER), *map(str, flags)])
        runpy.run_path(str(SAMPLER), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return called


def test_a_tree_of_the_bundled_model(world, main):
    wanted, mine = tree(Policy.load(str(world / "model")), "What is 6 times 7?")
    lines = main("--model", world / "model")
    assert lines == wanted and len(lines) == 8 + 3
    assert [line[:1] for line in lines if "└" not in line] == list("01234567")
    # a branch begins below the token that it replaces
    assert all(line[:1] == " " for line in lines if "└" in line)


@pytest.mark.slow
def test_a_tree_without_a_model():
    done = run(SAMPLER, folder="/")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8 + 3


def test_forks_by_hand_and_none_inside_a_result(world, agent_folder, main, capsys):
    row = json.loads((world / "train.jsonl").read_text().splitlines()[0])
    prompt = row["prompt"][-1]["content"]
    policy = Policy.load(str(agent_folder))
    _, mine = tree(policy, prompt)
    n, r = next((n, r) for n, r in enumerate(mine) if False in r.mask and r.mask[-1])
    inside, other = r.mask.index(False), (n + 1) % 8
    after = len(r.mask) - r.mask[::-1].index(False)
    flags = ["--model", agent_folder, "--prompt", prompt, "--at"]
    wanted, _ = tree(policy, prompt, [(n, after), (n, 2), (other, 3)])
    assert main(*flags, f"{n}:{after}", f"{n}:2", f"{other}:3") == wanted
    for wrong in (inside, after - 1, len(r.ids)):
        said = re.escape(f"no fork in a tool result or padding: (row, token) in [({n}, {wrong})]")
        with pytest.raises(SystemExit, match=said):
            main(*flags, f"{n}:{wrong}")
        assert not capsys.readouterr().out
