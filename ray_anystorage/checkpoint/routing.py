"""Where one rank's data goes: inline in the run home, or spilled to the bucket. Pure."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from ray_anystorage.errors import DigestMismatchError, SourceChangedError, StorageError, TransferCancelledError
from ray_anystorage.units import format_size

_SPARE = 0.9  # of the free space; the rest is left for Ray's snapshot and for others
_PLACE_FAILS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EFBIG)
)


@dataclass(frozen=True, slots=True)
class Route:
    """The choice, and the reason where it is not the run home for being small.

    ``lacks_room`` says that the data belongs in the run home, which has no room for it.
    """

    spill: bool
    reason: str = ""
    lacks_room: bool = False


def route(own: int, known: int, *, threshold: int, free: int | None, can_spill: bool) -> Route:
    """Choose before anything is stored.

    Parameters
    ----------
    own
        Bytes of this rank's part.
    known
        Bytes of the whole checkpoint as far as this rank can know: its own part and those of ranks that began before
        it, or the size of the one before. So what all ranks together store inline is never over the threshold.
    threshold
        Bytes above which a checkpoint belongs in the bucket.
    free
        Bytes free on the mount of the run home; ``None`` where that is not limited.
    can_spill
        Whether there is a bucket.
    """
    if not can_spill:
        return Route(spill=False)
    if max(own, known) > threshold:
        return Route(True, f"{format_size(max(own, known))} is over the threshold of {format_size(threshold)}")
    if free is not None and not fits(max(own, known), free):
        reason = f"{format_size(max(own, known))} would not fit in the {format_size(free)} that are free"
        return Route(True, reason, lacks_room=True)
    return Route(spill=False)


def fits(size: int, free: int) -> bool:
    """True where so many bytes leave the run's own state some of those that are free on its mount."""
    return size <= free * _SPARE


def another_place_may_do(error: Exception) -> bool:
    """True where the place failed, not what was to be stored in it."""
    if isinstance(error, (SourceChangedError, DigestMismatchError, TransferCancelledError)):
        return False
    return isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in _PLACE_FAILS)
