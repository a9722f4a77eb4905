"""How fast checkpoints move, against Ray's own path and other clients: ``python -m benchmarks.transfer``."""
