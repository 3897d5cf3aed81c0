"""The bundled world: `python -m extras.world MODE SEED`."""
