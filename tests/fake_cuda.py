"""A pretend CUDA device: tensors that say they are on cuda:0 and keep their numbers on the CPU.

`with Device() as gpu:` torch.cuda is this device meanwhile. Its rules are a GPU's:
    mixing     an operator takes tensors of one device; a CPU tensor without dimensions may join
    waiting    what makes the host wait is counted by line, and refused inside a capture
    copies     a copy to the host that does not wait holds rubbish until an event behind it came
    capture    nothing is written to memory from before; operators are noted with their Python
               values and their addresses
    replay     the same operators at the same addresses, over scratch full of NaN; memory that
               was freed since the capture is refused
    empty      new memory holds NaN

What it cannot show: the kernels, the order of streams, the allocator, NCCL, alignment, time.
"""

import contextlib
import weakref
from collections import Counter
from unittest import mock

import torch
import torch.nn.functional as F
from fake_memory import (
    CUDA,
    EMPTY,
    Block,
    DeviceTensor,
    Fault,
    Graph,
    aten,
    bare,
    fill_with_rubbish,
    leaves,
    line_of_the_project,
    memory_of,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from support import gpu_decoder

WAITS = {
    aten._local_scalar_dense,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
}
BY_INDEX = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# x.to(y) and torch.where(a, b, 1.0) name the device as it is called below Python
BELOW = {aten._to_copy, aten.scalar_tensor}


def attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """The CPU's kernel, for what chooses one takes the device for meta; laid out as a GPU's."""
    if enable_gqa:
        per_key = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(per_key, 1) for x in (key, value))
    kernel = aten._scaled_dot_product_flash_attention_for_cpu
    out = kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    # a GPU's kernels write heads behind queries
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def flash(query, key, value, cu_q, cu_k, max_q, max_k, *rest, scale, seqused_k):
    """aten::_flash_attention_forward by arithmetic, of sequences of one query. Never waits."""
    assert max_q == 1 and rest == (0.0, False, False)
    assert all(x.dtype == torch.int32 for x in (cu_q, cu_k, seqused_k))
    tokens = torch.arange(max_k, device=query.device)
    places = cu_k[:-1, None].long() + tokens  # (C, L)
    grouped = query.shape[1] // key.shape[1]
    keys, values = (x[places].float().repeat_interleave(grouped, 2) for x in (key, value))
    scores = torch.einsum("chd,clhd->chl", query[cu_q[:-1].long()].float(), keys) * scale
    unseen = tokens >= seqused_k[:, None]  # (C, L)
    weights = scores.masked_fill(unseen[:, None], -torch.inf).softmax(-1)
    return (torch.einsum("chl,clhd->chd", weights, values).to(query.dtype),)


class Stream:
    """torch.cuda.Stream: work is done at once, whatever its stream; copies are under way."""

    def synchronize(self):
        DeviceTensor.gpu.land(DeviceTensor.gpu.wait("stream"))

    def wait_stream(self, stream):
        pass


class Event:
    """torch.cuda.Event; copies: those to the host that were under way when it was recorded."""

    copies = None

    def record(self, stream=None):
        self.copies = list(DeviceTensor.gpu.under_way)

    def synchronize(self):
        if self.copies is None:
            raise Fault("an event that was not recorded is waited for")
        DeviceTensor.gpu.wait("event")
        DeviceTensor.gpu.land(self.copies)


