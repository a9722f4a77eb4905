"""What listens to the events of a process of a run: metrics for all, bars where the driver has a terminal."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from functools import partial

from ray_anystorage import events
from ray_anystorage.checkpoint.node import Node
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.train.metrics import Metrics
from ray_anystorage.train.progress import Bars, Room
from ray_anystorage.transfer.slots import free_slot

_metrics: dict[int, Metrics] = {}  # by process: a fork starts anew
_bars: dict[int, Bars] = {}
_RANKS = 4  # have bars; those of all ranks would fill the terminal
_BARS = 2  # at once for the trials of an experiment on a node, for the same reason


def observe(recipe: StorageRecipe, rank: int | None = None) -> None:
    """Have the events of this process counted for a run, the one that said so last; those of its first ranks shown."""
    known = _metrics.get(os.getpid())
    if known is not None:
        known.tier = recipe.tier
    else:
        made = _metrics[os.getpid()] = Metrics.of(recipe.tier)
        events.listen(made.heard)
    if rank is not None and rank < _RANKS and recipe.terminal:
        _show(f"rank {rank}: ")


def observe_trial(recipe: StorageRecipe, node: Node) -> None:
    """The same in a trial's process; what takes long in some of a node's is shown, whichever they are."""
    observe(recipe)
    if recipe.terminal:
        _show("", partial(free_slot, node.slots, f"bars of {recipe.home.uri}", most=_BARS))


def show_here() -> None:
    """Show what long restores of this process do, where it is a driver with a terminal."""
    if sys.stderr.isatty():
        _show("")


def _show(who: str, room: Room = ExitStack) -> None:
    if os.getpid() not in _bars:
        bars = _bars[os.getpid()] = Bars(who, room)
        events.listen(bars.heard)
