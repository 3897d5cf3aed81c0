"""ARPO as its authors' code branches: with a probability, not above a threshold; see arpo.py."""

from functools import partial

from methods import trained_branches
from methods.arpo import branch_after_results, by_chance

step = partial(trained_branches.step, expand=partial(branch_after_results, rule=by_chance))
