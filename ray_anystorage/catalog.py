"""Every run and experiment that there is, in all tiers: what it keeps, where, how good it is and how old."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from numbers import Real
from typing import Any, Literal

import pyarrow.fs

from ray_anystorage.checkpoint.audit import recorded_in
from ray_anystorage.checkpoint.manifest import FOLDER, POINTER
from ray_anystorage.checkpoint.read import record_of
from ray_anystorage.checkpoint.record import DAMAGED, RECORD, Record
from ray_anystorage.checkpoint.small_files import patiently, side_by_side
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.discovery.homes import is_state
from ray_anystorage.errors import (
    AnyStorageError,
    CheckpointMissingError,
    ManifestError,
    ManifestTooNewError,
    RequestError,
)
from ray_anystorage.run_list import find_all
from ray_anystorage.runs import Run
from ray_anystorage.train.snapshot import reported_metrics
from ray_anystorage.transfer.store import Store
from ray_anystorage.tune.hooks import TUNER_STATE
from ray_anystorage.tune.results import has_state
from ray_anystorage.tune.results import reported_metrics as metrics_of_trials

Mode = Literal["max", "min"]
Kind = Literal["train", "tune"]
State = Literal["committed", "not verifiable", "damaged", "never committed", "not readable", "gone"]


@dataclass(frozen=True, slots=True)
class Kept:
    """One checkpoint that a run keeps.

    Attributes
    ----------
    name
        Its folder below the run home.
    size
        Bytes of data.
    state
        ``"committed"``: saved whole, and nobody found it damaged since. ``"not verifiable"``: somebody else stored it.
        ``"not readable"``: a later version of this package stored it.
    spilled
        True where data of it lies in the bucket and its manifests in a home on a mount.
    metrics
        As they were reported with it.
    """

    name: str
    size: int
    state: State
    spilled: bool
    metrics: Mapping[str, Any]

    @property
    def good(self) -> bool:
        """True for what can be opened, as far as is known."""
        return self.state in ("committed", "not verifiable")

    def number(self, metric: str) -> float | None:
        """A metric that is a finite number, as :func:`number_in` finds it."""
        return number_in(self.metrics, metric)


def number_in(metrics: Mapping[str, Any], metric: str) -> float | None:
    """A metric that is a finite number; ``"a/b"`` is ``b`` of the metrics ``a``, as for Ray."""
    value: Any = metrics.get(metric)
    if value is None and "/" in metric:
        value = metrics
        for part in metric.split("/"):
            value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return float(value)


@dataclass(frozen=True, slots=True)
class Entry:
    """One run or experiment.

    Attributes
    ----------
    run
        Where it is.
    kind
        Whether Ray Train or Ray Tune keeps its state.
    saved
        When its state was last written; ``None`` where the store does not say.
    checkpoints
        Those that its state names, the latest last; all that lie there where the state was not loaded.
    unnamed
        Names of those that lie there as well: newer than the state, of an earlier experiment of the name, or of Train
        runs inside the trials of this one; ``None`` where the state was not loaded.
    problem
        Why it could not be looked into, in a list; ``None`` where it could.
    """

    run: Run
    kind: Kind
    saved: datetime | None = None
    checkpoints: tuple[Kept, ...] = ()
    unnamed: tuple[str, ...] | None = None
    problem: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all its checkpoints."""
        return sum(kept.size for kept in self.checkpoints)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the finite numbers that its good checkpoints were reported with."""
        good = (kept for kept in self.checkpoints if kept.good)
        return tuple(sorted({name for kept in good for name in kept.metrics if kept.number(name) is not None}))

    def best(self, metric: str, mode: Mode) -> Kept | None:
        """The good checkpoint whose metric is best; ``None`` where none has a number of this name."""
        sign = 1 if mode == "max" else -1
        rated = [(kept, value) for kept in self.checkpoints if kept.good and (value := kept.number(metric)) is not None]
        return max(rated, key=lambda item: sign * item[1])[0] if rated else None


def list_runs(
    *, credentials: Credentials | None = None, artifact_storage: str | None = None, metrics: bool = False
) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Every run right below the root of a tier, and why tiers could not be looked at.

    Parameters
    ----------
    credentials, artifact_storage
        As in :func:`ray_anystorage.runs.find_run`.
    metrics
        Also those of Tune experiments, whose state is pickled: loading it runs what is in it.

    Raises
    ------
    RequestError
        A setting cannot be meant.
    """
    runs, notes = find_all(credentials=credentials, artifact_storage=artifact_storage)

    def look(run: Run) -> Entry:
        kind: Kind = "train"
        try:
            files = _own_files(run)
            kind = _kind(files)
            return _described(run, files, metrics=metrics)
        except Exception as error:  # noqa: BLE001 - what was pickled may raise anything, and ends no list of others
            said = str(error) if isinstance(error, AnyStorageError | OSError) else repr(error)
            return Entry(run, kind, problem=(said.splitlines() or [repr(error)])[0])

    return tuple(side_by_side(look, runs)), notes


def describe(run: Run) -> Entry:
    """Look into one run, with the metrics of its checkpoints.

    Raises
    ------
    RunMissingError, SnapshotDamagedError, StorageError
        It cannot be read.
    """
    return _described(run, _own_files(run), metrics=True)


