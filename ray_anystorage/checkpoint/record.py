"""The commit record: which attempt and which ranks make up a checkpoint. The controller writes it, once per commit.

A checkpoint with manifests and without a record was never committed. Deleting goes the other way round: the record
first, so that what is half deleted is not taken for a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_anystorage.checkpoint.course import read_time
from ray_anystorage.checkpoint.manifest import FOLDER, check_path
from ray_anystorage.checkpoint.sealed import seal, unseal
from ray_anystorage.errors import ManifestError

FORMAT = 1
RECORD = "commit.json"
DAMAGED = "damaged.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What was committed.

    Attributes
    ----------
    attempt
        The attempt whose manifests count, as far as they are of ``report``; ``None`` where someone else stored the data
        (``NO_UPLOAD``, or a ``checkpoint_upload_fn`` of the user's), of which only ``listing`` is known.
    ranks
        Those that saved something.
    world_size
        Of the attempt.
    size
        Bytes of data.
    listing
        Path and bytes of each file of an external checkpoint, as they were when it was reported.
    report
        Which of the run's reports it came with: that orders its checkpoints.
    committed
        When, in Unix seconds by the clock of the node that wrote it; ``None`` where an earlier version of this package
        did.
    """

    attempt: str | None
    ranks: tuple[int, ...]
    world_size: int
    size: int
    listing: tuple[tuple[str, int], ...] = ()
    report: int = 0
    committed: float | None = None

    @property
    def external(self) -> bool:
        """True where this package did not store the data, and cannot verify it."""
        return self.attempt is None

    def to_bytes(self) -> bytes:
        """The record as it is stored."""
        return seal(
            {
                "format": FORMAT,
                "attempt": self.attempt,
                "ranks": list(self.ranks),
                "world_size": self.world_size,
                "size": self.size,
                "listing": [list(item) for item in self.listing],
                "report": self.report,
                "committed": None if self.committed is None else round(self.committed, 3),
            }
        )


def read_record(content: bytes) -> Record:
    """Parse and check a stored record.

    Raises
    ------
    ManifestTooNewError
        A later version of this package wrote it.
    ManifestError
        It is torn or not a record.
    """
    values = unseal(RECORD, content, FORMAT)
    try:
        return _parse(values)
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{RECORD} is not a whole commit record: {error!r}") from error


def _parse(values: dict[str, Any]) -> Record:
    attempt, committed = values["attempt"], values.get("committed")
    return Record(
        attempt=None if attempt is None else str(attempt),
        ranks=tuple(int(rank) for rank in values["ranks"]),
        world_size=int(values["world_size"]),
        size=int(values["size"]),
        listing=tuple((check_path(path), int(size)) for path, size in values["listing"]),
        report=int(values["report"]),
        committed=None if committed is None else read_time(committed),
    )


def record_key(checkpoint: str) -> str:
    """Where the record of a checkpoint lies, below the run home."""
    return f"{checkpoint}/{FOLDER}/{RECORD}"


def damaged_key(checkpoint: str) -> str:
    """Where the word of a damage lies, below the run home."""
    return f"{checkpoint}/{FOLDER}/{DAMAGED}"
