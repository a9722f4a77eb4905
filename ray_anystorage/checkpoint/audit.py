"""Verifying a stored checkpoint for a person: where it lies, how its save went, and whether it is good."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any, Literal

from ray_anystorage.checkpoint.contents import Contents
from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.quarantine import quarantine_read
from ray_anystorage.checkpoint.read import read_contents
from ray_anystorage.checkpoint.record import DAMAGED, RECORD, damaged_key
from ray_anystorage.checkpoint.restore import Sources, verify_in_place, verify_listed, verify_stored
from ray_anystorage.checkpoint.small_files import names_below, patiently
from ray_anystorage.errors import (
    AnyStorageError,
    CheckpointCorruptedError,
    CheckpointIncompleteError,
    CheckpointMissingError,
    CheckpointUnreadableError,
    ManifestTooNewError,
    StorageError,
)
from ray_anystorage.transfer.store import Store

logger = logging.getLogger("ray.train.anystorage")

State = Literal["ok", "not verifiable", "damaged", "never committed", "not readable", "deleted meanwhile"]
_GOOD = ("ok", "not verifiable", "deleted meanwhile")
_GONE = "it was deleted or saved again while it was read"


@dataclass(frozen=True, slots=True)
class Finding:
    """What verifying one checkpoint found.

    Attributes
    ----------
    checkpoint
        Its name.
    state, reason
        ``"not verifiable"`` is one that nobody hashed: its files are there. ``"not readable"`` says nothing about the
        data. The reason is ``None`` where it is good.
    size
        Bytes of data.
    ranks, world_size
        How many ranks saved something, and of how many; 0 where that is not known.
    places
        URI of each folder that holds data.
    seconds
        That the slowest rank's data took to be stored; ``None`` where that is not known.
    detours
        Why data lies elsewhere than it was to go, by rank.
    mark
        What became of the word that it is damaged: ``"lifted"``, ``"set"``, or ``None`` where it stays as it was.
    """

    checkpoint: str
    state: State
    reason: str | None = None
    size: int = 0
    ranks: int = 0
    world_size: int = 0
    places: tuple[str, ...] = ()
    seconds: float | None = None
    detours: tuple[tuple[int, str], ...] = ()
    mark: Literal["lifted", "set"] | None = None

    @property
    def good(self) -> bool:
        """True where nothing wrong was found."""
        return self.state in _GOOD

    @property
    def speed(self) -> int | None:
        """Bytes per second of the save, all ranks together, or ``None``."""
        return round(self.size / self.seconds) if self.seconds and self.size else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        detours = [{"rank": rank, "reason": reason} for rank, reason in self.detours]
        return {**asdict(self), "bytes_per_second": self.speed, "detours": detours, "places": list(self.places)}


def recorded(home: Store) -> frozenset[str]:
    """Every checkpoint of a run home that has a commit record."""
    return recorded_in(key for key, _ in patiently(lambda: list(home.list(""))))


def recorded_in(keys: Iterable[str]) -> frozenset[str]:
    """The same, of the keys of all that the home holds."""
    ending = f"/{FOLDER}/{RECORD}"
    names = {key.removesuffix(ending) for key in keys if key.endswith(ending)}
    # A record inside of another checkpoint is the user's data.
    return frozenset(name for name in names if names.isdisjoint(accumulate(name.split("/")[:-1], "{}/{}".format)))


def audit(sources: Sources, checkpoint: str, directory: str | None, *, content: bool = True) -> Finding:
    """Verify a checkpoint wherever its data lies.

    One that turns out to be damaged is marked, so that no run resumes from it. One that was marked before and is good,
    byte by byte, loses its mark.

    Parameters
    ----------
    directory
        Its folder where the run home is on a mount; ``None`` in a bucket.
    content
        False compares sizes alone, which reads no data and lifts no mark.

    Raises
    ------
    StorageError
        The run home cannot be read.
    """
    home = sources.home
    names = names_below(home, f"{checkpoint}/{FOLDER}")
    try:
        contents = read_contents(home, checkpoint, even_damaged=content)
    except (CheckpointIncompleteError, CheckpointMissingError) as error:
        return _incomplete(home, checkpoint, names, error)
    except (ManifestTooNewError, CheckpointUnreadableError) as error:
        return Finding(checkpoint, "not readable", error.message)
    except CheckpointCorruptedError as error:
        return Finding(checkpoint, "damaged", error.message)
    found = _described(sources, contents)
    try:
        fault = _fault(sources, contents, directory, content=content)
    except (AnyStorageError, OSError) as error:
        return replace(found, state="not readable", reason=str(error))
    if fault is None:
        lifted = content and contents.verifiable and DAMAGED in names and _lift(home, checkpoint)
        return replace(found, mark="lifted" if lifted else None)
    try:
        if not quarantine_read(home, contents, fault):
            return replace(found, state="deleted meanwhile", reason=_GONE)
    except (StorageError, OSError) as error:
        logger.warning("that checkpoint %s is damaged could not be noted: %s", checkpoint, error)
        return replace(found, state="damaged", reason=fault)
    return replace(found, state="damaged", reason=fault, mark="set")


def _incomplete(home: Store, checkpoint: str, before: Collection[str], error: AnyStorageError) -> Finding:
    """What to say of what has no record, or lacks what its record names; ``before`` is what it had a moment ago."""
    now = names_below(home, f"{checkpoint}/{FOLDER}")
    if RECORD in before and RECORD not in now:
        return Finding(checkpoint, "deleted meanwhile", _GONE)
    never = isinstance(error, CheckpointIncompleteError) and RECORD not in now
    return Finding(checkpoint, "never committed" if never else "damaged", error.message)


def _described(sources: Sources, contents: Contents) -> Finding:
    folder = f"{sources.home.uri}/{contents.checkpoint}"
    return Finding(
        checkpoint=contents.checkpoint,
        state="ok" if contents.verifiable and contents.attempt else "not verifiable",
        reason=None if contents.attempt else "this package did not store it, so that there are no digests",
        size=contents.size,
        ranks=len(contents.ranks),
        world_size=contents.world_size,
        places=tuple(location or folder for location in contents.locations),
        seconds=contents.seconds,
        detours=contents.detours,
    )


def _fault(sources: Sources, contents: Contents, directory: str | None, *, content: bool) -> str | None:
    """What is wrong with the data, all places together; ``None`` where nothing is."""
    faults = []
    for location in contents.locations:
        part = replace(contents, files=tuple(file for file in contents.files if file.location == location))
        try:
            if location is None and directory is not None:
                verify_in_place(part, directory, content=content, home=sources.home)
            elif content:
                verify_stored(sources, part)
            else:
                verify_listed(sources, part)
        except CheckpointUnreadableError:
            raise
        except CheckpointCorruptedError as error:
            faults.append(error.message)
    return "; ".join(faults) or None


def _lift(home: Store, checkpoint: str) -> bool:
    try:
        patiently(lambda: home.delete([damaged_key(checkpoint)]))
    except (StorageError, OSError) as error:
        logger.warning("checkpoint %s is good, and the word that it is not could not be removed: %s", checkpoint, error)
        return False
    return True
