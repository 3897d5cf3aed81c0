"""Several processes (gloo, on the CPU):

the same update however it is spread, a rank without data, sharded weights, exact resume, signals,
torchrun.
"""

import dataclasses
import datetime
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import forked, join_all, sampler_for, trainer_tensors
from torch.distributed.tensor import DTensor

import appo
import train
from config import LAPTOP, Config, read_settings
from extras.bench import ranks as bench
from extras.bench.ranks import weights_of
from extras.memory import memory
from extras.shape import read_shape
from policy import Policy
from protocol import encode_prompt
from rollout import Rollout
from support import checkpoints, heartbeat, log_probs, sft
from support.examples import read_examples
from support.inputs import only_rank_0_prints
from support.processes import local, node_mesh
from support.questions import load_questions
from support.ranks import Ranks
from support.runfiles import complete
from support.seeds import mix_seed
from support.tree_levels import logp_of_trees

HERE = Path(__file__).parent
CONFIG = Config(
    prompts=4, minibatch=4, max_tokens=64, max_calls=4, max_result_tokens=48, micro_tokens=512
)


def joined(rank: int, world: int, folder: Path):
    """Make this process rank `rank` of `world`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meet'}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=120),
    )


def spread(function, world: int, folder: Path, *arguments) -> list:
    """Run function(*arguments) in `world` processes that have joined;
    what each returned, by rank.
    """
    folder.mkdir(exist_ok=True)
    (folder / "meet").unlink(missing_ok=True)
    started = forked(_one_of, world, world, folder, function, arguments)
    join_all(started)
    return [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(world)]


def _one_of(rank, world, folder, function, arguments):
    joined(rank, world, folder)
    torch.save(function(*arguments), folder / f"result_{rank}.pt")
    dist.destroy_process_group()
    # not through the destructors of gloo's threads: on a busy machine one of them may abort, when
    # all is done
    os._exit(0)


def small_sampler(policy, tools, rows):
    return sampler_for(policy, tools, decode_rows=rows, max_tokens=64)


def credited(policy, rollouts, advantage):
    """Rollouts with logp_old of the policy and an advantage for each: a function of (rollout)."""
    with policy.unsharded():
        policy.score(rollouts, 1.0, 512)
    for r in rollouts:
        r.logp_old, r.advantage = r.logp, advantage(r) * torch.tensor(r.mask)
    return rollouts


@pytest.fixture(scope="module")
def sampled(agent_folder, world, tools, tmp_path_factory):
    """16 rollouts of 4 prompts, in a file that processes can share: (folder of the model, file)."""
    policy = Policy.load(str(agent_folder))
    questions = load_questions(str(world / "train.jsonl"))[:4]
    sampler = small_sampler(policy, tools, 16)
    rollouts = sampler.initial(
        [encode_prompt(policy.tokenizer, q.messages) for q in questions],
        4,
        [mix_seed(3, i) for i in range(4)],
    )
    # of several lengths, so that passes differ in width
    for n, r in enumerate(rollouts):
        for tokens in (r.ids, r.mask, r.sampled_logp, r.sampled_entropy):
            del tokens[64 - 8 * (n % 5) :]
    file = tmp_path_factory.mktemp("ranks") / "rollouts.pkl"
    file.write_bytes(pickle.dumps(rollouts))
    return str(agent_folder), file


def three_updates(
    model, file, budget, shard, dtype, take, aggregate="seq-mean", nodes=None, chunk=None
):
    """Those of extras/bench/ranks.py, and the passes of each update:
    (weights, stats of the last, passes). chunk: tokens whose logits exist at once.
    """
    config = dataclasses.replace(bench.CONFIG, micro_tokens=budget, aggregate=aggregate)
    usual = log_probs.logits_chunk
    log_probs.logits_chunk = lambda vocabulary: chunk or usual(vocabulary)
    with counted_passes() as made:
        weights, stats = bench.three_updates(model, file, config, nodes or shard, dtype, take)
    log_probs.logits_chunk = usual
    return weights, stats, made["update"] // 3


@contextmanager
def counted_passes():
    """How many passes were made with gradients, those of updates."""
    made, original = Counter(), Policy.logp

    def counted(*a):
        made.update(["update"])
        return original(*a)

    Policy.logp = counted
    yield made
    Policy.logp = original


@pytest.fixture(scope="module")
def alone(sampled):
    return {
        aggregate: three_updates(*sampled, 512, False, "float32", None, aggregate)
        for aggregate in ("seq-mean", "token-mean")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "processes, budget, passes, shard, aggregate",
    [
        pytest.param(2, 512, 2, False, "seq-mean", marks=pytest.mark.slow),
        pytest.param(2, 384, 3, True, "seq-mean", marks=pytest.mark.slow),
        (2, 512, 2, True, "token-mean"),
        pytest.param(4, 512, 1, False, "token-mean", marks=pytest.mark.slow),
        pytest.param(4, 512, 1, True, "seq-mean", marks=pytest.mark.slow),
    ],
)
def test_the_update_is_the_same_however_it_is_spread(
    sampled, alone, tmp_path, processes, budget, passes, shard, aggregate
):
    """1 rank x 4 passes, 2 x 2 and 4 x 1, copied and sharded:
    the same weights after three updates within 1e-6, the same stats on all ranks.
    """
    weights, stats, made = alone[aggregate]
    assert made == 4
    moved = max(
        float((a - b).abs().max()) for a, b in zip(weights, weights_of(Policy.load(sampled[0])))
    )
    assert moved > 1e-3
    for other, theirs, made in spread(
        three_updates,
        processes,
        tmp_path / "spread",
        *sampled,
        budget,
        shard,
        "float32",
        None,
        aggregate,
    ):
        assert max(float((a - b).abs().max()) for a, b in zip(weights, other)) < 1e-6
        assert (
            theirs == pytest.approx(stats | {"padding": theirs["padding"]}, abs=2e-5)
            and made == passes
        )


def tree_gradients(model, file, shard) -> list:
    """Of made-up trees: the branch of a branch on the second rank alone, one tree for both."""
    policy = Policy.load(model)
    if shard:
        policy.shard("float32")
    first, second, third = pickle.loads(Path(file).read_bytes())[:3]
    first.group, second.group, third.group = 0, 1, 2
    trees = [[first, grown(first, 20)], [second, grown(second, 9)], [third]]
    trees[1].append(grown(trees[1][1], 12))
    ranks = policy.ranks
    mine = [trees[2 * ranks.rank : 2 * ranks.rank + 1], trees[1:2] * ranks.rank]
    for part in mine if ranks.world > 1 else [trees]:
        # a rank without a tree joins in
        part = part or [[Rollout([0], 0, ids=[0], mask=[False])]]
        logp_of_trees(policy, part, 1.0).sum().backward()
    grads = [p.grad for p in policy.model.parameters()]
    return [g.full_tensor() if isinstance(g, DTensor) else g for g in grads]


def grown(parent, at) -> Rollout:
    """A branch of a few tokens."""
    branch = parent.fork(at)
    branch.append([5, 6, 7], True, [0.0] * 3, [0.0] * 3)
    return branch


@pytest.mark.slow
def test_gradients_of_trees_whose_depths_differ(sampled, tmp_path):
    """Sharded over two ranks, within 1e-5 of the largest entry of those of one process."""
    alone = tree_gradients(*sampled, False)
    two, _ = spread(tree_gradients, 2, tmp_path, *sampled, True)
    for a, b in zip(alone, two, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * float(a.abs().max()), rtol=0)


@pytest.mark.slow
def test_logits_in_chunks_of_sharded_weights(sampled, alone, tmp_path):
    """The backward pass that computes logits again finds the whole output matrix, and its gradient
    is summed over the ranks.
    """
    weights, stats, _ = alone["seq-mean"]
    for other, theirs, _ in spread(
        three_updates,
        2,
        tmp_path / "spread",
        *sampled,
        512,
        True,
        "float32",
        None,
        "seq-mean",
        None,
        16,
    ):
        assert max(float((a - b).abs().max()) for a, b in zip(weights, other)) < 1e-6
        assert theirs == pytest.approx(stats | {"padding": theirs["padding"]}, abs=2e-5)


@pytest.mark.slow
def test_shards_in_a_node_and_copies_across_nodes(sampled, alone, tmp_path):
    """HSDP, two nodes of two: what --nnodes 2 makes of four processes."""
    weights, stats, _ = alone["seq-mean"]
    for other, theirs, _ in spread(
        three_updates,
        4,
        tmp_path / "spread",
        *sampled,
        512,
        True,
        "float32",
        None,
        "seq-mean",
        (2, 2),
    ):
        assert max(
            float((a - b).abs().max()) for a, b in zip(weights, other)
        ) < 1e-6 and theirs == pytest.approx(stats | {"padding": theirs["padding"]}, abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_a_rank_without_data_changes_nothing(sampled, tmp_path, shard):
    """Of three rollouts on four ranks one rank has none, of five one has two, and with passes of
    one rollout they all make as many: the result of one process.
    """
    for take, passes in ((3, 1), (5, 2)):
        weights, stats, _ = three_updates(*sampled, 512, False, "float32", take)
        for other, theirs, made in spread(
            three_updates, 4, tmp_path / f"spread{take}", *sampled, 1, shard, "float32", take
        ):
            assert (
                max(float((a - b).abs().max()) for a, b in zip(weights, other)) < 1e-6
                and made == passes
            )
            assert theirs == pytest.approx(stats | {"padding": theirs["padding"]}, abs=2e-5)


@pytest.mark.slow
def test_bfloat16_at_work_keeps_float32_weights(sampled, tmp_path):
    """Sharded with bfloat16 weights at work:
    the float32 ones move by less than bfloat16 could show, near those of a float32 update.
    """
    weights, *_ = three_updates(*sampled, 512, False, "float32", None)
    start = weights_of(Policy.load(sampled[0]))
    (other, stats), _ = spread(bfloat16_updates, 2, tmp_path / "spread", *sampled)
    assert all(p.dtype == torch.float32 for p in other)
    assert any(((p != s) & (p.bfloat16() == s.bfloat16())).any() for p, s in zip(other, start))
    a, b = (
        torch.cat([(x - s).flatten() for x, s in zip(these, start)]) for these in (weights, other)
    )
    assert torch.nn.functional.cosine_similarity(a, b, 0) > 0.98, (
        "the direction of the float32 update"
    )
    assert float(b.norm()) == pytest.approx(float(a.norm()), rel=0.05)


def bfloat16_updates(model, file):
    policy, rollouts = Policy.load(model).shard("bfloat16"), pickle.loads(Path(file).read_bytes())
    mine = policy.ranks.share(rollouts)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.05, momentum=0.9)
    for k in range(3):
        with policy.unsharded():
            assert policy.head.weight.dtype == torch.bfloat16

        def advantage(r, k=k):
            return bench.random_credit(r.seed % 10**9 + k, 64)[: len(r.ids)]

        credited(policy, mine, advantage)
        stats = appo.update(policy, optimizer, mine, dataclasses.replace(CONFIG, clip_grad=0.5))
    return weights_of(policy), stats


@pytest.mark.slow
def test_sampling_on_gathered_weights_needs_no_meeting(sampled, tmp_path, world):
    """Inside `unsharded` one rank samples and scores thrice as often as the other;
    then both update. Ids are those of a whole model.
    """
    results = spread(uneven_work, 2, tmp_path / "spread", *sampled, str(world / "train.jsonl"))
    policy = Policy.load(sampled[0])
    prompt = encode_prompt(policy.tokenizer, load_questions(str(world / "train.jsonl"))[0].messages)
    expected = small_sampler(policy, {}, 8).initial([prompt], 8, [5])
    assert results[0] == results[1] == [r.ids for r in expected]


def uneven_work(model, file, data):
    ranks, policy = Ranks(), Policy.load(model).shard("float32")
    prompt = encode_prompt(policy.tokenizer, load_questions(data)[0].messages)
    sampler = small_sampler(policy, {}, 8)
    with policy.unsharded():
        for _ in range(3 if ranks.rank else 1):
            rollouts = sampler.initial([prompt], 8, [5])
            policy.score(rollouts, 1.0, 512)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    credited(policy, rollouts, lambda r: torch.ones(len(r.ids)))
    appo.update(policy, optimizer, rollouts, CONFIG)
    return [r.ids for r in rollouts]


@pytest.mark.slow
def test_shards_take_the_memory_that_the_plan_says(sampled, tmp_path):
    """Parameters, gradients and AdamW's state on each of two processes, and whole weights at work,
    in bytes: those of --plan within 1%.
    """
    run = Config(model=sampled[0], shard=True, dtype="bfloat16")
    items = memory(read_shape(sampled[0]), run, 2)
    for held in spread(bytes_of_shards, 2, tmp_path / "spread", *sampled):
        for name, size in held.items():
            assert size == pytest.approx(items[name], rel=0.01), name


def bytes_of_shards(model, file):
    policy = Policy.load(model).shard("bfloat16")
    parameters = list(policy.model.parameters())
    mine = policy.ranks.share(pickle.loads(Path(file).read_bytes()))

    def size(tensors):
        return sum(local(x).nbytes for x in tensors)

    optimizer, grads = torch.optim.AdamW(parameters), []
    optimizer.register_step_pre_hook(lambda *_: grads.append(size(p.grad for p in parameters)))
    with policy.unsharded():
        gathered = size(policy.model.parameters())
    credited(policy, mine, lambda r: torch.ones(len(r.ids)))
    appo.update(policy, optimizer, mine, CONFIG)
    state = size(x for p in parameters for x in optimizer.state[p].values() if x.ndim)
    return {
        "parameters": size(parameters),
        "gradients": grads[0],
        "AdamW state": state,
        "unsharded weights": gathered,
    }


# ---- guards


@pytest.mark.slow
def test_an_update_that_is_not_finite_is_skipped_by_all(sampled, tmp_path):
    for skipped, unchanged in spread(poisoned_update, 2, tmp_path / "spread", *sampled):
        assert skipped == 1.0 and unchanged


def poisoned_update(model, file):
    """Rank 1 alone has credit that is not a number."""
    policy = Policy.load(model)
    mine = policy.ranks.share(pickle.loads(Path(file).read_bytes()))
    before = weights_of(policy)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=0.1)
    factor = float("nan") if policy.ranks.rank else 1.0
    credited(policy, mine, lambda r: torch.full((len(r.ids),), factor))
    stats = appo.update(policy, optimizer, mine, CONFIG)
    return stats["skipped"], all(
        torch.equal(a, b) for a, b in zip(before, weights_of(policy))
    ) and not optimizer.state


@pytest.mark.slow
def test_a_heartbeat_names_who_keeps_the_others_waiting(tmp_path):
    """One rank hangs in a tool, the other waits for it:
    rank 0 says so again and again. What an earlier run of more ranks has left does not count.
    """
    (tmp_path / "heartbeat_7").write_text("1.0 step 3, sample")
    for slow in (0, 1):
        told = spread(one_hangs, 2, tmp_path / "spread", tmp_path, slow)[0]
        assert len(told) >= 2 and all(
            re.fullmatch(rf"waiting for rank {slow}: in step 5, sample for [1-9] s", line)
            for line in told
        ), told


def one_hangs(folder, slow):
    told = []
    heartbeat.tqdm.write = told.append
    beat = heartbeat.Heartbeat(folder, Ranks(), every=0.8)
    beat("step 5, sample")
    time.sleep(3 * (Ranks().rank == slow))
    beat("step 5, wait")
    Ranks().gather(None)
    return told


@pytest.mark.slow
def test_a_slow_rank_trips_no_timeout_but_patience(tmp_path):
    """The groups within and across nodes wait as long as they are told."""
    assert spread(timeouts, 4, tmp_path / "spread") == [[1234.0, 1234.0]] * 4


def timeouts():
    mesh = node_mesh("cpu", 2, 2, 1234.0)
    assert [mesh.get_group(k).size() for k in (0, 1)] == [2, 2]
    return [
        mesh.get_group(k)._get_backend(torch.device("cpu")).options._timeout.total_seconds()
        for k in (0, 1)
    ]


@pytest.mark.slow
def test_a_checkpoint_that_one_rank_cannot_write_fails_on_all(sampled, tmp_path):
    """What stands in the way is seen by rank 0 alone; both ranks say it, and go on together."""
    (tmp_path / "step_000001.tmp").write_text("a file where a folder must be")
    for problem, good in spread(failing_save, 2, tmp_path / "spread", sampled[0], tmp_path):
        assert (
            problem.startswith("no checkpoint step_000001: rank 0: ")
            and "step_000001.tmp" in problem
            and good
        )


def failing_save(model, folder):
    policy = Policy.load(model).shard("float32")
    optimizer = torch.optim.AdamW(policy.model.parameters())
    try:
        checkpoints.save(folder / "step_000001", policy, [optimizer], {}, Ranks())
    except OSError as problem:
        checkpoints.save(folder / "step_000002", policy, [optimizer], {}, Ranks())
        return str(problem), complete(folder / "step_000002")


# ---- runs


def flags(world, agent_folder, out, **changes):
    settings = (
        dict(
            model=agent_folder,
            data=world / "train.jsonl",
            eval_data=world / "test.jsonl",
            corpus=world / "corpus.jsonl",
            out=out,
            config=LAPTOP,
            device="cpu",
            steps=4,
            prompts=4,
            minibatch=2,
            initial=3,
            branches=1,
            max_tokens=80,
            eval_questions=3,
            save_every=2,
            decode_rows=16,
            log_trees=1,
            threads=1,
        )
        | changes
    )
    return [x for name, value in settings.items() for x in (f"--{name}", str(value))]


def torchrun(processes, *arguments, **how):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
        *how.pop("elastic", []),
        str(HERE.parent / "train.py"),
        *arguments,
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **how,
    )


class Run:
    """train.py on several processes, as torchrun starts it but without its imports."""

    def __init__(self, processes, out, *arguments, nodes=1):
        out.mkdir(exist_ok=True)
        self.said = out / "said"
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        where = processes, processes // nodes, port
        self.started = forked(_rank_of_run, processes, where, self.said, arguments)

    def kill(self):
        """kill -9 of all processes."""
        for process in self.started.processes:
            process.kill()
        for process in self.started.processes:
            process.join()

    def ended(self):
        """What all of them said, once all have ended well."""
        join_all(self.started)
        return self.said.read_text()


def _rank_of_run(rank, where, said, arguments):
    processes, local, port = where
    told = dict(RANK=rank, LOCAL_RANK=rank % local, WORLD_SIZE=processes, LOCAL_WORLD_SIZE=local)
    told |= dict(MASTER_ADDR="localhost", MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in told.items()})
    with open(said, "a", buffering=1) as sys.stdout:
        sys.stderr = sys.stdout
        only_rank_0_prints()
        train.main(list(arguments))
        sys.stdout.flush()
    # as above
    os._exit(0)


def run_on(processes, out, *arguments, nodes=1):
    """A run from its start to its end; what it said."""
    return Run(processes, out, *arguments, nodes=nodes).ended()


def ended(process, code=0):
    text = process.communicate(timeout=300)[0]
    assert process.returncode == code, text
    return text


def steps_of(out):
    return [x for x in lines_of(out) if "reward" in x]


def lines_of(out):
    """All lines of metrics.jsonl, without what depends on the clock."""
    lines = [json.loads(line) for line in open(out / "metrics.jsonl")]
    free = ("occupancy", "time")
    return [{k: v for k, v in x.items() if "seconds" not in k and k not in free} for x in lines]


def test_two_ranks_imitate_as_one(world, agent_folder, tmp_path):
    """A step of plain gradient descent on five examples, three and two: loss, norm and weights."""
    given = str(agent_folder), str(world / "traces.jsonl")
    weights, numbers = imitated(*given)
    for other, theirs in spread(imitated, 2, tmp_path / "spread", *given):
        assert max(float((a - b).abs().max()) for a, b in zip(weights, other)) < 1e-6
        assert theirs == pytest.approx(numbers, rel=1e-5)


def imitated(model, traces):
    policy = Policy.load(model)
    batch = read_examples(traces, policy.tokenizer)[:5]
    plain = torch.optim.SGD(policy.model.parameters(), lr=0.1)
    run = read_settings(["--micro_tokens", "200"])
    numbers = sft.imitate(policy, [plain], batch, run, policy.ranks)
    return weights_of(policy), numbers


@pytest.mark.slow
def test_the_reference_is_shared_too(world, agent_folder, tmp_path):
    """A step with a KL term to the starting model, on one rank and, sharded, on two:
    the same KL, within what AdamW makes of rounding; 0 before the policy has moved.
    """
    kl = {}
    for ranks, shard, epochs in ((1, "false", 2), (2, "true", 2), (2, "true", 1)):
        settings = dict(shard=shard, steps=1, prompts=4, minibatch=4, branches=0, lr=1e-3)
        settings |= dict(eval_questions=0, kl_coef=0.1, initial=4, max_tokens=96)
        out = tmp_path / f"{ranks}-{epochs}"
        run_on(ranks, out, *flags(world, agent_folder, out, **settings, ppo_epochs=epochs))
        kl[ranks, epochs] = steps_of(out)[0]["kl_ref"]
    assert kl[1, 2] == pytest.approx(kl[2, 2], rel=1e-2) and kl[1, 2] > 1e-6
    # float32: exp(d) - d - 1 of rounding
    assert abs(kl[2, 1]) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("changes", [dict(minibatch=1), dict(minibatch=2, fork_tokens=700)])
def test_ranks_with_unequal_shares_gather_the_reference_together(
    world, agent_folder, tmp_path, changes
):
    """Of a mini-batch of one prompt one rank has nothing; parts of others differ in number.

    The weights of policy and reference are sharded: a gather that one rank alone made would hang.
    """
    settings = dict(
        shard="true", steps=1, prompts=2, eval_questions=0, kl_coef=0.1, rank_timeout=60
    )
    out = tmp_path / "run"
    run_on(2, out, *flags(world, agent_folder, out, **settings | changes))
    assert steps_of(tmp_path / "run")[0]["optimizer_steps"] == 2 // changes["minibatch"]


def same_state(a, b):
    """Are weights, float32 weights in shards and optimizer states of two checkpoints the same, bit
    for bit?
    """
    x, y = (Policy.load(str(folder)).model.state_dict() for folder in (a, b))
    assert x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
    x, y = (trainer_tensors(folder, a.parent) for folder in (a, b))
    assert x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
    return x


@pytest.mark.slow
@pytest.mark.parametrize(
    # shards in float32: the test of two nodes
    "shard, dtype",
    [("false", "float32"), ("true", "bfloat16")],
)
def test_two_ranks_resume_bit_for_bit(world, agent_folder, tmp_path, shard, dtype):
    """Two steps on two ranks; then the last again, from the checkpoint before it: all tensors and
    all lines of metrics the same.
    """
    settings = dict(shard=shard, dtype=dtype, lr=1e-5, steps=2, save_every=1, eval_every=1)
    out = tmp_path / "run"
    run_on(2, out, *flags(world, agent_folder, out, **settings))
    whole = lines_of(out)
    assert [x["step"] for x in whole if "eval_greedy" in x] == [0, 1, 2]
    (out / "step_000002").rename(tmp_path / "first")
    assert "going on from" in run_on(2, out, *flags(world, agent_folder, out, **settings))
    assert lines_of(out) == whole
    state = same_state(tmp_path / "first", out / "step_000002")
    writers = {file.name for file in (tmp_path / "first").rglob("*.distcp")}
    assert writers == ({"__0_0.distcp", "__1_0.distcp"} if shard == "true" else {"__0_0.distcp"})
    assert any(name.startswith("weights/") for name in state) == (shard == "true")
    if dtype == "bfloat16":
        own = next(x for name, x in state.items() if name.startswith("weights/"))
        assert own.dtype == torch.float32 and not torch.equal(own, own.bfloat16().float()), (
            "float32 weights that bfloat16 could not hold"
        )


@pytest.mark.slow
def test_two_nodes_resume_bit_for_bit(world, agent_folder, tmp_path):
    """Two nodes of two processes, as torchrun --nnodes 2 tells them:
    shards in a node, copies across. One copy of the shards is saved; a step made again from it is
    the same.
    """

    def two_nodes():
        run = tmp_path / "run"
        settings = dict(shard="true", steps=2, save_every=1, eval_questions=0)
        return run_on(4, run, *flags(world, agent_folder, run, **settings), nodes=2)

    two_nodes()
    shutil.copytree(tmp_path / "run" / "step_000002", tmp_path / "first")
    before = lines_of(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "step_000002")
    assert "going on from" in two_nodes()
    state = same_state(tmp_path / "first", tmp_path / "run" / "step_000002")
    files = list((tmp_path / "first" / "trainer").glob("*.distcp"))
    held = sum(x.nbytes for x in state.values())
    assert held < sum(file.stat().st_size for file in files) < 1.5 * held, "one copy of the shards"
    assert before == lines_of(tmp_path / "run")


@pytest.mark.parametrize("before, after", [(1, 2), (2, 1)])
@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(
    world, agent_folder, tmp_path, before, after
):
    """Sharded, a step on `before` processes and one more on `after`: all of the state is that
    which was saved, and the second step is that of a run on `before` within rounding."""
    settings = dict(shard="true", lr=1e-5, save_every=1, eval_questions=0, steps=1)
    run_on(before, tmp_path / "run", *flags(world, agent_folder, tmp_path / "run", **settings))
    shutil.copytree(tmp_path / "run", tmp_path / "straight")
    whole = trainer_tensors(tmp_path / "run" / "step_000001", tmp_path)
    for loaded in spread(state_of, after, tmp_path / "spread", tmp_path / "run" / "step_000001"):
        assert loaded.keys() == whole.keys()
        assert all(torch.equal(loaded[name], whole[name]) for name in whole)
    settings |= dict(steps=2)
    for count, out in ((after, "run"), (before, "straight")):
        said = run_on(
            count, tmp_path / out, *flags(world, agent_folder, tmp_path / out, **settings)
        )
        assert "going on from" in said
    a, b = (
        trainer_tensors(tmp_path / out / "step_000002", tmp_path) for out in ("run", "straight")
    )
    weights = [name for name in a if name.startswith("weights/")]
    # a branch may differ by rounding
    u, v = (torch.cat([(x[n] - whole[n]).flatten() for n in weights]) for x in (a, b))
    assert weights and torch.nn.functional.cosine_similarity(u, v, 0) > 0.9
    assert all(a[name] == b[name] == 2 * 2 for name in a if name.endswith("/step"))


def state_of(checkpoint):
    """The trainer's state that this number of processes reads, whole."""
    policy = Policy.load(str(checkpoint)).shard("float32")
    optimizer = torch.optim.AdamW(policy.model.parameters())
    checkpoints.load_state(policy, [optimizer], checkpoint)
    state = checkpoints.trainer_state(policy, [optimizer])
    return {n: x.full_tensor() if isinstance(x, DTensor) else x for n, x in state.items()}


