"""support/optimizers.py: where the numbers lie that an optimizer keeps."""

import copy

import pytest
import torch

from config import read_settings
from support import checkpoints
from support.optimizers import adamw, cold_optimizers, empty_moment
from support.ranks import Ranks


def step(policy, optimizer, seed: int) -> None:
    """An update with made-up gradients."""
    draw = torch.Generator().manual_seed(seed)
    for p in policy.model.parameters():
        p.grad = torch.randn(p.shape, generator=draw)
    optimizer.step()


@pytest.mark.parametrize("fused", [None, True])
def test_a_resumed_optimizer_goes_on_bit_for_bit(agent, tmp_path, fused):
    """Also one that does all in one kernel, as on a GPU."""

    def made(policy):
        optimizer = adamw(policy.model.parameters(), 1e-2, 0.01)
        for group in optimizer.param_groups:
            group["fused"] = fused
        return optimizer

    other = copy.deepcopy(agent)
    first, second = made(agent), made(other)
    step(agent, first, 1)
    checkpoints.save(tmp_path / "step_000001", agent, [first], {}, Ranks())
    other.model.load_state_dict(agent.model.state_dict())
    checkpoints.load_state(other, [second], tmp_path / "step_000001")
    step(agent, first, 2), step(other, second, 2)
    for a, b in zip(agent.model.parameters(), other.model.parameters()):
        assert torch.equal(a, b)
    moments = [m["step"] for m in second.state.values()]
    assert all(float(m) == 2 for m in moments)


@pytest.mark.parametrize("switch", ["fused", "capturable"])
def test_one_kernel_wants_its_count_of_steps_where_the_parameter_is(switch):
    """A device that is not the CPU: meta. Elsewhere the count stays on the CPU."""
    p, q = (torch.zeros(3, 2, device="meta", requires_grad=True) for _ in range(2))
    optimizer = torch.optim.AdamW([{"params": [p]}, {"params": [q]}], lr=0.1)
    optimizer.param_groups[0][switch] = True
    counts = [empty_moment(optimizer, x, torch.Size([]), torch.float32) for x in (p, q)]
    assert [x.device.type for x in counts] == ["meta", "cpu"]
    matrices = [empty_moment(optimizer, x, torch.Size([3, 2]), torch.float32) for x in (p, q)]
    assert [(x.device.type, x.shape) for x in matrices] == [("meta", (3, 2))] * 2


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_of_a_cold_start_has_one_optimizer(agent, kind):
    flags = ["--model", "m", "--data", "d", "--cold_optimizer", kind]
    optimizers = cold_optimizers(agent.model, read_settings(flags))
    held = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(held) == sorted(map(id, agent.model.parameters()))
    assert len(optimizers) == (2 if kind == "muon" else 1)
    names = {id(p): name for name, p in agent.model.named_parameters()}
    first = {names[id(p)] for g in optimizers[0].param_groups for p in g["params"]}
    matrices = {name for name in names.values() if name.endswith("_proj.weight")}
    assert first == (matrices if kind == "muon" else set(names.values()))
