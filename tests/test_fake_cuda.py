"""The project on a pretend CUDA device (fake_cuda.py): what the CPU does, by a GPU's rules.

Then deliberate faults, each of which the device has to see, and the device's own rules.
"""

import math

import pytest
import torch
import transformers
from conftest import one_step, rolled, sampler_for, untrained
from fake_cuda import CUDA, Device, Fault, flash

from config import Config
from extras.bench.gpu_model import uses_tools
from kv_cache import KVCache
from policy import Policy
from sampling import NOT_FINITE, Sampler
from support import checkpoints, gpu_decoder
from support.graphs import Graphs, cuda_graphs
from support.models import recompute_activations
from support.optimizers import adamw
from support.ranks import Ranks
from tools import ToolResult

DEVICE = str(CUDA)
STEP = Config(
    max_tokens=32, prompts=2, minibatch=1, micro_tokens=512, max_calls=4, initial=3, branches=1
)


class Answers:
    """A tool that answers at once, with as many tokens as it was asked."""

    def run(self, argument):
        return ToolResult("ok", f"{len(argument)} {argument[:40]}", 0.0)


TOOLS = {"python": Answers(), "search": Answers()}


def tool_user(family: str, tokenizer, device: str = "cpu", dtype=torch.float32) -> Policy:
    """An untrained model that calls tools."""
    model = untrained(family, tokenizer).to(device).to(dtype)
    return uses_tools(Policy(model, tokenizer), every=16)


def chosen(rollouts) -> list:
    """What a policy and its tools decided."""
    calls = [[(c.name, c.argument, c.status, c.start, c.end) for c in r.calls] for r in rollouts]
    return [(r.ids, r.mask, r.finish, c) for r, c in zip(rollouts, calls)]


def sampled(policy, prompts, branches: bool = True, **changes):
    """Rollouts of each prompt, then two branches of each at different depths."""
    changes = dict(decode_rows=8, max_tokens=48, max_calls=6) | changes
    sampler, initial = rolled(policy, TOOLS, prompts, n=2, **changes)
    if not branches:
        return initial
    with policy.unsharded():
        cache = policy.score(initial, 1.0, 512, keep_cache=True)
        points = [[1 + k, len(r.ids) // 2 + k] for k, r in enumerate(initial)]
        return initial + sampler.branches(initial, points, cache)


def assert_same_on_device(family, tokenizer, prompts, dtype=torch.float32, **changes) -> Device:
    """Ids, masks, calls and ends are the CPU's; log-probs are within the format's rounding."""
    cpu = sampled(tool_user(family, tokenizer, dtype=dtype), prompts, **changes)
    with Device() as gpu:
        cuda = sampled(tool_user(family, tokenizer, DEVICE, dtype), prompts, **changes)
    assert chosen(cuda) == chosen(cpu)
    assert any(r.calls for r in cpu), "tools are called"
    logp = ([x for r in rollouts for x in r.sampled_logp] for rollouts in (cpu, cuda))
    bound = 1e-4 if dtype == torch.float32 else 0.05
    assert max(abs(a - b) for a, b in zip(*logp)) < bound
    return gpu


@pytest.mark.parametrize(
    "family", ["llama", *(pytest.param(x, marks=pytest.mark.slow) for x in ("qwen2", "qwen3"))]
)
def test_tools_and_branches_are_the_cpus(family, tokenizer, prompts):
    gpu = assert_same_on_device(family, tokenizer, prompts[:5])
    assert 2 <= gpu.captures < gpu.replays / 4
    # a decode step waits for the copy of an earlier one, and for nothing else
    sampling = {what for what, line in gpu.waits if line.startswith(("sampling", "live", "draw"))}
    assert sampling == {"event"}
    # PyTorch's own context manager waits and empties the cache at each of them
    runs = [(what, n) for (what, line), n in gpu.waits.items() if line.startswith("graphs")]
    assert runs == [("emptying the cache", 2)]


def test_prompts_and_results_are_read_in_few_calls(tokenizer, prompts, monkeypatch):
    """Without padding rows; a width is a multiple of prefill_chunk, which is 16 here."""
    shapes, append = [], KVCache.append

    def watched(self, decoder, ids, n, rows, end):
        shapes.append(tuple(ids.shape))
        return append(self, decoder, ids, n, rows, end)

    monkeypatch.setattr(KVCache, "append", watched)
    with Device():
        sampler = sampler_for(tool_user("llama", tokenizer, DEVICE), TOOLS, decode_rows=16)
        long = [3] * 300
        sampler.prefill([prompts[0], long])
        assert shapes == [(2, 256), (2, 48)]
        sampler.initial(prompts[:1], 2, [0])
    read = [(rows, width) for rows, width in shapes[2:] if width > 1]
    assert read[0] == (1, 48) and len(read) > 2
    assert all(rows <= 2 and width % 16 == 0 for rows, width in read)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        dict(temperature=0.0),
        dict(top_p=0.9, top_k=20),
        dict(repetition_penalty=1.3),
        pytest.param(dict(decode_rows=1), marks=pytest.mark.slow),
        dict(lag=2, decode_rows=5),
    ],
    ids=str,
)
def test_other_ways_to_draw_are_the_cpus(changes, tokenizer, prompts):
    assert_same_on_device("qwen2", tokenizer, prompts[:4], branches=False, **changes)


