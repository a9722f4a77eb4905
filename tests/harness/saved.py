"""Directories that are saved as a worker saves them, without a Ray cluster, in each of the places for a run's data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import ray_anystorage as anystorage
from ray_anystorage.checkpoint.manifest import FORMAT
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.checkpoint.sealed import seal
from tests.harness.run_homes import Home, Site

Place = Literal["inline", "spilled", "bucket"]
PLACES: tuple[Place, ...] = ("inline", "spilled", "bucket")
NAME = "checkpoint_1"
PART = Part(NAME, "a1", 0, 1)


def put(root: Path, **files: bytes) -> None:
    """Write files below a directory, by their paths."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def home_in(site: Site, place: Place) -> tuple[Home, Saver]:
    """A new run home, and what saves into it so that data lands in that place."""
    if place == "bucket":
        home = site.in_bucket()
        return home, Saver(home=home.store, threshold=0)
    home = site.on_mount()
    spill = home.spill
    assert spill is not None
    return home, Saver(home=home.store, threshold=0 if place == "spilled" else 1 << 40, spill=lambda: spill)


def opened(home: Home) -> Any:
    """The checkpoint, as a person opens it by its path or URI."""
    return anystorage.Checkpoint(f"{home.store.uri}/{NAME}")


def content_of(root: str | os.PathLike[str]) -> dict[str, bytes | None]:
    """Every file with its content, and every folder; links count as what they lead to."""
    found: dict[str, bytes | None] = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        below = os.path.relpath(folder, root)
        if below == "." and ".anystorage" in folders:
            folders.remove(".anystorage")
        found |= {os.path.normpath(os.path.join(below, name)): None for name in folders}
        for name in names:
            found[os.path.normpath(os.path.join(below, name))] = Path(folder, name).read_bytes()
    found.pop("DATA_IS_ELSEWHERE.txt", None)
    return found


def flipped(content: bytes, bit: int) -> bytes:
    """The same but for one bit, counted from the first byte."""
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def of_a_later_version(content: bytes) -> bytes:
    """A manifest or record as it would be of the next format."""
    values = json.loads(content)
    del values["sum"]
    return seal({**values, "format": FORMAT + 1})
