"""support/seeds.py: uniform, and another number for every argument."""

import math

import torch

from support.seeds import mix_seed, uniform


def test_uniform_is_uniform_and_depends_on_both_arguments():
    position = torch.arange(100_000)
    u = uniform(torch.full_like(position, mix_seed(1, 2, 3)), position)
    assert ((0 <= u) & (u < 1)).all() and u.dtype == torch.float64
    ks = (u.sort().values - (position + 0.5) / len(u)).abs().max() * math.sqrt(len(u))
    # 1 % level of Kolmogorov-Smirnov
    assert ks < 1.6
    other = uniform(torch.full_like(position, mix_seed(1, 2, 4)), position)
    for a, b in ((u[1:], u[:-1]), (u, other), (u[1:], other[:-1])):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.02


def test_seeds_differ():
    seeds = {
        mix_seed(s, t, p, n, b)
        for s in range(3)
        for t in range(3)
        for p in range(5)
        for n in range(4)
        for b in range(4)
    }
    assert len(seeds) == 3 * 3 * 5 * 4 * 4 and all(0 <= s < 2**63 for s in seeds)
