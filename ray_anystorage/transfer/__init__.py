"""Bytes to and from stores; knows nothing of checkpoints and nothing of Ray."""
