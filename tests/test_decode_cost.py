"""What a decode step costs a GPU, counted on the meta device: no kernel runs, no time is measured.

    1. Cost          operators that are no views, and the bytes that they read and write
    2. decode_cost   of a step of Qwen2.5-7B's shape in bfloat16, and of one of its layers
    3. captures      CUDA graphs of a training step, with invented lengths

An operator is at least one kernel. `PYTHONPATH=. python tests/test_decode_cost.py` prints them.
"""

import random
from collections import Counter
from unittest import mock

import torch
import torch.nn.functional as F
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from extras.shape import decode_bytes, read_shape
from kv_cache import KVCache
from support.draw import draw
from support.gpu_decoder import FlashDecoder
from support.shapes import Shapes

aten = torch.ops.aten
SHAPE = read_shape("Qwen/Qwen2.5-7B")
ROWS, CONTEXT = 128, 2048
# made once, or never more than a name for memory
NO_KERNEL = {aten.empty, aten.empty_like, aten.lift_fresh, aten.detach, aten._unsafe_view}


class Cost(TorchDispatchMode):
    """Operators by name, and the bytes that each reads and writes once."""

    def __init__(self):
        super().__init__()
        self.count, self.bytes = Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        packet = function.overloadpacket
        views = [r.alias_info and not r.alias_info.is_write for r in function._schema.returns]
        if packet in NO_KERNEL or all(views) and views:
            return out
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        # of a table only what is looked up is read; of a cache only what is stored is written
        if packet in (aten.index, aten.embedding, aten.gather):
            moved = made + made
        elif packet in (aten.index_put_, aten._index_put_impl_):
            moved = [args[2], args[2]]
        else:
            moved = given + made
        self.count[packet.__name__] += 1
        self.bytes[packet.__name__] += sum(map(memory, moved))
        return out


def memory(x: torch.Tensor) -> int:
    """Bytes of it; what is expanded lies there once."""
    once = [size for size, stride in zip(x.shape, x.stride()) if stride]
    return x.element_size() * torch.Size(once).numel()


def attention(query, key, value, attn_mask=None, scale=None):
    """The kernel that a GPU takes for a mask."""
    kernel = aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, attn_mask, False, scale=scale)[0]


def rms_norm(x, shape, weight=None, eps=None):
    """One kernel that reads and writes as much as a GPU's, which has no twin on meta."""
    return aten.native_layer_norm(x, shape, weight, None, eps)[0]


