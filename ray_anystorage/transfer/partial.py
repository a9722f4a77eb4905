"""What an interrupted transfer did of a large file, so that the next one does the rest.

A record is a hint: what it says is compared with what is there, and what differs is moved again.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from ray_anystorage.transfer.digest import chunk_digest


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
        record of another one is forgotten.
    """

    def __init__(self, folder: str, source: Mapping[str, str]) -> None:
        self._folder, self._source = folder, dict(source)
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with self._lock:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()

    def known(self, key: str) -> Begun | None:
        """What was done of a file, where its source is the same as then."""
        begun: Begun | None = None
        try:
            with open(self._path(key), encoding="utf-8") as file:
                lines = file.read().split("\n")
        except FileNotFoundError:
            return None
        for line in lines:
            try:
                values = json.loads(line)
                if "token" in values:
                    begun = Begun(str(values["token"])) if values["source"] == self._source.get(key) else None
                elif begun is not None:
                    begun.parts[int(values["index"])] = Done(tuple(map(str, values["chunks"])), str(values["tag"]))
            except (ValueError, TypeError, KeyError):  # torn by what ended the last one
                continue
        return begun

    def begin(self, key: str, token: str) -> None:
        """A file is under way anew."""
        self.end(key)
        self._write(key, {"token": token, "source": self._source.get(key)})

    def note(self, key: str, index: int, done: Done) -> None:
        """A part is there, or of a download a chunk."""
        self._write(key, {"index": index, "chunks": done.chunks, "tag": done.tag})

    def end(self, key: str) -> None:
        """Nothing is left of it to do."""
        with self._lock:
            descriptor = self._open.pop(key, None)
            if descriptor is not None:
                os.close(descriptor)
            path = self._path(key)
            if os.path.exists(path):
                os.unlink(path)

    def _write(self, key: str, values: Mapping[str, object]) -> None:
        with self._lock:
            if key not in self._open:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._open[key] = os.open(self._path(key), flags, 0o600)
            os.write(self._open[key], b"\n" + json.dumps(values).encode() + b"\n")  # the line before it may be torn

    def _path(self, key: str) -> str:
        return os.path.join(self._folder, f"{chunk_digest(key.encode('utf-8', 'surrogatepass'))}.parts")
