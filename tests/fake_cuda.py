"""A pretend CUDA device: tensors that say they are on cuda:0 and keep their numbers on the CPU.

    1. Device         `with Device() as gpu:` torch.cuda is this one meanwhile
    2. DeviceTensor   a tensor on it; every operator on one goes through Device.run
    3. Graph          what torch.cuda.CUDAGraph is meanwhile: capture, replay

Its rules are a GPU's:
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
import functools
import math
import sys
import weakref
from collections import Counter
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

CUDA = torch.device("cuda", 0)
ROOT = Path(__file__).parent.parent
aten = torch.ops.aten
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
EMPTY = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}


class Fault(RuntimeError):
    """What CUDA refuses, or answers with rubbish."""


class Block:
    """A piece of device memory: it lives as long as a tensor that lies in it."""


class DeviceTensor(Tensor):
    """A tensor on the pretend device. numbers: its values, in host memory."""

    @staticmethod
    def __new__(cls, numbers: Tensor, block: Block):
        # below Python it is a meta tensor: a guard for a GPU would ask for a driver
        x = Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device="meta",
        )
        x.numbers, x.block = numbers, block
        return x

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = is_cpu = property(lambda self: False)

    def untyped_storage(self):
        return self.numbers.untyped_storage()

    def data_ptr(self):
        return self.numbers.data_ptr()

    def tolist(self):
        Device.current.wait("tolist")
        return self.numbers.tolist()

    def __repr__(self):
        return f"DeviceTensor({self.numbers!r})"

    def __getitem__(self, index):
        return Tensor.__getitem__(self, on_device(index))

    def __setitem__(self, index, value):
        if not isinstance(value, Tensor):
            value = torch.full((), value, dtype=self.dtype, device=CUDA)
        Tensor.__setitem__(self, on_device(index), value)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return Device.current.run(function, args, kwargs or {})


def on_device(index):
    """An index as the device takes it: lists and CPU tensors are copied there, which waits."""
    if isinstance(index, tuple):
        return tuple(map(on_device, index))
    if isinstance(index, list) or isinstance(index, Tensor) and index.device.type == "cpu":
        return torch.as_tensor(index).to(CUDA)
    return index


def leaves(args: tuple, kwargs: dict):
    """All arguments; those that are lists of tensors one by one."""
    for x in (*args, *kwargs.values()):
        if isinstance(x, (list, tuple)):
            yield from x
        else:
            yield x


def bare(x):
    """An argument with the numbers of its device tensors in their place."""
    if isinstance(x, DeviceTensor):
        return x.numbers
    return [bare(y) for y in x] if isinstance(x, (list, tuple)) else x


def memory_of(numbers: Tensor) -> int:
    """Which memory it lies in."""
    return numbers.untyped_storage()._cdata


def attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """The CPU's kernel: what chooses a kernel takes the device for meta."""
    if enable_gqa:
        per_key = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(per_key, 1) for x in (key, value))
    kernel = aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def fill_with_rubbish(x: Tensor) -> None:
    """NaN; of integers the largest, an index that is nowhere."""
    number = x.dtype.is_floating_point or x.dtype == torch.bool
    x.fill_(math.nan if number else torch.iinfo(x.dtype).max)