@pytest.mark.slow
def test_in_bfloat16_attention_goes_by_lengths(tokenizer, prompts, monkeypatch):
    """The numbers of both come from the CPU's kernels; a GPU's round otherwise."""
    monkeypatch.setattr(gpu_decoder, "FLASH", flash)
    plain = gpu_decoder.fits

    def also_here(model, dtype):
        return dtype == torch.bfloat16 if model.device.type == "cpu" else plain(model, dtype)

    monkeypatch.setattr(gpu_decoder, "fits", also_here)
    # 10 rows and then 5, of 20: the number of rows that is decoded is halved on the way
    gpu = assert_same_on_device(
        "qwen3", tokenizer, prompts[:10], dtype=torch.bfloat16, decode_rows=20, max_tokens=40
    )
    # a graph for each number of rows, in both runs, however long the rows are
    assert 3 <= gpu.captures <= 2 * 2


def stepped(tokenizer, prompts, device):
    """A policy after a whole step with a backward pass that computes activations again."""
    policy = tool_user("qwen3", tokenizer, device)
    recompute_activations(policy.model)
    optimizer = adamw(policy.model.parameters(), 1e-3, 0.01)
    sampler = sampler_of(policy)
    numbers, rollouts = one_step(policy, TOOLS, prompts, STEP, None, optimizer, sampler)
    return policy, optimizer, sampler, numbers, rollouts


def sampler_of(policy) -> Sampler:
    return sampler_for(policy, TOOLS, max_tokens=STEP.max_tokens, decode_rows=8)


def weights(policy) -> dict:
    return {name: p.detach().cpu() for name, p in policy.model.named_parameters()}


@pytest.mark.slow
def test_a_whole_step_is_the_cpus(tokenizer, prompts):
    cpu, _, _, numbers, rollouts = stepped(tokenizer, prompts, "cpu")
    with Device() as gpu:
        policy, optimizer, _, on_gpu, others = stepped(tokenizer, prompts, DEVICE)
        assert all(p.is_cuda for p in policy.model.parameters())
        counts = [moments["step"] for moments in optimizer.state.values()]
        assert all(x.is_cuda and float(x) == 2 for x in counts), "one kernel does all"
        after = weights(policy)
    assert chosen(others) == chosen(rollouts) and gpu.captures
    assert on_gpu["skipped"] == numbers["skipped"] == 0
    before = weights(tool_user("qwen3", tokenizer))
    for name, p in weights(cpu).items():
        torch.testing.assert_close(after[name], p, atol=5e-5, rtol=0)
        assert not torch.equal(before[name], p)


