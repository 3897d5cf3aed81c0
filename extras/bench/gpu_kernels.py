"""The kernels that a decode step on a GPU rests on, alone: are they right, and how fast.

1. kernels   attention by lengths against exact attention and against a mask; matrix products
2. anatomy   where the time of a decode step goes, by kernel, and what capturing one costs
"""

import statistics
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from extras.bench.gpu_model import Sizes, agent, no_ends
from extras.bench.gpu_speed import FORKS, Ours, timed
from extras.bench.measure import at_most, figure, ratio
from extras.shape import Shape
from kv_cache import folded_attention
from support import gpu_decoder
from support.gpu_decoder import attention
from support.graphs import Graphs, cuda_graphs

# of the norm of the exact result; bfloat16 has 8 bits
GAP = 1e-2
SHOWN = 12


def kernels(args, sizes: Sizes, device: str, world: Path) -> dict:
    """Attention and products of one layer of the real shape in bfloat16, replayed as graphs."""
    figures = {}
    # flash divides the keys of few rows among the GPU's parts, and adds up
    for rows in (8, sizes.rows):
        figures |= attention_figures(args, sizes, rows, device)
    return figures | product_figures(sizes, device)


def attention_inputs(sizes: Sizes, rows: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, used tokens of each row: all lengths, half of them short."""
    shape, capacity = sizes.shape, sizes.context
    torch.manual_seed(0)
    query = torch.randn(rows, shape.heads, shape.head_dim, device=device).bfloat16()
    size = rows + 1, capacity, 2, shape.kv_heads, shape.head_dim
    kv = torch.randn(size, device=device).bfloat16()
    used = torch.randint(1, capacity + 1, (rows,), device=device).int()
    used[: rows // 2] = used[: rows // 2] // 8 + 1
    used[-1:] = capacity
    return query, kv, used


def attention_figures(args, sizes: Sizes, rows: int, device: str) -> dict:
    """Gaps to exact attention, and times, by lengths and with a mask as wide as the longest row."""
    shape, capacity = sizes.shape, sizes.context
    query, kv, used = attention_inputs(sizes, rows, device)
    scale, starts = shape.head_dim**-0.5, torch.arange(rows + 1, device=device).int()
    spans = starts, starts * capacity
    bias = torch.zeros(rows, 1, shape.heads // shape.kv_heads, capacity, device=device).bfloat16()
    unseen = torch.arange(capacity, device=device) >= used[:, None]
    bias.masked_fill_(unseen[:, None, None], -torch.inf)
    keys, values = kv[:rows].permute(2, 0, 3, 1, 4).unbind()

    def by_mask():
        module = torch.nn.Identity()
        return folded_attention(module, query[:, :, None], keys, values, bias, scale)[0][:, 0]

    def by_lengths():
        return attention(query, kv, spans, used, scale)

    exact = exact_attention(query, keys, values, used, scale)
    name = f"attention, {rows} rows of up to {capacity} tokens"
    figures = at_most(args, f"{name}: gap of a mask to exact", [gap(by_mask(), exact)], GAP, "")
    if device == "cpu" and gpu_decoder.FLASH is torch.ops.aten._flash_attention_forward:
        print("kernels: attention by lengths left out, its kernel is a GPU's", flush=True)
        return figures
    figures |= at_most(
        args, f"{name}: gap of lengths to exact", [gap(by_lengths(), exact)], GAP, ""
    )
    times = [
        (replayed(by_mask, device), replayed(by_lengths, device)) for _ in range(sizes.repeats)
    ]
    read = 2 * int(used.sum()) * shape.kv_heads * shape.head_dim * kv.element_size()
    return figures | {
        f"{name}: seconds with a mask / by lengths": ratio(times),
        f"{name}: by lengths, a layer": figure([1e6 * t for _, t in times], "us"),
        f"{name}: read by lengths": figure([read / t / 1e9 for _, t in times], "GB/s"),
    }


def exact_attention(query, keys, values, used, scale) -> torch.Tensor:
    """In float64, a row at a time. query: (C, heads, dim); keys, values: (C, key heads, L, dim)."""
    grouped, out = query.shape[1] // keys.shape[1], []
    for row, n in enumerate(used.tolist()):
        k, v = (x[row, :, :n].double().repeat_interleave(grouped, 0) for x in (keys, values))
        weights = (torch.einsum("hd,hld->hl", query[row].double(), k) * scale).softmax(-1)
        out.append(torch.einsum("hl,hld->hd", weights, v))
    return torch.stack(out)


def gap(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((ours.double() - exact).norm() / exact.norm())


def product_figures(sizes: Sizes, device: str) -> dict:
    """The products of a layer: seven as the modules have them, five as the decode step has them.

    Four, gate and up as one, would need a copy of both.
    """
    shape, figures = sizes.shape, {}
    qkv, mlp = (shape.q, shape.kv, shape.kv), (shape.intermediate, shape.intermediate)
    outputs = {
        "seven": [*qkv, shape.hidden, *mlp],
        "five": [sum(qkv), shape.hidden, *mlp],
        "four": [sum(qkv), shape.hidden, sum(mlp)],
    }
    for rows in (8, sizes.rows):
        times = [
            [layer_seconds(shape, outs, rows, device) for outs in outputs.values()]
            for _ in range(sizes.repeats)
        ]
        name = f"products of a layer, {rows} rows"
        figures[f"{name}: seconds of seven / of five"] = ratio([(a, b) for a, b, _ in times])
        figures[f"{name}: seconds of five / of four"] = ratio([(b, c) for _, b, c in times])
        speeds = [2 * shape.layer / b / 1e9 for _, b, _ in times]
        figures[f"{name}: weights read by five"] = figure(speeds, "GB/s")
    return figures


def layer_seconds(shape: Shape, outputs: list[int], rows: int, device: str) -> float:
    """Of products of these widths and the last one of an MLP, in bfloat16."""
    x = torch.randn(rows, shape.hidden, device=device).bfloat16()
    h = torch.randn(rows, shape.intermediate, device=device).bfloat16()
    weights = [torch.randn(n, shape.hidden, device=device).bfloat16() for n in outputs]
    down = torch.randn(shape.hidden, shape.intermediate, device=device).bfloat16()
    return replayed(lambda: ([F.linear(x, w) for w in weights], F.linear(h, down)), device)


def replayed(work, device: str, times: int = 20) -> float:
    """Seconds of work in a CUDA graph; on a CPU called as it is."""
    work()
    if device == "cpu":
        return timed(work)
    run = cuda_graphs()(work).replay
    run()
    return timed(lambda: [run() for _ in range(times)]) / times


def anatomy(args, sizes: Sizes, device: str, world: Path) -> dict:
    """Kernels of a decode step by their time, and the seconds of its captures."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "model")
    policy = no_ends(agent(sizes.shape, tokenizer, "bfloat16", device))
    prompt = [i % len(tokenizer) for i in range(sizes.context)]
    prompts = [prompt] * (sizes.rows // FORKS)
    ours, spent = Ours(policy, sizes, prompts), []
    short, long = sizes.tokens
    ours(short)
    with watched_captures(spent):
        ours(long)
    on_gpu = device != "cpu"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as record:
        timed(ours, long)
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    seconds = Counter()
    for event in record.key_averages():
        seconds[event.key] += getattr(event, field)
    whole = sum(seconds.values()) or 1.0
    print(f"{whole / 1000:.1f} ms on the device; prompts and forks are in it", flush=True)
    for name, t in seconds.most_common(SHOWN):
        print(f"  {t / whole:6.1%} {t / 1000:9.2f} ms  {name[:90]}", flush=True)
    figures = {"anatomy: captures of a run": figure([len(spent)], "")}
    if spent:
        figures["anatomy: a capture"] = figure([1000 * statistics.median(spent)], "ms")
    return figures


@contextmanager
def watched_captures(spent: list[float]):
    """Notes the seconds of each capture of a CUDA graph."""
    plain = Graphs.__call__

    def call(graphs, key, function):
        known, started = len(graphs.graphs), time.perf_counter()
        plain(graphs, key, function)
        if len(graphs.graphs) > known:
            spent.append(time.perf_counter() - started)

    with patch.object(Graphs, "__call__", call):
        yield
