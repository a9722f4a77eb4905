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
from ray_anystorage.errors import MountFullError, MountPermissionError, MountReadOnlyError

# What Ray Train and Ray Tune write once there is something to resume.
_STATE = ("checkpoint_manager_snapshot.json", "tuner.pkl", "experiment_state-*.json")
# What Ray and this package write at the very start of a run.
_BEGINNINGS = (".validate_storage_marker", ".anystorage")
_READABLE = (MountFullError, MountReadOnlyError, MountPermissionError)
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
        As discovered; buckets and what is absent are passed over. A mount that cannot be written, being full or
        read-only, is searched all the same: a run may live there.
    timeout
        Seconds for each mount; they are looked at side by side.

    Raises
    ------
    StorageError
        A mount that was usable cannot be read now. Passing it over could start a second run of the same name.
    """
    mounts = [place for place in places if can_be_searched(place)]
    if not mounts:
        return ()
    with ThreadPoolExecutor(max_workers=len(mounts)) as pool:
        seen = [sighting for sighting in pool.map(lambda place: _find(name, place, timeout), mounts) if sighting]
    unique: dict[tuple[int, int], RunHome] = {}
    for home, identity in seen:
        unique.setdefault(identity, home)
    return tuple(unique.values())


def is_state(name: str) -> bool:
    """True for the name of a file, in a run home, that Ray writes once there is something to resume."""
    return any(fnmatchcase(name, pattern) for pattern in _STATE)


def can_be_searched(place: Place) -> bool:
    """True for a mount that can be read, whether or not it can be written."""
    readable = place.problem is not None and issubclass(place.problem.error_type, _READABLE)
    return place.tier in MOUNT_TIERS and (place.usable or readable)


def find_bucket_home(name: str, address: BucketAddress, list_keys: Callable[[str], Iterable[str]]) -> RunHome | None:
    """Look for ``<folder>/<name>/`` in a bucket.

    Parameters
    ----------
    name
        The run's name, one path segment.
    address
        The artifact folder.
    list_keys
        Given a prefix, gives the first keys of the bucket that begin with it.
    """
    prefix = f"{address.prefix}/{name}/".lstrip("/")
    found = [key for pattern in _STATE for key in list_keys(f"{prefix}{pattern.partition('*')[0]}")]
    # A key that is the prefix itself only stands for an empty directory.
    found = found or [key for key in list_keys(prefix) if key != prefix]
    return _judge(
        name, "artifact", f"{address.uri}/{name}", {key.removeprefix(prefix).partition("/")[0] for key in found}
    )


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
    if any(map(is_state, entries)):
        return RunHome(name, tier, path)
    if not entries or any(entry in _BEGINNINGS for entry in entries):
        return None
    return RunHome(name, tier, path, is_run=False)
