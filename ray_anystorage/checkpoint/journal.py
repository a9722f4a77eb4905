"""What the saves of a run stored from this node, noted on its own disk: after a crash it need not be sent again.

One file per rank in the run's folder, one line per stored file, written when the store has it. Every process of the
node reads all of them. A line is a hint: who relies on it compares the content with its digests, and the store's etag
with the one of then. So a line that is torn, stale or lost costs sending and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import FileIO

from ray_anystorage.checkpoint.cache_entry import own_root
from ray_anystorage.transfer.digest import chunk_digest, file_digest
from ray_anystorage.transfer.files import Stored

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Noted:
    """What was stored for which checkpoint, and in which store, by its URI."""

    place: str
    checkpoint: str
    stored: Stored


class Journal:
    """The journal of one rank, with what the others of its node noted before.

    Parameters
    ----------
    root
        For the journals of all runs, a folder on this node's own disk; ``None`` keeps them in this process's memory.
    run
        The run's name in it; any string.
    rank
        Whose file is written.
    """

    def __init__(self, root: str | None = None, run: str = "", rank: int = 0) -> None:
        self._root = root
        self._folder = os.path.join(root or "", chunk_digest(run.encode("utf-8", "surrogatepass")))
        self._name = f"rank-{rank}"
        self._own: dict[tuple[str, str], _Noted] = {}  # by place and key
        self._others: list[_Noted] = []
        self._file: FileIO | None = None
        self._read = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Write to the disk what is noted within. A disk that takes none is no reason to fail a save."""
        try:
            self._file = self._opened(self._root) if self._root is not None else None
        except OSError as error:
            logger.warning("what is stored is not noted on this node, and after a crash is sent again: %s", error)
        try:
            yield
        finally:
            self._close()

    def note(self, place: str, checkpoint: str, stored: Stored) -> None:
        """Note that a store has a file. What was sent once stays so, though a second try finds it there."""
        with self._lock:
            before = self._own.get((place, stored.key))
            if before is None or before.stored.etag != stored.etag:
                self._own[place, stored.key] = noted = _Noted(place, checkpoint, stored)
                self._write([noted])

    def known(self, place: str) -> list[Stored]:
        """What a store may hold."""
        with self._lock:
            return [noted.stored for noted in (*self._own.values(), *self._others) if noted.place == place]

    def take_sent(self, place: str, checkpoint: str) -> list[str]:
        """Keys that this rank sent to a store for a checkpoint that is not saved; they are noted no longer."""
        with self._lock:
            theirs = [noted for noted in self._own.values() if (noted.place, noted.checkpoint) == (place, checkpoint)]
            for noted in theirs:
                del self._own[place, noted.stored.key]
            self._write_anew()
        return sorted(noted.stored.key for noted in theirs if noted.stored.sent)

    def saved(self, checkpoint: str) -> None:
        """Forget all but what a checkpoint that is saved now holds, from which the next may be copied."""
        with self._lock:
            self._others = []
            self._own = {key: _settled(noted) for key, noted in self._own.items() if noted.checkpoint == checkpoint}
            self._write_anew()

    def _opened(self, root: str) -> FileIO:
        own_root(root)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        os.utime(self._folder)  # one that nobody used for long is removed
        if not self._read:
            for name in sorted(os.listdir(self._folder)):
                lines = _read_lines(os.path.join(self._folder, name))
                if name == self._name:
                    self._own = {(noted.place, noted.stored.key): noted for noted in lines}
                else:
                    self._others += lines
            self._read = True
        return open(os.path.join(self._folder, self._name), "ab", buffering=0)

    def _write_anew(self) -> None:
        if self._file is not None:
            try:
                self._file.truncate(0)
            except OSError as error:
                self._give_up(error)
            else:
                self._write(self._own.values())

    def _write(self, lines: Iterable[_Noted]) -> None:
        if self._file is not None:
            try:
                self._file.write(b"".join(_line(noted) for noted in lines))
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        logger.warning("what is stored is no longer noted on this node, and after a crash is sent again: %s", error)
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # hints may be lost
                self._file.close()
            self._file = None


def _settled(noted: _Noted) -> _Noted:
    return replace(noted, stored=replace(noted.stored, sent=False))


def _line(noted: _Noted) -> bytes:
    stored = noted.stored
    values = (noted.place, noted.checkpoint, stored.key, stored.size, stored.chunks, stored.sent, stored.etag)
    return b"\n" + json.dumps(values).encode() + b"\n"  # the line before it may be torn


def _read_lines(path: str) -> list[_Noted]:
    lines = []
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for line in filter(bytes.strip, file):
            try:
                lines.append(_parsed(json.loads(line)))
            except (ValueError, TypeError) as error:
                logger.debug("a line of %s is not whole: %s", path, error)
    return lines


def _parsed(values: list[object]) -> _Noted:
    place, checkpoint, key, size, chunks, sent, etag = values
    if not (isinstance(size, int) and isinstance(chunks, list) and all(isinstance(chunk, str) for chunk in chunks)):
        raise TypeError("not the size and the chunks of a file")
    if not all(isinstance(text, str) for text in (place, checkpoint, key, etag)):
        raise TypeError("not a place, a checkpoint, a key and an etag")
    stored = Stored(str(key), size, file_digest(size, chunks), tuple(chunks), bool(sent), str(etag))
    return _Noted(str(place), str(checkpoint), stored)
