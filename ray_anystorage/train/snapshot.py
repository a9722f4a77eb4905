"""Repairing Ray's snapshot of a run on a mount, before Ray loads it.

Stock Ray truncates its snapshot in place after every report; a full disk or a crash then leaves an empty or torn file,
and the run never starts again. This package writes it atomically and keeps a second copy, so a torn one can only come
from a run without it, or from someone else's hand.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import ray

from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.record import RECORD, read_record
from ray_anystorage.checkpoint.small_files import patiently, read
from ray_anystorage.errors import ManifestError, ManifestTooNewError, ObjectMissingError, SnapshotDamagedError
from ray_anystorage.home.atomic import write_atomically
from ray_anystorage.home.filesystem import HomeFileSystem, mirror_of
from ray_anystorage.train.hooks import (
    CHECKPOINT_MANAGER_SNAPSHOT_FILENAME,
    VALIDATE_STORAGE_MARKER_FILENAME,
    _CheckpointManagerState,
)
from ray_anystorage.transfer.store import Store

logger = logging.getLogger("ray.train.anystorage")

STATE_FILES = (CHECKPOINT_MANAGER_SNAPSHOT_FILENAME, VALIDATE_STORAGE_MARKER_FILENAME)  # of Ray's, in a run home
_INDICES = "checkpoint_report_indices"
_RAYS = "checkpoint_"  # what the names begin with that Ray gives; the time of the report follows


def repair_snapshot(home: HomeFileSystem) -> str | None:
    """Make the snapshot of a run home loadable; returns what was done, or ``None`` where nothing was wrong.

    The second copy is taken, less the checkpoints that are gone since. Where it gives none, the snapshot is built anew
    from the checkpoints that have a commit record, in the order of their reports. Before them come the folders that
    stock Ray named and wrote, all but the newest of all: nothing tells whether that one is whole. A home without any
    checkpoint starts anew.

    Raises
    ------
    SnapshotDamagedError
        There is a single checkpoint, which has no record and may be half written.
    """
    path = os.path.join(home.recipe.home, CHECKPOINT_MANAGER_SNAPSHOT_FILENAME)
    return home.call("repair", path, lambda: _repair(path, home))


def _repair(path: str, home: HomeFileSystem) -> str | None:
    if not os.path.lexists(path) or read_state(path) is not None:
        return None
    directory = os.path.dirname(path)
    mirror = read_state(mirror_of(path))
    repaired, source = (_without_missing(mirror, directory), "its second copy") if mirror else (None, "")
    if repaired is None or not _names(repaired):
        repaired, source = _rebuilt(directory, path), "the checkpoints that are known to be whole"
    write_atomically(path, json.dumps(repaired).encode(), home.reserve.give_up)
    done = f"{path} was empty or torn: rewritten from {source}; it names {len(_names(repaired))} checkpoints"
    logger.warning(done)
    return done


def read_state(path: str) -> dict[str, Any] | None:
    """Ray's snapshot as plain values, or ``None`` where the file is absent, empty or torn."""
    try:
        with open(path, "rb") as file:
            state = json.loads(file.read())
    except (FileNotFoundError, ValueError):
        return None
    return state if isinstance(state, dict) and "checkpoint_results" in state else None


def named_checkpoints(home: Store) -> frozenset[str]:
    """Every checkpoint that Ray's snapshot of a run names; none where there is no snapshot.

    Raises
    ------
    SnapshotDamagedError
        It is torn.
    StorageError
        The home cannot be read.
    """
    return frozenset(reported_metrics(home))


def reported_metrics(home: Store) -> dict[str, dict[str, Any]]:
    """The metrics of every checkpoint that Ray's snapshot of a run names, in the order of their reports.

    Raises the same as :func:`named_checkpoints`.
    """
    name = CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
    try:
        content = read(home, name, patiently(lambda: home.size(name)))
    except ObjectMissingError:
        return {}
    try:
        state = json.loads(content)
        latest = state.get("latest_checkpoint_result")
        results = state["checkpoint_results"]  # by score, where the run has one
        indices = state.get(_INDICES, range(len(results)))
        results = [result for _, result in sorted(zip(indices, results, strict=True), key=lambda item: item[0])]
        results += state.get("pending_training_results", [])
        found = {result["checkpoint_dir_name"]: dict(result.get("metrics") or {}) for result in results}
        if latest:
            found.pop(latest["checkpoint_dir_name"], None)
            found[latest["checkpoint_dir_name"]] = dict(latest.get("metrics") or {})
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotDamagedError(f"{home.uri}/{name} is torn: {error!r}") from error