@pytest.mark.slow
def test_two_ranks_sample_what_one_samples(world, agent_folder, tmp_path):
    """One step on one rank and on two:
    the same initial rollouts, so the same rewards and lengths, and nearly the same weights.
    """
    results = {}
    for ranks in (1, 2):
        out, settings = tmp_path / str(ranks), dict(steps=1, prompts=4, minibatch=4, lr=1e-4)
        run_on(ranks, out, *flags(world, agent_folder, out, **settings))
        results[ranks] = (
            steps_of(tmp_path / str(ranks))[0],
            Policy.load(str(tmp_path / str(ranks) / "step_000001")).model.state_dict(),
        )
        results[ranks, "eval"] = json.loads(
            (tmp_path / str(ranks) / "eval_000000.json").read_text()
        )["rows"]
    (one, a), (two, b) = results[1], results[2]
    start = Policy.load(str(agent_folder)).model.state_dict()
    u, v = (torch.cat([(w[name] - start[name]).flatten() for name in start]) for w in (a, b))
    for name in (
        "reward",
        "reward_std",
        "length",
        "calls",
        "truncated",
        "format_errors",
        "tokens_trained",
        "reward_f1",
        "reward_released",
        "zero_std",
    ):
        assert one[name] == pytest.approx(two[name], abs=1e-12), name
    assert (
        one["entropy"] == pytest.approx(two["entropy"], abs=1e-5)
        and one["branches"] == two["branches"]
    )
    # AdamW's first step is lr in the direction of a sign; a branch may differ
    assert torch.nn.functional.cosine_similarity(u, v, 0) > 0.9

    def texts(rows):
        return [[s["pieces"] for s in row["samples"]] for row in rows]

    assert texts(results[1, "eval"]) == texts(results[2, "eval"]), (
        "and the evaluation is that of one rank"
    )


