"""Tensors of the pretend CUDA device (fake_cuda.py), their memory, and its graphs.

1. DeviceTensor   says it is on cuda:0 and keeps its numbers on the CPU
2. Graph          what torch.cuda.CUDAGraph is meanwhile: capture, replay
"""

import functools
import math
import sys
import weakref
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

CUDA = torch.device("cuda", 0)
HERE = Path(__file__).parent
aten = torch.ops.aten
EMPTY = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}


class Fault(RuntimeError):
    """What CUDA refuses, or answers with rubbish."""


class Block:
    """A piece of device memory: it lives as long as a tensor that lies in it."""


class DeviceTensor(Tensor):
    """A tensor on the pretend device. numbers: its values, in host memory. gpu: the device."""

    gpu = None

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
        DeviceTensor.gpu.wait("tolist")
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
        return DeviceTensor.gpu.run(function, args, kwargs or {})


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


def fill_with_rubbish(x: Tensor) -> None:
    """NaN; of integers the largest, an index that is nowhere."""
    number = x.dtype.is_floating_point or x.dtype == torch.bool
    x.fill_(math.nan if number else torch.iinfo(x.dtype).max)


def line_of_the_project() -> str:
    """The innermost line of the project that is at work."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(HERE.parent) and not path.name.startswith("fake_"):
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
        gpu = DeviceTensor.gpu
        if gpu.stream is gpu.default:
            raise Fault("a capture needs a stream of its own")
        gpu.refuse_in_capture("another capture")
        self.pool, self.own = pool, {}
        gpu.graph, gpu.captures = self, gpu.captures + 1
        gpu.pools.setdefault(pool, weakref.WeakSet()).add(self)

    def capture_end(self):
        DeviceTensor.gpu.graph = None
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
        gpu = DeviceTensor.gpu
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
