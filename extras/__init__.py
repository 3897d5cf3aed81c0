"""Beside the method: what a run costs (plan), how fast it is (bench), the bundled world."""
