"""The numbers of one step: what happened, over all ranks. docs/metrics.md defines each of them.

    1. Meter.phase     seconds per phase; tells who watches that a phase begins
    2. Meter.add       a mini-batch after its update: rollouts, the loss' statistics
    3. Meter.numbers   one number per name, over all ranks
    4. over_passes     the statistics of one update from those of its passes

Reads the numbers that lie on the rollouts; nothing of the algorithm depends on it.
"""

import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from rewards import format_fault
from support import phases
from support.phases import Phases
from support.ranks import Ranks
from support.sandbox import STATUSES

# weighted by updates; "degenerate" by rollouts; every other mean is over policy tokens
PER_UPDATE = ("loss", "grad_norm", "padding", "skipped")


class Meter:
    """Collects the numbers of one step.

    Args: sampler: whose counts are watched from now on. note: told each phase as it begins.
    """

    def __init__(self, sampler, note: Callable[[str], None] = lambda phase: None):
        self.phases = Phases(note)
        self.sampler, self.before = sampler, Counter(sampler.count)
        self.minibatches: list[dict] = []

    def add(self, batch: list, stats: dict) -> None:
        """A mini-batch whose rollouts still hold the numbers from before its update."""
        own = [torch.tensor(r.mask, dtype=torch.bool) for r in batch]

        def policy_tokens(name: str) -> Tensor:
            rows = [torch.as_tensor(getattr(r, name))[mask] for r, mask in zip(batch, own)]
            return torch.cat(rows) if rows else torch.zeros(0)

        omega, logp_old = policy_tokens("omega").double(), policy_tokens("logp_old")
        gap = (policy_tokens("sampled_logp") - logp_old).abs()
        some = len(omega) > 0
        self.minibatches.append(
            stats
            | {
                "entropy": _mean(policy_tokens("entropy")),
                "omega": _mean(omega),
                # from 1, where Omega is before an update: squares from 0 would lose digits
                "omega_square": _mean((omega - 1).square()),
                "omega_max": float(omega.max()) if some else 0.0,
                "drift": _mean((policy_tokens("logp") - logp_old).abs()),
                "sampler_gap": float(gap.max()) if some else 0.0,
                "degenerate": _mean([float(r.degenerate) for r in batch]),
                "trained": len(omega),
                "rows": len(batch),
                "prompts": {r.group for r in batch},
            }
        )

    def numbers(self, rollouts: list, ranks: Ranks) -> dict[str, float]:
        """The numbers of a step over all ranks; a few numbers per rollout are gathered.

        rollouts: this rank's initial ones and branches.
        """
        self.phases.close()
        initial = [r for r in rollouts if r.parent is None]
        branches = [r for r in rollouts if r.parent is not None]
        parts = ranks.gather(
            {
                "facts": list(map(_facts, initial)),
                "forks": list(map(_fork_facts, branches)),
                "statuses": [s for r in rollouts for s in _own_statuses(r)],
                "log": self.minibatches,
                "count": self.sampler.count - self.before,
                "seconds": self.phases.seconds,
            }
        )
        facts, forks, statuses, log = (
            [x for part in parts for x in part[name]]
            for name in ("facts", "forks", "statuses", "log")
        )
        numbers = _rollout_numbers(facts, forks)
        numbers |= _token_numbers(facts, forks, sum((part["count"] for part in parts), Counter()))
        numbers |= _update_numbers([part["log"] for part in parts])
        numbers |= {"optimizer_steps": len(self.minibatches), "calls_made": len(statuses)}
        numbers |= {f"tool_{name}": _mean([s == name for s in statuses]) for name in STATUSES}
        drawn = {f["group"] for f in facts}
        numbers["prompts_drawn"] = len(drawn)
        numbers["prompts_dropped"] = len(drawn.difference(*(entry["prompts"] for entry in log)))
        seconds = {p: _mean([part["seconds"][p] for part in parts]) for p in phases.NAMES}
        numbers |= {f"seconds_{phase}": value for phase, value in seconds.items()}
        return numbers | {"seconds": sum(seconds.values())}


def _update_numbers(logs: list[list[dict]]) -> dict[str, float]:
    """Of the mini-batches of each rank: their means, and what sets the first of a step apart."""
    log = [entry for own in logs for entry in own]
    names = [name for name in log[0] if name not in ("trained", "rows", "prompts")]
    numbers = {name: over_minibatches(name, log) for name in names}
    spread = numbers.pop("omega_square") - (numbers["omega"] - 1) ** 2
    later = [entry for own in logs for entry in own[1:]]
    return numbers | {
        "omega_std": math.sqrt(max(spread, 0.0)),
        "degenerate_first": over_minibatches("degenerate", [own[0] for own in logs]),
        "degenerate_later": over_minibatches("degenerate", later),
        "tokens_trained": sum(entry["trained"] for entry in log),
    }


