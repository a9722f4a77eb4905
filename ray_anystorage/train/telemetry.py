"""What listens to the events of a process of a run: metrics for all, bars where the driver has a terminal."""

from __future__ import annotations

import os
import sys

from ray_anystorage import events
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.train.metrics import Metrics
from ray_anystorage.train.progress import Bars

_metrics: dict[int, Metrics] = {}  # by process: a fork starts anew
_bars: dict[int, Bars] = {}


def observe(recipe: StorageRecipe) -> None:
    """Have the events of this process counted, and shown, for a run; for the one that said so last."""
    known = _metrics.get(os.getpid())
    if known is not None:
        known.tier = recipe.tier
    else:
        made = _metrics[os.getpid()] = Metrics.of(recipe.tier)
        events.listen(made.heard)
    if recipe.terminal:
        _show()


def show_here() -> None:
    """Show what long restores of this process do, where it is a driver with a terminal."""
    if sys.stderr.isatty():
        _show()


def _show() -> None:
    if os.getpid() not in _bars:
        bars = _bars[os.getpid()] = Bars()
        events.listen(bars.heard)
