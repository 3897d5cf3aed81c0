"""The optimizers of a run, and where their numbers lie.

1. adamw             of the training steps
2. cold_optimizers   of the cold start: AdamW, or Muon and AdamW
3. empty_moment      room for one of their numbers, where the optimizer wants it
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from config import Config


def adamw(
    parameters: Iterable[Tensor],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.AdamW:
    """AdamW; on a GPU in one kernel, which needs no temporary as large as the weights."""
    parameters = list(parameters)
    fused = any(p.device.type == "cuda" for p in parameters) or None
    how = dict(lr=lr, weight_decay=weight_decay, betas=betas, fused=fused)
    return torch.optim.AdamW(parameters, **how)


def cold_optimizers(model, run: Config) -> list[torch.optim.Optimizer]:
    """AdamW; or Muon for the matrices inside the layers, which a model trained from nothing learns
    much faster with, and AdamW for the rest."""
    if run.cold_optimizer == "adamw":
        return [adamw(model.parameters(), run.cold_lr, run.cold_weight_decay)]
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=run.muon_lr, momentum=0.95, weight_decay=0.0),
        adamw(others, run.cold_lr, 0.0, betas=(0.9, 0.98)),
    ]


def empty_moment(optimizer, p: Tensor, size: torch.Size, dtype: torch.dtype) -> Tensor:
    """Zeros for a number that an optimizer keeps of a parameter.

    size: of that number. A matrix lies where its parameter does. A count of steps has no size: it
    lies on the CPU, but with the parameter where one kernel does all.
    """
    if size:
        return torch.zeros_like(p)
    group = next(g for g in optimizer.param_groups if any(p is q for q in g["params"]))
    on_device = group.get("fused") or group.get("capturable")
    return torch.zeros((), dtype=dtype, device=p.device if on_device else "cpu")
