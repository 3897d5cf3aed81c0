"""The processes that share a step, each with prompts of its own."""

import torch
import torch.distributed as dist


class Ranks:
    """What the processes tell each other. Every method is a collective: all ranks call it.

    A process alone needs no torch.distributed.
    """

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def world(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    def sum(self, values: list[float]) -> list[float]:
        """Element by element over the ranks, in float64."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: list[float]) -> list[float]:
        """Element by element over the ranks, in float64."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def gather(self, thing) -> list:
        """What each rank holds, in the order of ranks, on all of them."""
        things = [thing]
        if self.world > 1:
            things = [None] * self.world
            dist.all_gather_object(things, thing)
        return things

    def agree(self, work, mine: bool = True) -> None:
        """Do something that may fail on the ranks whose task it is.

        Raises: on all ranks the ValueError or OSError of the first that failed.
        """
        problem = None
        try:
            if mine:
                work()
        except (ValueError, OSError) as failed:
            problem = failed
        for failed in filter(None, self.gather(problem)):
            raise failed

    def share(self, items: list) -> list:
        """This rank's part of a list that all ranks have: every world-th item."""
        return items[self.rank :: self.world]

    def _reduce(self, values: list[float], how) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64)
        if self.world > 1:
            dist.all_reduce(total, how)
        return total.tolist()
