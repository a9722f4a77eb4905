"""When each checkpoint of a run had come how far, rank by rank, as its manifests and its record tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ray_anystorage.catalog import Entry
from ray_anystorage.checkpoint.course import Course
from ray_anystorage.checkpoint.manifest import Manifest
from ray_anystorage.checkpoint.read import manifests_of, record_of
from ray_anystorage.checkpoint.small_files import side_by_side
from ray_anystorage.errors import AnyStorageError
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.store import Store

_ROUNDED = 0.003  # seconds; three times are stored to the millisecond


@dataclass(frozen=True, slots=True)
class RankLine:
    """One rank's part of a checkpoint.

    Attributes
    ----------
    bytes
        Of its files.
    place
        Where they lie.
    detour
        Why they lie elsewhere than planned; ``None`` where they do not.
    course
        ``None`` where an earlier version of this package saved it, without times.
    """

    rank: int
    bytes: int
    place: Literal["run home", "bucket"]
    detour: str | None
    course: Course | None

    @property
    def sent(self) -> float | None:
        """Unix seconds at which its data was durable, by the clock of its node."""
        return None if self.course is None else self.course.queued + self.course.sent


@dataclass(frozen=True, slots=True)
class Timeline:
    """One checkpoint.

    Attributes
    ----------
    committed
        Unix seconds by the clock of the node that committed it; ``None`` where that is not known.
    ranks
        Those that saved something, in their order.
    problem
        Why nothing is known of it; ``None`` where something is.
    """

    checkpoint: str
    world_size: int = 0
    committed: float | None = None
    ranks: tuple[RankLine, ...] = ()
    problem: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(line.bytes for line in self.ranks)

    @property
    def start(self) -> float | None:
        """Unix seconds at which the first rank handed its part over, by its node's clock."""
        return min((line.course.queued for line in self.ranks if line.course is not None), default=None)

    @property
    def skew(self) -> float:
        """Seconds that two clocks differed by at least: a commit follows all that it commits."""
        sent = max((line.sent for line in self.ranks if line.sent is not None), default=None)
        if sent is None or self.committed is None or sent - self.committed < _ROUNDED:
            return 0.0
        return sent - self.committed

    @property
    def end(self) -> float | None:
        """Unix seconds at which it could be restored, and not before its last data was sent."""
        sent = [line.sent for line in self.ranks if line.sent is not None]
        known = [*sent, *([self.committed] if self.committed is not None else [])]
        return max(known) if sent else self.committed


def timelines(entry: Entry) -> Sequence[Timeline]:
    """The course of every checkpoint that a run keeps, the latest last; what cannot be read says why.

    Raises
    ------
    StorageError
        The run home cannot be opened.
    """
    home = entry.run.open_home()
    in_bucket = not isinstance(home, PosixStore)

    def look(name: str) -> Timeline:
        try:
            return _timeline(home, name, in_bucket=in_bucket)
        except AnyStorageError as error:
            return Timeline(name, problem=str(error))

    return side_by_side(look, [kept.name for kept in entry.checkpoints])


def _timeline(home: Store, name: str, *, in_bucket: bool) -> Timeline:
    record = record_of(home, name)
    if record is None:
        return Timeline(name, problem="it was never committed, or somebody else stored it")
    if record.external:
        return Timeline(name, committed=record.committed, problem="somebody else stored it")
    own = (m for m in manifests_of(home, name) if (m.attempt, m.report) == (record.attempt, record.report))
    lines = tuple(_line(manifest, in_bucket=in_bucket) for manifest in sorted(own, key=lambda one: one.rank))
    return Timeline(name, record.world_size, record.committed, lines)


def _line(manifest: Manifest, *, in_bucket: bool) -> RankLine:
    place: Literal["run home", "bucket"] = "bucket" if in_bucket or manifest.location is not None else "run home"
    return RankLine(manifest.rank, manifest.size, place, manifest.detour, manifest.course)
