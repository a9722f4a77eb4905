"""What a benchmark is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ray_anystorage.bench.shapes import Shape
from ray_anystorage.settings import Settings

LEAST_ROUNDS = 3  # noise cannot be told from fewer


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for.

    Attributes
    ----------
    seconds, bytes
        That all of it may take, and write.
    rounds
        Of each cell, where there is time for them.
    tiers
        To measure; all where empty.
    stock
        Whether Ray's own path is measured beside ours.
    like
        Bytes of checkpoints, by tier and shape, that are not to be chosen anew.
    settings
        Of this process.
    """

    seconds: float
    bytes: int
    rounds: int
    tiers: tuple[str, ...]
    shapes: tuple[Shape, ...]
    stock: bool
    like: Mapping[tuple[str, str], int]
    settings: Settings
