"""Every run and experiment that there is, in all tiers: what it keeps, where, how good it is and how old."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import pyarrow.fs

from ray_anystorage.checkpoint.manifest import FOLDER, POINTER
from ray_anystorage.checkpoint.record import DAMAGED, Record, read_record, record_key
from ray_anystorage.checkpoint.small_files import parsed, patiently, read, side_by_side
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.discovery.homes import is_state
from ray_anystorage.errors import AnyStorageError, CheckpointMissingError, RequestError
from ray_anystorage.run_list import find_all
from ray_anystorage.runs import Run
from ray_anystorage.train.snapshot import reported_metrics
from ray_anystorage.transfer.store import Store
from ray_anystorage.tune.results import is_experiment
from ray_anystorage.tune.results import reported_metrics as metrics_of_trials

Mode = Literal["max", "min"]
State = Literal["committed", "not verifiable", "damaged", "never committed"]


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
        Those that its state names, the latest last.
    problem
        Why it could not be looked into; ``None`` where it could.
    """

    run: Run
    kind: Literal["train", "tune"]
    saved: datetime | None = None
    checkpoints: tuple[Kept, ...] = ()
    problem: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all its checkpoints."""
        return sum(kept.size for kept in self.checkpoints)

    def best(self, metric: str, mode: Mode) -> Kept | None:
        """The good checkpoint whose metric is best; ``None`` where none has a number of this name."""
        sign = 1 if mode == "max" else -1
        rated = [
            (kept, value) for kept in self.checkpoints if kept.good and (value := _number(kept, metric)) is not None
        ]
        return max(rated, key=lambda item: sign * item[1])[0] if rated else None


def list_runs(
    *, credentials: Credentials | None = None, artifact_storage: str | None = None
) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Every run below the root of a tier, and why tiers could not be looked at; as :func:`find_all` of ``runs``."""
    runs, notes = find_all(credentials=credentials, artifact_storage=artifact_storage)
    return tuple(side_by_side(describe, runs)), notes


def describe(run: Run) -> Entry:
    """Look into one run; what keeps it from being read is said in the entry."""
    kind: Literal["train", "tune"] = "train"
    try:
        kind = "tune" if is_experiment(run) else "train"
        home = run.open_home()
        metrics = metrics_of_trials(run) if kind == "tune" else reported_metrics(home)
        return Entry(run, kind, _saved(run), _kept(home, metrics))
    except (AnyStorageError, OSError) as error:
        return Entry(run, kind, problem=str(error).splitlines()[0])


def choose(entry: Entry, checkpoint: str | None, metric: str | None, mode: Mode) -> Kept:
    """The checkpoint that is meant: by its name, the best by a metric, or the latest good one of a Train run.

    Raises
    ------
    RequestError
        Nothing of the run fits, or it cannot be told what is meant.
    CheckpointMissingError
        It keeps no good checkpoint.
    """
    where = f"run {entry.run.name!r} at {entry.run.uri}"
    if mode not in ("max", "min"):
        raise RequestError(f"mode={mode!r}: expected 'max' or 'min'")
    if entry.problem is not None:
        raise CheckpointMissingError(f"{where} cannot be read: {entry.problem}")
    if checkpoint is not None:
        if metric is not None:
            raise RequestError(f"checkpoint={checkpoint!r} and metric={metric!r}: expected one of them")
        named = next((kept for kept in entry.checkpoints if kept.name == checkpoint), None)
        if named is None:
            known = ", ".join(kept.name for kept in entry.checkpoints[-5:]) or "none"
            raise RequestError(f"{where} keeps no checkpoint {checkpoint!r}; the last that it keeps: {known}")
        return named
    good = [kept for kept in entry.checkpoints if kept.good]
    if not good:
        raise CheckpointMissingError(f"{where} keeps no good checkpoint; ray-anystorage verify says what is wrong")
    if metric is not None:
        best = entry.best(metric, mode)
        if best is None:
            known = ", ".join(
                sorted({name for kept in good for name in kept.metrics if _number(kept, name) is not None})
            )
            raise RequestError(f"no checkpoint of {where} has a number as metric {metric!r}; they have: {known or '-'}")
        return best
    if entry.kind == "tune":
        raise RequestError(f"{where} is a Tune experiment: say the metric to choose its best checkpoint by")
    return good[-1]


def _number(kept: Kept, metric: str) -> float | None:
    value = kept.metrics.get(metric)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _kept(home: Store, metrics: Mapping[str, Mapping[str, Any]]) -> tuple[Kept, ...]:
    sizes = patiently(lambda: dict(home.list("")))

    def look(name: str) -> Kept:
        record = _record(home, name, sizes)
        own = [size for key, size in sizes.items() if key.startswith(f"{name}/") and f"/{FOLDER}/" not in key]
        if f"{name}/{FOLDER}/{DAMAGED}" in sizes:
            state: State = "damaged"
        elif record is None:
            state = "never committed" if any(key.startswith(f"{name}/{FOLDER}/") for key in sizes) else "not verifiable"
        else:
            state = "not verifiable" if record.external else "committed"
        size = sum(own) if record is None else record.size
        return Kept(name, size, state, f"{name}/{POINTER}" in sizes, metrics[name])

    return tuple(side_by_side(look, list(metrics)))


def _record(home: Store, name: str, sizes: Mapping[str, int]) -> Record | None:
    key = record_key(name)
    return parsed(home, key, read(home, key, sizes[key]), read_record) if key in sizes else None


def _saved(run: Run) -> datetime | None:
    infos = run.build_filesystem().get_file_info(pyarrow.fs.FileSelector(run.fs_path))
    times = [info.mtime for info in infos if info.is_file and is_state(info.base_name) and info.mtime is not None]
    return max(times, default=None)