@pytest.mark.slow
def test_a_request_to_stop_is_obeyed_at_the_end_of_a_step(world, agent_folder, tmp_path):
    process = torchrun(
        2,
        *flags(world, agent_folder, tmp_path / "run", steps=50, save_every=50, eval_questions=0),
        start_new_session=True,
    )
    wait_for_a_step(tmp_path / "run")
    os.kill(process.pid, signal.SIGTERM)
    text = process.communicate(timeout=120)[0]
    done = len(steps_of(tmp_path / "run"))
    assert (
        f"asked to stop: step {done} is saved" in text
        and (tmp_path / "run" / "latest").read_text() == f"step_{done:06d}"
        and done < 50
    )


@pytest.mark.slow
def test_a_request_that_reaches_one_rank_stops_both(world, agent_folder, tmp_path):
    out = tmp_path / "run"
    settings = dict(steps=50, save_every=50, eval_questions=0)
    run = Run(2, out, *flags(world, agent_folder, out, **settings))
    wait_for_a_step(out)
    run.started.processes[1].terminate()
    said, done = run.ended(), len(steps_of(out))
    assert f"asked to stop: step {done} is saved" in said and done < 50


def wait_for_a_step(out):
    """Wait until a run has logged a step."""
    log = out / "metrics.jsonl"
    for _ in range(1200):
        time.sleep(0.1)
        if log.exists() and "\n" in log.read_text():
            return
    raise AssertionError("no step was made")


