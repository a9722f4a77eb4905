"""What an interrupted transfer did of a large file, so that the next one does the rest.

A record is a hint: what it says is compared with what is there, and what differs is moved again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_anystorage.transfer.digest import chunk_digest
from ray_anystorage.transfer.temporary import remove_temporary, temporary_beside


@dataclass(frozen=True, slots=True)
class Done:
    """A part that is there: the digests of its chunks, and the store's tag of it (empty for a file on a disk)."""

    chunks: tuple[str, ...]
    tag: str = ""


@dataclass(slots=True)
class Begun:
    """A file under way: where its parts go (an upload's id, a temporary file), and which are there, by index."""

    token: str
    parts: dict[int, Done] = field(default_factory=dict)


class Partial:
    """The record of one transfer, in a folder of its own: a file of lines for each large file under way.

    Parameters
    ----------
    folder
        For this transfer alone; made where it does not exist.
    source
        By key, what tells that a file is still the one of before: an etag, or a local file's identity and time. A
        record of another one counts for nothing; a file that has no such mark is not recorded.
    """

    def __init__(self, folder: str, source: Mapping[str, str]) -> None:
        self._folder, self._source = folder, dict(source)
        self._lock = threading.Lock()
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._seed = self._seeded()
        self._there = set(os.listdir(folder))  # records, of which small files have none: they are not looked for

    def temporary(self, path: str) -> str:
        """The name of a file under way, the same for the next call, which so leaves none behind of one that was killed.

        It is of this folder alone: whoever writes to the same place from another machine has other names.
        """
        return temporary_beside(path, chunk_digest(f"{self._seed}\0{path}".encode("utf-8", "surrogatepass")))

    def covers(self, key: str) -> bool:
        """Whether a file is recorded."""
        return key in self._source

    def known(self, key: str) -> Begun | None:
        """What was done of a file, where its source is the same as then."""
        begun: Begun | None = None
        for values in self._lines(key):
            try:
                if "token" in values:
                    begun = Begun(str(values["token"])) if values["source"] == self._source.get(key) else None
                elif begun is not None:
                    begun.parts[int(values["index"])] = Done(tuple(map(str, values["chunks"])), str(values["tag"]))
            except (ValueError, TypeError, KeyError):  # torn by what ended the last one
                continue
        return begun

    def useless(self, key: str) -> str | None:
        """Where the parts of another source's file lie, an upload's id or a temporary file, which is for removing."""
        begun = [values for values in self._lines(key) if isinstance(values, dict) and "token" in values]
        if not begun or begun[-1].get("source") == self._source.get(key):
            return None
        return str(begun[-1]["token"])

    def begin(self, key: str, token: str) -> None:
        """A file is under way anew."""
        self.end(key)
        self._write(key, {"token": token, "source": self._source.get(key)})

    def note(self, key: str, index: int, done: Done) -> None:
        """A part is there, or of a download a chunk."""
        self._write(key, {"index": index, "chunks": done.chunks, "tag": done.tag})

    def end(self, key: str) -> None:
        """Nothing is left of it to do."""
        name = _name(key)
        if name in self._there:
            with self._lock, contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, name))
            self._there.discard(name)

    def drop(self, key: str) -> None:
        """Nobody goes on with a file that is fetched: its temporary file goes, too."""
        if (begun := self.known(key)) is not None:
            remove_temporary(begun.token)
        self.end(key)

    def _seeded(self) -> str:
        """What chance gave to this folder when it was first used."""
        path = os.path.join(self._folder, "seed")
        with open(path, "a+", encoding="ascii") as file:
            if file.tell() == 0:
                file.write(secrets.token_hex(16))
            file.seek(0)
            return file.read()

    def _lines(self, key: str) -> Iterator[Any]:
        name = _name(key)
        if name not in self._there:
            return
        with open(os.path.join(self._folder, name), encoding="utf-8") as file:
            lines = file.read().split("\n")
        for line in filter(None, lines):
            with contextlib.suppress(ValueError):  # torn
                yield json.loads(line)

    def _write(self, key: str, values: Mapping[str, object]) -> None:
        # Closed each time: thousands of large files may be under way, and no more than hundreds open.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        name = _name(key)
        with self._lock:
            self._there.add(name)
            descriptor = os.open(os.path.join(self._folder, name), flags, 0o600)
            try:
                os.write(descriptor, b"\n" + json.dumps(values).encode() + b"\n")  # the line before it may be torn
            finally:
                os.close(descriptor)


def _name(key: str) -> str:
    return f"{chunk_digest(key.encode('utf-8', 'surrogatepass'))}.parts"
