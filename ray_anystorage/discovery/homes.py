"""Finds the runs of a name that exist already, on the mounts and in the bucket."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase

from ray_anystorage.discovery.mounts import problem_of
from ray_anystorage.discovery.probe import bounded
from ray_anystorage.environment import MOUNT_TIERS, BucketAddress, Place, RunHome, Tier

# What Ray Train and Ray Tune write once there is something to resume.
_STATE = ("checkpoint_manager_snapshot.json", "tuner.pkl", "experiment_state-*.json")
# What Ray and this package write at the very start of a run.
_BEGINNINGS = (".validate_storage_marker", ".anystorage")
_Sighting = tuple[RunHome, tuple[int, int]]


def find_mount_homes(name: str, places: Sequence[Place], timeout: float) -> tuple[RunHome, ...]:
    """Look for ``<root>/<name>`` on every usable mount.

    An empty directory is no home, nor is that of a run which began and never saved anything: it has nothing to resume.
    A directory that two tiers share is reported once, for the first of them.

    Parameters
    ----------
    name
        The run's name, one path segment.
    places
        As discovered; those that are not usable, and buckets, are passed over.
    timeout
        Seconds for each mount; they are looked at side by side.

    Raises
    ------
    StorageError
        A mount that was usable cannot be read now. Passing it over could start a second run of the same name.
    """
    mounts = [place for place in places if place.usable and place.tier in MOUNT_TIERS]
    if not mounts:
        return ()
    with ThreadPoolExecutor(max_workers=len(mounts)) as pool:
        seen = [sighting for sighting in pool.map(lambda place: _find(name, place, timeout), mounts) if sighting]
    unique: dict[tuple[int, int], RunHome] = {}
    for home, identity in seen:
        unique.setdefault(identity, home)
    return tuple(unique.values())


def find_bucket_home(name: str, address: BucketAddress, list_keys: Callable[[str], Iterable[str]]) -> RunHome | None:
    """Look for ``<folder>/<name>/`` in a bucket.

    Parameters
    ----------
    name
        The run's name, one path segment.
    address
        The artifact folder.
    list_keys
        Given a prefix that ends with a slash, gives the keys below it, as full keys of the bucket in the store's own
        (lexicographic) order; the first hundred suffice, as Ray's marker starts with a dot and so comes early.
    """
    prefix = f"{address.prefix}/{name}/".lstrip("/")
    # A key that is the prefix itself only stands for an empty directory.
    segments = {key.removeprefix(prefix).partition("/")[0] for key in list_keys(prefix) if key != prefix}
    return _judge(name, "artifact", f"{address.uri}/{name}", segments)


def _find(name: str, place: Place, timeout: float) -> _Sighting | None:
    path = os.path.join(place.root, name)
    try:
        return bounded(lambda: _look(name, place, path), timeout, what=f"look for run {name} in {place.root}")
    except FileNotFoundError:
        return None
    except OSError as error:
        location = replace(place.location, root=path)
        tried = f"listed {path}, for at most {timeout:g} s"
        raise problem_of(location, error, tried=tried, network=place.network).error() from error


def _look(name: str, place: Place, path: str) -> _Sighting | None:
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino)
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries]
    except NotADirectoryError:
        return RunHome(name, place.tier, path, is_run=False), identity
    home = _judge(name, place.tier, path, names)
    return (home, identity) if home else None


def _judge(name: str, tier: Tier, path: str, entries: Collection[str]) -> RunHome | None:
    if any(fnmatchcase(entry, pattern) for entry in entries for pattern in _STATE):
        return RunHome(name, tier, path)
    if not entries or any(entry in _BEGINNINGS for entry in entries):
        return None
    return RunHome(name, tier, path, is_run=False)