@pytest.mark.slow
def test_saved_and_resumed_it_goes_on(tokenizer, prompts, tmp_path):
    """A second step after a checkpoint, on the policy that saved it and on one that read it."""
    folder = tmp_path / "step_000001"
    with Device():
        policy, optimizer, sampler, *_ = stepped(tokenizer, prompts, DEVICE)
        checkpoints.save(folder, policy, [optimizer], {"skipped": 0}, Ranks())
        read = Policy.load(str(folder), device=DEVICE)
        read.head.bias = torch.nn.Parameter(policy.head.bias.detach().clone())
        recompute_activations(read.model)
        again = adamw(read.model.parameters(), 1e-3, 0.01)
        assert checkpoints.load_state(read, [again], folder) == {"skipped": 0}
        ends = []
        for each, state in ((policy, optimizer), (read, again)):
            one_step(each, TOOLS, prompts[2:], STEP, None, state, sampler_of(each))
            ends.append(weights(each))
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(p, ends[1][name]) for name, p in ends[0].items())


def test_weights_come_in_the_files_format(tokenizer, tmp_path, monkeypatch):
    """The host never holds them in float32; tied matrices stay tied."""
    model = untrained("llama", tokenizer, tie_word_embeddings=True).to(torch.bfloat16)
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    moved = []
    to = transformers.PreTrainedModel.to
    monkeypatch.setattr(
        transformers.PreTrainedModel,
        "to",
        lambda self, device: (moved.append(self.dtype), to(self, device))[1],
    )
    with Device():
        policy = Policy.load(str(tmp_path), device=DEVICE)
        assert moved == [torch.bfloat16] and policy.dtype == torch.float32
        assert policy.head.weight is policy.decoder.embed_tokens.weight
        assert all(p.is_cuda and p.dtype == torch.float32 for p in policy.model.parameters())
        read = weights(policy)
    for name, p in model.named_parameters():
        assert torch.equal(read[name], p.float())


# ---- deliberate faults


def with_fault(tokenizer, prompts):
    """What is sampled on the device, to be compared with the CPU's."""
    with Device():
        return chosen(sampled(tool_user("qwen2", tokenizer, DEVICE), prompts[:5]))


@pytest.fixture(scope="module")
def right(tokenizer, prompts):
    """What the same gives without a fault; on a CPU."""
    return chosen(sampled(tool_user("qwen2", tokenizer), prompts[:5]))


@pytest.mark.slow
def test_no_fault_is_seen_where_there_is_none(tokenizer, prompts, right):
    assert with_fault(tokenizer, prompts) == right


def after_each(monkeypatch, kind, name, also):
    """Patch a method: `also(self)` comes behind it."""
    plain = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda self, *a, **k: (plain(self, *a, **k), also(self))[0])


def test_a_wait_in_a_capture_is_seen(tokenizer, prompts, monkeypatch):
    after_each(monkeypatch, Sampler, "_draw_and_read", lambda s: s.live.hidden.sum().item())
    with pytest.raises(Fault, match="_local_scalar_dense inside a capture"):
        with_fault(tokenizer, prompts)


def test_a_tensor_of_the_cpu_is_seen(tokenizer, prompts, monkeypatch):
    after_each(monkeypatch, Sampler, "_draw_and_read", lambda s: s.live.hidden + torch.zeros(64))
    with pytest.raises(Fault, match="Expected all tensors to be on the same device"):
        with_fault(tokenizer, prompts)


def test_memory_freed_between_capture_and_replay_is_seen(tokenizer, prompts, monkeypatch):
    def another_tensor(sampler):
        sampler.live.running = sampler.live.running.clone()

    after_each(monkeypatch, Sampler, "_arrange", another_tensor)
    with pytest.raises(Fault, match="memory that was freed since its capture"):
        with_fault(tokenizer, prompts)


@pytest.mark.slow
def test_a_length_that_is_not_set_is_seen(tokenizer, prompts, right, monkeypatch):
    """A row drew further tokens while its tool was called; its length has to go back."""
    extend = Sampler._extend

    def stale(self, cache, rows, cached, ids, batch):
        if cache is self.live.cache:
            cache.length[self.policy.tensor(rows)] += self.lag
        return extend(self, cache, rows, cached, ids, batch)

    monkeypatch.setattr(Sampler, "_extend", stale)
    assert with_fault(tokenizer, prompts) != right


@pytest.mark.slow
def test_a_fork_without_its_copy_is_seen(tokenizer, prompts, right, monkeypatch):
    def length_only(self, row, other, source, length):
        self.length[row] = length

    monkeypatch.setattr(KVCache, "copy", length_only)
    assert with_fault(tokenizer, prompts) != right