def over_passes(passes: list[dict], unpadded: int, ranks: Ranks) -> dict[str, float]:
    """One number of an update from those of its passes, over all ranks.

    passes: what the loss returned for each, with "loss", its value, and "padded", tokens with
    padding. unpadded: tokens without it. Returns: means over the policy tokens; sums for "loss";
    the maximum for "ratio_max"; "padding", the share of these that are none.
    """
    summed = ("loss", "padded", "tokens")
    totals = Counter({"unpadded": unpadded})
    for stats in passes:
        for name, value in stats.items():
            if name != "ratio_max":
                # a Counter adds
                totals[name] += value if name in summed else stats["tokens"] * value
    totals = dict(zip(totals, ranks.sum(list(totals.values()))))
    top = ranks.max([max((stats["ratio_max"] for stats in passes), default=0.0)])[0]
    padding = 1 - totals.pop("unpadded") / totals.pop("padded")
    tokens = max(totals.pop("tokens"), 1)
    means = {name: x if name == "loss" else x / tokens for name, x in totals.items()}
    return means | {"padding": padding, "ratio_max": top}


def over_minibatches(name: str, log: list[dict]) -> float:
    """One number of a step from those of its mini-batches, as its definition says.

    The maximum, or the mean over updates, rollouts or policy tokens.
    """
    if name.endswith(("_max", "_gap")):
        return max((entry[name] for entry in log), default=0.0)
    unit = "rows" if name == "degenerate" else "trained"
    weights = [1 if name in PER_UPDATE else entry[unit] for entry in log]
    return sum(w * entry[name] for w, entry in zip(weights, log)) / max(sum(weights), 1)


def _facts(r) -> dict:
    """Of an initial rollout."""
    return {
        "group": r.group,
        "reward": r.reward,
        "broken": format_fault(r) != "",
        "parts": r.reward_parts,
        "fault": r.reward_fault != "",
        "finish": r.finish,
        "length": len(r.ids),
        "prompt": len(r.prompt),
        "calls": len(r.calls),
    }


def _fork_facts(r) -> dict:
    """Of a branch."""
    parent = len(r.parent.ids)
    fault = r.reward_fault != ""
    size = {"at": r.fork_at, "length": len(r.ids), "parent": parent}
    return {"reward": r.reward, "fault": fault} | size


def _own_statuses(r) -> list[str]:
    """How the calls of a rollout ended, without those that a branch has inherited."""
    return [c.status for c in r.calls if not r.inherits(c)]


def _rollout_numbers(facts: list[dict], forks: list[dict]) -> dict:
    """Means over rollouts, prompts and branches."""
    groups = {}
    for f in facts:
        groups.setdefault(f["group"], []).append(f["reward"])
    groups = groups.values()
    names = sorted({name for f in facts for name in f["parts"]})
    parts = {n: [f["parts"][n] for f in facts if n in f["parts"]] for n in names}
    spreads = [torch.tensor(g, dtype=torch.float32).std(correction=0).item() for g in groups]
    return {
        "reward": _mean([f["reward"] for f in facts]),
        "reward_std": _mean(spreads),
        "reward_branch": _mean([f["reward"] for f in forks]),
        "reward_failed": _mean([f["fault"] for f in facts + forks]),
        "zero_std": _mean([max(g) == min(g) for g in groups]),
        "format_errors": _mean([f["broken"] for f in facts]),
        "truncated": _mean([f["finish"] in ("length", "calls") for f in facts]),
        "forged": _mean([f["finish"] == "forged" for f in facts]),
        "length": _mean([f["length"] for f in facts]),
        "calls": _mean([f["calls"] for f in facts]),
        "branches": len(forks),
        "fork_depth": _mean([f["at"] / f["parent"] for f in forks]),
    } | {f"reward_fn_{name}": _mean(values) for name, values in parts.items()}


def _token_numbers(facts: list[dict], forks: list[dict], count: Counter) -> dict:
    """Tokens sampled, computed and unique: each prompt once, each branch without its prefix."""
    unique = sum({f["group"]: f["prompt"] for f in facts}.values())
    unique += sum(f["length"] for f in facts) + sum(f["length"] - f["at"] for f in forks)
    return {
        "tokens_sampled": count["sampled"],
        "tokens_computed": count["computed"],
        "tokens_unique": unique,
        "computed_per_unique": count["computed"] / unique,
        "occupancy": count["sampled"] / max(count["row_calls"], 1),
    }


def _mean(values) -> float:
    """The mean of numbers or of a tensor; 0 if there are none."""
    if isinstance(values, Tensor):
        return float(values.mean()) if len(values) else 0.0
    return sum(values) / len(values) if values else 0.0