def _names(state: dict[str, Any]) -> list[str]:
    return [result["checkpoint_dir_name"] for result in state["checkpoint_results"]]


def _missing(state: dict[str, Any], directory: str) -> list[str]:
    return [name for name in _names(state) if not os.path.isdir(os.path.join(directory, name))]


def _without_missing(state: dict[str, Any], directory: str) -> dict[str, Any]:
    """The state less the checkpoints that are not there; Ray refuses a snapshot that names one."""
    gone = set(_missing(state, directory))
    kept = [index for index, name in enumerate(_names(state)) if name not in gone]
    repaired = dict(state)
    repaired["checkpoint_results"] = [state["checkpoint_results"][index] for index in kept]
    if _INDICES in state:  # older versions of Ray write none
        repaired[_INDICES] = [state[_INDICES][index] for index in kept]
    pending = state.get("pending_training_results", [])
    alive = [index for index, result in enumerate(pending) if result["checkpoint_dir_name"] not in gone]
    for key in ("pending_training_results", "pending_validation_specs"):
        if key in state:
            repaired[key] = [state[key][index] for index in alive]
    latest = state.get("latest_checkpoint_result")
    if latest is not None and latest["checkpoint_dir_name"] in gone:
        order = dict(zip(_names(repaired), repaired.get(_INDICES, range(len(kept))), strict=True))
        repaired["latest_checkpoint_result"] = max(
            repaired["checkpoint_results"], key=lambda result: order[result["checkpoint_dir_name"]], default=None
        )
    return repaired


def _rebuilt(directory: str, path: str) -> dict[str, Any]:
    committed = _committed(directory)
    foreign = _foreign_folders(directory)
    later = max((name for name in committed if name.startswith(_RAYS)), default="")
    if foreign and foreign[-1] > later:
        if not committed and len(foreign) == 1:
            raise _beyond_repair(path, directory, foreign[0])
        foreign.pop()  # the newest of all
    names = [*foreign, *sorted(committed, key=lambda name: (committed[name], name))]
    return state_of({name: {} for name in names}, reports=max(len(names), *committed.values(), 0))


def state_of(metrics: Mapping[str, dict[str, Any]], *, reports: int) -> dict[str, Any]:
    """Ray's snapshot of a run with these checkpoints, oldest first, after so many reports, as plain values."""
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": said} for name, said in metrics.items()]
    fields = getattr(_CheckpointManagerState, "model_fields", None) or _CheckpointManagerState.__fields__
    values: dict[str, Any] = {
        "version": 0,
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        _INDICES: list(range(len(results))),
        "latest_checkpoint_result": results[-1] if results else None,
        "current_report_index": reports,
    }
    return {name: values.get(name, []) for name in fields}


def _committed(directory: str) -> dict[str, int]:
    """The number of the report of every checkpoint that has a record which can be read."""
    found: dict[str, int] = {}
    for entry in os.scandir(directory):
        try:
            with open(os.path.join(entry.path, FOLDER, RECORD), "rb") as file:
                found[entry.name] = read_record(file.read()).report
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ManifestTooNewError:
            raise
        except ManifestError as error:
            logger.warning("%s is left out of the run's state: %s", entry.path, error)
    return found


def _foreign_folders(directory: str) -> list[str]:
    """Names of the folders that stock Ray wrote, oldest first: the name is the time of the report."""
    return sorted(
        entry.name
        for entry in os.scandir(directory)
        if entry.name.startswith(_RAYS) and entry.is_dir(follow_symlinks=False) and _is_foreign(entry.path)
    )


def _is_foreign(folder: str) -> bool:
    names = os.listdir(folder)
    return bool(names) and FOLDER not in names


def _beyond_repair(path: str, directory: str, folder: str) -> SnapshotDamagedError:
    return SnapshotDamagedError(
        f"{path} is empty or torn, and the only checkpoint there, {folder}, may be half written. To start anew, remove "
        f"{path} or choose another run name; what {os.path.join(directory, folder)} holds can be read with "
        "ray.train.Checkpoint."
    )