class Device(TorchDispatchMode):
    """The device. waits: Counter of (what, line). captures, replays: how many."""

    def __init__(self):
        super().__init__()
        self.waits, self.captures, self.replays, self.operators = Counter(), 0, 0, Counter()
        self.graph: Graph | None = None
        self.pools, self.under_way = {}, []
        self.default = self.stream = Stream()
        self.blocks = weakref.WeakValueDictionary()

    def __enter__(self):
        DeviceTensor.gpu = self
        self.patches = contextlib.ExitStack()
        for name, value in self.torch_cuda().items():
            self.patches.enter_context(mock.patch.object(torch.cuda, name, value))
        pinned = {
            "pin_memory": lambda x: self.pin(x),
            "is_pinned": lambda x: getattr(x, "pinned", False),
        }
        for name, value in pinned.items():
            self.patches.enter_context(mock.patch.object(Tensor, name, value))
        # PyTorch notes which functions make tensors, once: the true ones
        torch.utils._device._device_constructors()
        # its C++ side would build the tensor on a GPU itself
        plain = torch.tensor

        def tensor(data, *, device=None, **how):
            x = plain(data, **how)
            # "cuda" without a number would ask a driver for it
            return x if device is None or torch.device(device).type != "cuda" else x.to(CUDA)

        self.patches.enter_context(mock.patch.object(torch, "tensor", tensor))
        self.patches.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attention))
        self.patches.enter_context(mock.patch.object(gpu_decoder, "FLASH", flash))
        available = mock.patch.object(torch.backends.cuda, "is_flash_attention_available")
        self.patches.enter_context(available).return_value = True
        # else a parameter that two modules share would become two
        self.swapped = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *problem):
        super().__exit__(*problem)
        torch.__future__.set_swap_module_params_on_conversion(self.swapped)
        self.patches.close()
        DeviceTensor.gpu = None

    def torch_cuda(self) -> dict:
        """What stands in torch.cuda meanwhile."""
        return dict(
            is_available=lambda: True,
            is_initialized=lambda: True,
            device_count=lambda: 1,
            current_device=lambda: 0,
            get_device_capability=lambda *device: (9, 0),
            set_device=lambda device: None,
            synchronize=lambda *device: self.land(self.wait("synchronize")),
            empty_cache=lambda: self.wait("emptying the cache"),
            is_current_stream_capturing=lambda: self.graph is not None,
            Event=Event,
            CUDAGraph=Graph,
            graph_pool_handle=object,
            Stream=Stream,
            stream=self.in_stream,
            current_stream=lambda *device: self.stream,
        )

    @contextlib.contextmanager
    def in_stream(self, stream):
        self.stream, before = stream, self.stream
        try:
            yield
        finally:
            self.stream = before

    # ---- waiting

    def refuse_in_capture(self, what: str) -> None:
        if self.graph is not None:
            raise Fault(f"{what} inside a capture: {line_of_the_project()}")

    def wait(self, what: str) -> list:
        """The host waits for the device. Returns: the copies that are through by then."""
        self.refuse_in_capture(what)
        self.waits[what, line_of_the_project()] += 1
        return list(self.under_way)

    def land(self, copies: list) -> None:
        """Copies to the host are through."""
        for x, numbers in copies:
            x.copy_(numbers)
        ids = {id(pair) for pair in copies}
        self.under_way = [pair for pair in self.under_way if id(pair) not in ids]

    def pin(self, x: Tensor) -> Tensor:
        self.refuse_in_capture("pinning memory")
        x = x.clone()
        x.pinned = True
        return x

    # ---- operators

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return self.run(function, args, kwargs or {})

    def run(self, function, args, kwargs):
        """An operator, by the rules above."""
        tensors = [x for x in leaves(args, kwargs) if isinstance(x, Tensor)]
        mine = any(isinstance(x, DeviceTensor) for x in tensors)
        asked = kwargs.get("device")
        asked = asked and torch.device(asked)
        packet = function.overloadpacket
        below = packet in BELOW and not any(x.is_meta for x in tensors)
        here = ("cuda", "meta") if below else ("cuda",)
        if not mine and (asked is None or asked.type not in here):
            return function(*args, **kwargs)
        self.operators[packet] += 1
        if packet in (aten._to_copy, aten.copy_):
            return self.copy(function, args, kwargs)
        by_mask = packet in BY_INDEX and any(
            isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1]
        )
        if packet in WAITS or by_mask:
            self.wait(f"{packet.__name__}{' by a mask' * by_mask}")
        if packet is aten._local_scalar_dense:
            return function(args[0].numbers)
        # the one kernel of AdamW reads its count of steps on the device
        joins = 0 if "fused" in packet.__name__ else 1
        strangers = [x for x in tensors if not isinstance(x, DeviceTensor) and x.ndim >= joins]
        if strangers or mine and asked is not None and asked.type == "cpu":
            shapes = [tuple(x.shape) for x in strangers]
            raise Fault(
                "Expected all tensors to be on the same device, cuda:0; "
                f"{packet.__name__} is given cpu {shapes}: {line_of_the_project()}"
            )
        if asked is not None:
            kwargs = kwargs | {"device": torch.device("cpu")}
        kwargs.pop("pin_memory", None)
        return self.execute(function, args, kwargs)

    def execute(self, function, args, kwargs):
        """Do it, or note it in the capture; the results are on the device."""
        if self.graph is not None:
            out = self.graph.note(function, args, kwargs)
        else:
            out = function(*bare(args), **{name: bare(x) for name, x in kwargs.items()})
            if function.overloadpacket in EMPTY:
                fill_with_rubbish(out)
        same = {id(x.numbers): x for x in leaves(args, kwargs) if isinstance(x, DeviceTensor)}
        if isinstance(out, (list, tuple)):
            return type(out)(self.wrapped(x, same) for x in out)
        return self.wrapped(out, same)

    def wrapped(self, out, same=()):
        """A result as a tensor on the device; what was given comes back as itself."""
        if not isinstance(out, Tensor):
            return out
        if id(out) in same:
            return same[id(out)]
        block = self.blocks.setdefault(memory_of(out), Block())
        if self.graph is not None and memory_of(out) in self.graph.own:
            if self.graph.own[memory_of(out)] is out:
                self.graph.scratch.append((out, weakref.ref(block)))
        return DeviceTensor(out, block)

    def copy(self, function, args, kwargs):
        """_to_copy and copy_: within the device, to it, or from it."""
        new = function.overloadpacket is aten._to_copy
        source = args[0] if new else args[1]
        if new:
            asked = kwargs.get("device") or source.device
            to_cuda = torch.device(asked).type in ("cuda", "meta")
            kwargs = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")}
        else:
            to_cuda = isinstance(args[0], DeviceTensor)
        from_cuda = isinstance(source, DeviceTensor)
        if from_cuda and to_cuda or not from_cuda and not new and source.ndim == 0:
            return self.execute(function, args, kwargs)
        self.refuse_in_capture("a copy between host and device")
        later = kwargs.pop("non_blocking", False) or (not new and len(args) > 2 and args[2])
        if not from_cuda and not (later and source.is_pinned()):
            self.waits["copy to the device", line_of_the_project()] += 1
        out = function(*map(bare, args), **kwargs)
        if to_cuda:
            return self.wrapped(out.clone() if out is source else out) if new else args[0]
        if not later:
            self.land(self.wait("copy to the host"))
            return out
        out.pinned = True
        self.under_way.append((out, out.clone()))
        fill_with_rubbish(out)
        return out