def test_a_copy_to_the_host_that_is_not_waited_for_is_seen(tokenizer, prompts, monkeypatch):
    monkeypatch.setattr("fake_cuda.Event.synchronize", lambda self: None)
    with pytest.raises(ValueError, match=NOT_FINITE[:30]):
        with_fault(tokenizer, prompts)


@pytest.mark.slow
@pytest.mark.parametrize("without_keys", [False, True])
def test_a_graphs_key_that_leaves_out_the_keys_is_seen(
    tokenizer, prompts, right, monkeypatch, without_keys
):
    """A graph looks at as many keys as its capture did: with few in a block that soon is wrong."""
    monkeypatch.setattr("support.shapes.GRAPH_BLOCK", 16)
    if without_keys:
        call = Graphs.__call__
        monkeypatch.setattr(Graphs, "__call__", lambda self, key, work: call(self, key[0], work))
    assert (with_fault(tokenizer, prompts) == right) is not without_keys


# ---- the device itself


@pytest.fixture
def gpu():
    with Device() as device:
        yield device


def captured(function):
    """A graph of it."""
    return cuda_graphs()(function)


def test_devices_do_not_mix(gpu):
    x = torch.ones(3, device=DEVICE)
    assert x.device == CUDA and x.is_cuda and (x + torch.tensor(2.0)).tolist() == [3.0] * 3
    with pytest.raises(Fault, match="same device"):
        x + torch.ones(3)
    with pytest.raises(Fault, match="same device"):
        torch.stack([x, torch.ones(3)])


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x[0] > 0),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x[[0]],
        lambda x: x[torch.tensor([1])],
        lambda x: x.copy_(torch.ones(3)),
        lambda x: torch.cuda.synchronize(),
    ],
)
def test_waits_are_counted_and_refused_in_a_capture(gpu, wait):
    x = torch.ones(3, device=DEVICE)
    gpu.waits.clear()
    wait(x)
    ((what, line),) = gpu.waits
    assert line.startswith("test_fake_cuda.py") and gpu.waits[what, line] == 1
    with pytest.raises(Fault, match="inside a capture"):
        captured(lambda: wait(x))


def test_what_does_not_wait_is_not_counted(gpu):
    x = torch.ones(3).pin_memory().to(DEVICE, non_blocking=True)
    x[:2] = 5.0
    x += x.clone().masked_fill(x > 2, 0.0)
    assert not gpu.waits and x.tolist() == [5.0, 5.0, 2.0]


def test_a_copy_arrives_when_its_event_does(gpu):
    x = torch.ones(2, device=DEVICE)
    first = x.to("cpu", non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    second = (x + 1).to("cpu", non_blocking=True)
    assert first.is_pinned() and first.isnan().all() and second.isnan().all()
    event.synchronize()
    assert first.tolist() == [1, 1] and second.isnan().all()
    torch.cuda.synchronize()
    assert second.tolist() == [2, 2]


def test_a_replay_does_the_work_again_at_the_same_addresses(gpu):
    x, outside = torch.ones(3, device=DEVICE), []
    graph = captured(lambda: (outside.append(x * 2), x.add_(outside[0])))
    assert x.tolist() == [1, 1, 1], "a capture writes nothing"
    graph.replay()
    x += 1
    graph.replay()
    assert x.tolist() == [12, 12, 12] and outside[0].tolist() == [8, 8, 8]


def test_scratch_is_rubbish_before_a_replay_and_after_anothers(gpu):
    x, y, capture, kept = torch.ones(3, device=DEVICE), None, cuda_graphs(), []
    first = capture(lambda: kept.append(x * 2))
    y = x.clone()
    # reads what the graph before has left in the pool that both share
    second = capture(lambda: y.copy_(kept[0]))
    first.replay(), second.replay()
    assert y.isnan().all() and math.isnan(kept[0].tolist()[0])


def test_new_memory_holds_rubbish(gpu):
    assert torch.empty(2, device=DEVICE).isnan().all()
    assert torch.empty(1, dtype=torch.long, device=DEVICE).item() == 2**63 - 1


def test_a_capture_needs_its_own_stream(gpu):
    with pytest.raises(Fault, match="stream of its own"):
        torch.cuda.CUDAGraph().capture_begin()