@pytest.mark.slow
def test_a_refused_setting_is_said_by_all_ranks_before_any_step(
    finished_by_two, world, agent_folder
):
    text = ended(
        torchrun(
            2, *flags(world, agent_folder, finished_by_two, steps=2, lr=0.5, eval_questions=0)
        ),
        1,
    )
    assert text.count("holds a run with another --lr") == 2 and "Traceback" not in text.split(
        "ChildFailedError"
    )[0].replace('Traceback (most recent call last):\n  File "<frozen runpy>', "")


@pytest.fixture
def finished_by_two(world, agent_folder, tmp_path):
    out = tmp_path / "run"
    run_on(2, out, *flags(world, agent_folder, out, steps=1, eval_questions=0))
    return out


@pytest.mark.slow
def test_torchrun_restarts_a_killed_run(world, agent_folder, tmp_path):
    """kill -9 of one worker:
    torchrun starts both again, and the run ends as if nothing had been.
    """
    process = torchrun(
        2,
        *flags(world, agent_folder, tmp_path / "run", save_every=1, eval_questions=0, steps=3),
        elastic=["--max_restarts", "2"],
        start_new_session=True,
    )
    for _ in range(600):
        time.sleep(0.1)
        if (tmp_path / "run" / "step_000001" / "manifest.json").exists():
            break
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "train.py"], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert "going on from" in ended(process)
    out = tmp_path / "straight"
    run_on(2, out, *flags(world, agent_folder, out, save_every=1, eval_questions=0, steps=3))
    assert steps_of(tmp_path / "run") == steps_of(tmp_path / "straight")
