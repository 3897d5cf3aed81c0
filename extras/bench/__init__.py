"""Figures of speed and memory: `python -m extras.bench [parts]`."""
