"""CUDA graphs: a function whose work on the device is captured once and replayed.

Replaying saves the host's time for launching hundreds of small kernels. What was captured uses the
same memory for ever: what the function depends on besides that memory has to be in the key.
"""

from functools import cache

import torch


class Graphs:
    """Calls a function; from its second call with the same key on it replays what was captured.

    Args: capture: function -> object with replay(), see `cuda_graphs`; None: nothing is captured.
    """

    def __init__(self, capture):
        self.capture = capture
        self.graphs = {}
        self.seen = set()

    def __call__(self, key, function) -> None:
        # the first call warms up: libraries allocate what a capture may not
        if self.capture is None or key not in self.seen:
            self.seen.add(key)
            return function()
        if key not in self.graphs:
            self.graphs[key] = self.capture(function)
        self.graphs[key].replay()


def cuda_graphs():
    """A capture whose graphs share their scratch memory: none reads what another left there.

    torch.cuda.graph would wait for the device and empty its caches before each of them. A capture
    cannot take memory back that PyTorch holds unused: so that is done here, once for all.
    """
    pool, stream = torch.cuda.graph_pool_handle(), side_stream()
    torch.cuda.empty_cache()

    def capture(function):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            # what other threads do meanwhile, tools or NCCL, is no part of it
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                function()
            finally:
                graph.capture_end()
        return graph

    return capture


@cache
def side_stream():
    """The stream of all captures: libraries keep memory for every stream that they have seen."""
    return torch.cuda.Stream()