def _described(run: Run, files: Sequence[pyarrow.fs.FileInfo], *, metrics: bool) -> Entry:
    kind, home = _kind(files), run.open_home()
    reported: Mapping[str, Mapping[str, Any]] | None = None
    if kind == "train":
        reported = reported_metrics(home)
    elif metrics:
        reported = metrics_of_trials(run)
    sizes = patiently(lambda: dict(home.list("")))  # after the state, or what is saved meanwhile would seem to be gone
    there = sorted(recorded_in(sizes))
    unnamed = None if reported is None else tuple(name for name in there if name not in reported)
    saved = max((info.mtime for info in files if is_state(info.base_name) and info.mtime), default=None)
    named = {name: {} for name in there} if reported is None else reported
    return Entry(run, kind, saved, _kept(home, sizes, named), unnamed)


def _kind(files: Sequence[pyarrow.fs.FileInfo]) -> Kind:
    """Whether Ray Train or Ray Tune keeps the state of a run with these files in its home."""
    names = {info.base_name for info in files}
    return "tune" if TUNER_STATE in names or has_state(names) else "train"


def choose(entry: Entry, checkpoint: str | None, metric: str | None, mode: Mode | None) -> Kept:
    """The checkpoint that is meant: by its name, the best by a metric, or the latest good one of a Train run.

    Raises
    ------
    RequestError
        Nothing of the run fits, or it cannot be told what is meant.
    CheckpointMissingError
        It keeps no good checkpoint.
    """
    where = f"run {entry.run.name!r} at {entry.run.uri}"
    require_mode(metric, mode)
    if checkpoint is not None:
        if metric is not None:
            raise RequestError(f"checkpoint={checkpoint!r} and metric={metric!r}: expected one of them")
        named = next((kept for kept in entry.checkpoints if kept.name == checkpoint), None)
        if named is None:
            known = ", ".join(kept.name for kept in entry.checkpoints[-5:]) or "none"
            raise RequestError(f"{where} keeps no checkpoint {checkpoint!r}; the last that it keeps: {known}")
        return named
    good = [kept for kept in entry.checkpoints if kept.good]
    if not entry.checkpoints:
        raise CheckpointMissingError(f"{where} keeps no checkpoint{_inner_runs(entry)}")
    if not good:
        raise CheckpointMissingError(f"{where} keeps no good checkpoint; ray-anystorage verify says what is wrong")
    if metric is not None and mode is not None:
        best = entry.best(metric, mode)
        if best is None:
            known = ", ".join(entry.metrics) or "-"
            raise RequestError(f"no checkpoint of {where} has a number as metric {metric!r}; they have: {known}")
        return best
    if entry.kind == "tune":
        raise RequestError(f"{where} is a Tune experiment: say the metric to choose its best checkpoint by")
    return good[-1]


def require_mode(metric: str | None, mode: str | None) -> None:
    """Refuse what leaves open which is best: of a loss it is the least, of an accuracy the most.

    Raises
    ------
    RequestError
        There is a metric and no mode, or another one than ``"max"`` and ``"min"``.
    """
    if mode not in ("max", "min", None):
        raise RequestError(f"mode={mode!r}: expected 'max' or 'min'")
    if metric is not None and mode is None:
        raise RequestError(f"metric={metric!r}: say which is best, mode 'max' (an accuracy) or 'min' (a loss)")


def _inner_runs(entry: Entry) -> str:
    """The homes of Train runs inside the trials, which are where an experiment's own trials keep nothing."""
    homes = sorted({name.rpartition("/")[0] for name in entry.unnamed or () if name.count("/") > 1})
    if not homes:
        return ""
    some = ", ".join(f"{entry.run.uri}/{home}" for home in homes[:5])
    return f". Train runs inside its trials do, each a run of its own, to be named by its path: {some}"


def _kept(home: Store, sizes: Mapping[str, int], metrics: Mapping[str, Mapping[str, Any]]) -> tuple[Kept, ...]:
    below = _by_checkpoint(sizes, metrics)

    def look(name: str) -> Kept:
        files = below[name]
        own = {path.removeprefix(f"{FOLDER}/") for path in files if path.startswith(f"{FOLDER}/")}
        state, record = _state(home, name, own)
        data = sum(size for path, size in files.items() if not path.startswith(f"{FOLDER}/"))
        size = record.size if record is not None else data
        return Kept(name, size, state if files else "gone", POINTER in files, metrics[name])

    return tuple(side_by_side(look, list(metrics)))


def _by_checkpoint(sizes: Mapping[str, int], names: Collection[str]) -> dict[str, dict[str, int]]:
    """The bytes of the files of each of the checkpoints, whose names may have slashes, by their paths in it."""
    below: dict[str, dict[str, int]] = {name: {} for name in names}
    for key, size in sizes.items():
        for folder in accumulate(key.split("/")[:-1], "{}/{}".format):
            if folder in below:
                below[folder][key.removeprefix(f"{folder}/")] = size
    return below


def _state(home: Store, name: str, own: Collection[str]) -> tuple[State, Record | None]:
    """What the names of this package's own files say of a checkpoint, and its record."""
    try:
        record = record_of(home, name) if RECORD in own else None
    except ManifestTooNewError:
        return "not readable", None
    except ManifestError:
        return "damaged", None
    if DAMAGED in own:
        return "damaged", record
    if record is None:
        return ("gone" if RECORD in own else "never committed" if own else "not verifiable"), None
    return ("not verifiable" if record.external else "committed"), record


def _own_files(run: Run) -> list[pyarrow.fs.FileInfo]:
    """Files right in a run home."""
    infos = run.build_filesystem().get_file_info(pyarrow.fs.FileSelector(run.fs_path))
    return [info for info in infos if info.is_file]
