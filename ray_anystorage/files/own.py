"""This package's own folders in ``local`` storage (``anystorage-<uid>``), neither listed nor deleted."""

from __future__ import annotations

import os
import re

from ray_anystorage.files.spot import Spot
from ray_anystorage.settings import Settings, read_settings
from ray_anystorage.transfer.open_store import MountRecipe

_NAME = r"anystorage-\d+"


def own_below(place: Spot) -> re.Pattern[str] | None:
    """What the paths below a place begin with that are this package's own; ``None`` where none can be."""
    local = _local(read_settings())
    if local is None or not isinstance(place.recipe, MountRecipe):
        return None
    root = os.path.realpath(place.recipe.root)
    if local != root and not local.startswith(root.rstrip("/") + "/"):
        return None
    between = os.path.relpath(local, root)
    return re.compile(("" if between == "." else re.escape(between) + "/") + _NAME + "(?:/|$)")


def is_own(path: str, settings: Settings) -> bool:
    """Whether a path, without symbolic links, lies in one of them."""
    local = _local(settings)
    return local is not None and re.match(re.escape(local.rstrip("/")) + "/" + _NAME + "(?:/|$)", path) is not None


def _local(settings: Settings) -> str | None:
    root = next((location.root for location in settings.locations if location.tier == "local"), None)
    return None if root is None else os.path.realpath(root)
