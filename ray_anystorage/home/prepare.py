"""Making a run home ready on a mount, before Ray writes into it."""

from __future__ import annotations

import os

from ray_anystorage.home.atomic import sweep_temporaries
from ray_anystorage.home.filesystem import HomeFileSystem
from ray_anystorage.home.reserve import STATE_FOLDER


def prepare_home(filesystem: HomeFileSystem) -> None:
    """Create the home and its reserve, and remove what crashed writers left.

    Raises
    ------
    MountTimeoutError, MountFullError
        The mount does not answer, or has no room for an empty folder.
    """
    home = filesystem.recipe.home
    state = os.path.join(home, STATE_FOLDER)
    filesystem.create_dir(state)
    filesystem.call("prepare", home, lambda: _prepare(filesystem, home, state))


def _prepare(filesystem: HomeFileSystem, home: str, state: str) -> None:
    sweep_temporaries(home)
    sweep_temporaries(state)
    if not filesystem.reserve.held():
        filesystem.reserve.fill()
