"""What is known of the files of one cache entry, so that a file that did not change is not hashed twice."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ray_anystorage.transfer.locks import locked

logger = logging.getLogger(__name__)

Stamp = tuple[int, int, int, int]

# Timestamps advance in steps of up to 10 ms: a write within the step in which a stamp was taken would not show.
_SETTLED_AFTER = 50_000_000  # nanoseconds


@dataclass(frozen=True, slots=True)
class Record:
    """What a file held when it was looked at.

    Attributes
    ----------
    digest
        Of its content.
    stamp
        The file's state then: size in bytes, times of the last change of content and of anything (ns), inode.
    session
        In which its content was verified; ``None`` where nobody did.
    """

    digest: str
    stamp: Stamp
    session: str | None

    def vouches(self, digest: str, stamp: Stamp, session: str) -> bool:
        """True where the file need not be hashed again in this session."""
        return self == Record(digest, stamp, session)


def stamp_of(status: os.stat_result) -> Stamp:
    """What changes when a file does. The second time cannot be set back, as the first can by ``utime``."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def is_settled(stamp: Stamp) -> bool:
    """True where any later write would give another stamp."""
    return time.time_ns() - stamp[2] > _SETTLED_AFTER


class Index:
    """The records of one entry, in a file of its folder; the folder is held against removal by whoever calls.

    Parameters
    ----------
    folder
        The entry's.
    """

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "index.json")
        self._new = os.path.join(folder, "new")  # what is not yet in its place

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the index for oneself, for a short time; what a killed process left behind is gone then.

        Raises
        ------
        OSError
            The entry cannot be written.
        """
        with locked(self._new):
            for name in os.listdir(self._new):
                os.unlink(os.path.join(self._new, name))
            yield

    def temporary(self) -> str:
        """A path for what is made and then renamed to its place, while one is :meth:`alone`."""
        return os.path.join(self._new, secrets.token_hex(8))

    def read(self) -> dict[str, Record]:
        """Records by path. Where the file is torn there are none: that only costs hashing."""
        try:
            with open(self._path, encoding="utf-8") as file:
                values = json.load(file)
            return {path: Record(digest, _stamp(stamp), session) for path, (digest, stamp, session) in values.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError) as error:
            logger.debug("the index %s is not whole: %s", self._path, error)
            return {}

    def add(self, records: Mapping[str, Record]) -> None:
        """Keep these records beside the others, while one is :meth:`alone`; without space they are not kept."""
        if not records:
            return
        merged = self.read() | dict(records)
        values = {path: (record.digest, record.stamp, record.session) for path, record in merged.items()}
        temporary = self.temporary()
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(values, file, separators=(",", ":"))
            os.replace(temporary, self._path)
        except OSError as error:
            logger.debug("what was verified is not noted, and will be hashed again: %s", error)


def _stamp(values: list[int]) -> Stamp:
    size, modified, changed, inode = values
    return int(size), int(modified), int(changed), int(inode)