def counted(layers: int, by_lengths: bool = True) -> tuple[Cost, Cost]:
    """(decoder, head and draw) of a decode step of so many layers."""
    config = transformers.Qwen2Config(
        vocab_size=SHAPE.vocabulary,
        hidden_size=SHAPE.hidden,
        intermediate_size=SHAPE.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.kv_heads,
        use_sliding_window=False,
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.set_attn_implementation("folded")
    cache = KVCache(config, ROWS, CONTEXT, torch.empty(0, dtype=torch.bfloat16, device="meta"))
    ids, n = (torch.zeros(s, dtype=torch.long, device="meta") for s in ((ROWS, 1), (ROWS,)))
    end = None if by_lengths else Shapes(ROWS, constant=False, cuda=True).keys_for(CONTEXT)
    reader = FlashDecoder(model) if by_lengths else model.model
    u = torch.zeros(ROWS, dtype=torch.float64, device="meta")
    kernels = dict(scaled_dot_product_attention=attention, rms_norm=rms_norm)
    with mock.patch.multiple(F, **kernels), torch.no_grad():
        with Cost() as decoder:
            hidden = cache.append(reader, ids, n, slice(0, ROWS), end)
        with Cost() as rest:
            draw(model.lm_head(hidden).float(), u, 1.0)
    return decoder, rest


def decode_cost(by_lengths: bool = True) -> dict[str, float]:
    """Operators a layer and a step, GB a step, and the GB of weights, keys and values alone."""
    (one, rest), (two, _) = counted(1, by_lengths), counted(2, by_lengths)
    layer = {name: two.count[name] - one.count[name] for name in two.count}
    bytes_layer = sum(two.bytes.values()) - sum(one.bytes.values())
    more = SHAPE.layers - 1
    step = sum(one.bytes.values()) + more * bytes_layer + sum(rest.bytes.values())
    operators = sum(layer.values())
    return {
        "operators a layer": operators,
        "operators a step": sum((one.count + rest.count).values()) + more * operators,
        "GB a layer": bytes_layer / 1e9,
        "GB of the draw and the output matrix": sum(rest.bytes.values()) / 1e9,
        "GB a step": step / 1e9,
        "GB a step, weights, keys and values": decode_bytes(SHAPE, 2, ROWS, ROWS, 1, CONTEXT) / 1e9,
    }


def captures(rows: int, begun: list[int], ends: list[int], by_lengths: bool = True) -> int:
    """Graphs of a run of the sampler without tools: keys that come at least twice.

    begun, ends: tokens of each row at its first and last step; all rows begin at once. by_lengths:
    with support/gpu_decoder.py; else a graph has a number of keys, too.
    """
    shapes, seen = Shapes(rows, constant=False, cuda=True), Counter()
    made = shapes.rows_for(len(begun))
    for step in range(max(e - b for b, e in zip(begun, ends))):
        longest = [b + step for b, e in zip(begun, ends) if b + step < e]
        keys = 0 if by_lengths else shapes.keys_for(max(longest) + 2)
        seen[shapes.decoded_rows(len(longest), made), keys] += 1
    return sum(times > 1 for times in seen.values())


def captures_of_a_step(by_lengths: bool = True) -> tuple[int, int]:
    """(of the initial run, of 8 runs of branches) on one of 8 GPUs of the paper's setting.

    Invented: prompts of 300 tokens; lengths lognormal with mean 1,200, 4,096 at most; a branch
    leaves anywhere.
    """
    draw = random.Random(0)

    def length() -> int:
        return min(4096, int(draw.lognormvariate(6.9, 0.62)) + 1)

    initial = captures(64, [300] * 64, [300 + length() for _ in range(64)], by_lengths)
    branches = 0
    for _ in range(8):
        ends = [300 + length() for _ in range(24)]
        begun = [draw.randint(301, end - 1) for end in ends]
        branches += captures(64, begun, ends, by_lengths)
    return initial, branches


def test_a_decode_step_costs_little_more_than_its_reading():
    cost = decode_cost()
    print(cost)
    # two products copy what they add to; flash copies queries, results, and queries back
    assert cost["operators a layer"] + 2 + 3 <= 20
    assert cost["GB a step, weights, keys and values"] < cost["GB a step"] <= 33


def test_with_a_mask_it_costs_no_more_than_it_did():
    cost = decode_cost(by_lengths=False)
    print(cost)
    assert 20 < cost["operators a layer"] <= 45
    assert cost["GB a step, weights, keys and values"] < cost["GB a step"] <= 34


def test_a_training_step_captures_little():
    initial, branches = captures_of_a_step()
    print(initial, branches)
    assert 0 < initial <= 11 and initial + branches <= 30
    assert initial + branches < sum(captures_of_a_step(by_lengths=False)) <= 65


def test_a_key_that_comes_once_is_no_capture():
    assert captures(8, [10], [11]) == 0
    assert captures(8, [10], [13]) == 1
    assert captures(16, [10] * 16, [20] * 8 + [14] * 8) == 2
    assert captures(8, [500], [530]) == 1
    assert captures(8, [500], [530], by_lengths=False) == 2, "another 512 keys"


if __name__ == "__main__":
    for lengths in (True, False):
        print("attention by lengths:" if lengths else "with a mask:")
        for name, value in decode_cost(lengths).items():
            print(f"{name}: {value:.4g}")
        print("captures of a step, initial and branches:", *captures_of_a_step(lengths))