def line_of_the_project() -> str:
    """The innermost line of the project that is at work."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if frame.f_code.co_filename != __file__ and path.is_relative_to(ROOT):
            return f"{path.name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


class Graph:
    """A captured piece of work.

    work: (operator, arguments, results) in order. outside: the memory from before that it names.
    scratch: its own. kept: tensors in it that outlived the capture.
    """

    def __init__(self):
        self.work, self.scratch, self.kept, self.outside = [], [], [], {}

    def capture_begin(self, pool=None, capture_error_mode="global"):
        gpu = Device.current
        if gpu.stream is gpu.default:
            raise Fault("a capture needs a stream of its own")
        gpu.refuse_in_capture("another capture")
        self.pool, self.own = pool, {}
        gpu.graph, gpu.captures = self, gpu.captures + 1
        gpu.pools.setdefault(pool, weakref.WeakSet()).add(self)

    def capture_end(self):
        Device.current.graph = None
        self.kept = [(x, block) for x, block in self.scratch if block() is not None]
        del self.own

    def note(self, function, args, kwargs) -> list[Tensor]:
        """Note an operator; do it, unless it writes to memory from before. Returns its results."""
        given = [x for x in leaves(args, kwargs) if isinstance(x, DeviceTensor)]
        for x in given:
            if memory_of(x.numbers) not in self.own:
                self.outside[memory_of(x.numbers)] = weakref.ref(x.block), line_of_the_project()
        args, kwargs = bare(args), {name: bare(x) for name, x in kwargs.items()}
        written = written_by(function, args, kwargs)
        if written and any(memory_of(x) not in self.own for x in written):
            self.work.append((function, args, kwargs, []))
            return written[0] if len(function._schema.returns) == 1 else written
        out = function(*args, **kwargs)
        new = [x for x in leaves((out,), {}) if isinstance(x, Tensor)]
        before = {memory_of(x.numbers) for x in given}
        new = [x for x in new if memory_of(x) not in before]
        self.own |= {memory_of(x): x for x in new}
        # a view is an address that is known by now
        if written or new and function.overloadpacket not in EMPTY:
            self.work.append((function, args, kwargs, new))
        return out

    def replay(self):
        gpu = Device.current
        gpu.refuse_in_capture("a replay")
        gpu.replays += 1
        for block, line in self.outside.values():
            if block() is None:
                raise Fault(f"a replay uses memory that was freed since its capture, as in {line}")
        with _disable_current_modes(), torch.no_grad():
            # what other graphs of the pool left there is overwritten, and the other way round
            others = [graph for graph in gpu.pools[self.pool] if graph is not self]
            for x, _ in (*self.scratch, *(pair for graph in others for pair in graph.kept)):
                fill_with_rubbish(x)
            for function, args, kwargs, results in self.work:
                again = function(*args, **kwargs)
                if results:
                    for x, y in zip(results, (z for z in leaves((again,), {}) if z is not None)):
                        x.copy_(y)


@functools.cache
def writing_arguments(function) -> tuple:
    """(place, name) of the arguments that an operator writes to."""
    arguments = enumerate(function._schema.arguments)
    return tuple((k, a.name) for k, a in arguments if a.alias_info and a.alias_info.is_write)


def written_by(function, args, kwargs) -> list[Tensor]:
    """The tensors that an operator writes to."""
    given = [
        args[k] if k < len(args) else kwargs.get(name) for k, name in writing_arguments(function)
    ]
    return [x for x in leaves(tuple(given), {}) if isinstance(x, Tensor)]


class Stream:
    """torch.cuda.Stream: work is done at once, whatever its stream; copies are under way."""

    def synchronize(self):
        Device.current.land(Device.current.wait("stream"))

    def wait_stream(self, stream):
        pass


class Event:
    """torch.cuda.Event; copies: those to the host that were under way when it was recorded."""

    copies = None

    def record(self, stream=None):
        self.copies = list(Device.current.under_way)

    def synchronize(self):
        if self.copies is None:
            raise Fault("an event that was not recorded is waited for")
        Device.current.wait("event")
        Device.current.land(self.copies)


class Device(TorchDispatchMode):
    """The device. waits: Counter of (what, line). captures, replays: how many."""

    current: "Device | None" = None

    def __init__(self):
        super().__init__()
        self.waits, self.captures, self.replays, self.operators = Counter(), 0, 0, Counter()
        self.graph: Graph | None = None
        self.pools, self.under_way = {}, []
        self.default = self.stream = Stream()
        self.blocks = weakref.WeakValueDictionary()

    def __enter__(self):
        Device.current = self
        self.patches = contextlib.ExitStack()
        for name, value in self.torch_cuda().items():
            self.patches.enter_context(mock.patch.object(torch.cuda, name, value))
        pinned = {
            "pin_memory": lambda x: self.pin(x),
            "is_pinned": lambda x: getattr(x, "pinned", False),
        }
        for name, value in pinned.items():
            self.patches.enter_context(mock.patch.object(Tensor, name, value))
        # its C++ side would build the tensor on a GPU itself
        plain = torch.tensor

        def tensor(data, *, device=None, **how):
            x = plain(data, **how)
            # "cuda" without a number would ask a driver for it
            return x if device is None or torch.device(device).type != "cuda" else x.to(CUDA)

        self.patches.enter_context(mock.patch.object(torch, "tensor", tensor))
        self.patches.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attention))
        # else a parameter that two modules share would become two
        self.swapped = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *problem):
        super().__exit__(*problem)
        torch.__future__.set_swap_module_params_on_conversion(self.swapped)
        self.patches.close()
        Device.current = None

    def torch_cuda(self) -> dict:
        """What stands in torch.cuda meanwhile."""
        return dict(
            is_available=lambda: True,
            is_initialized=lambda: True,
            device_count=lambda: 1,
            current_device=lambda: 0,
            set_device=lambda device: None,
            synchronize=lambda *device: self.land(self.wait("synchronize")),
            empty_cache=lambda: self.refuse_in_capture("emptying the cache"),
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
