"""CUDA graphs: a function whose work on the device is recorded once and replayed.

Replaying saves the host's time for launching hundreds of small kernels. What was recorded uses the
same memory for ever: what the function depends on besides that memory has to be in the key.
"""

import torch


class Graphs:
    """Calls a function; from its second call with the same key on it replays the recording.

    Args: record: function -> object with replay(), see `cuda_graphs`; None: nothing is recorded.
    """

    def __init__(self, record):
        self.record = record
        self.graphs = {}
        self.seen = set()

    def __call__(self, key, function) -> None:
        # the first call warms up: libraries allocate what a recording may not
        if self.record is None or key not in self.seen:
            self.seen.add(key)
            return function()
        if key not in self.graphs:
            self.graphs[key] = self.record(function)
        self.graphs[key].replay()


def cuda_graphs():
    """A recorder whose graphs share their scratch memory: none reads what another left there."""
    pool = torch.cuda.graph_pool_handle()

    def record(function):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            function()
        return graph

    return record
