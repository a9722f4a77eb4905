"""What was copied from here before, so that it is not copied again: for each file, both etags of then.

A line is a hint. Who relies on it compares the etags with those of now: one that is torn, stale or lost costs a copy.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from ray_anystorage.checkpoint.cache_entry import own_root
from ray_anystorage.checkpoint.node import current
from ray_anystorage.errors import CopyUnderWayError
from ray_anystorage.transfer.digest import chunk_digest
from ray_anystorage.transfer.locks import locked

_NAME = "files"


@dataclass(frozen=True, slots=True)
class Copied:
    """One file as it was when it was copied: the etags of the source and of the copy."""

    source: str
    target: str


class Record:
    """The copies from one place to another; in this user's folder on this machine.

    Attributes
    ----------
    folder
        Of this pair of places.
    known
        By path below the places.
    """

    def __init__(self, source: str, target: str) -> None:
        root = os.path.join(current().folder, "copies")
        self.folder = os.path.join(root, chunk_digest(f"{source}\0{target}".encode("utf-8", "surrogatepass")))
        own_root(root)
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        os.utime(self.folder)  # one that nobody used for long is removed
        current().forget_old()
        self._path = os.path.join(self.folder, _NAME)
        self.known: Mapping[str, Copied] = self._read()
        self._names = f"{source} to {target}"
        self._file: BinaryIO | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While copies are made and noted: no other process on this machine makes them.

        Raises
        ------
        CopyUnderWayError
            One does.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder, wait=False))
            except BlockingIOError:
                raise CopyUnderWayError(
                    f"another copy from {self._names} is going on on this machine: wait for its end, or end it"
                ) from None
            self._file = stack.enter_context(open(self._path, "ab", buffering=0))
            try:
                yield
            finally:
                self._file = None

    def note(self, path: str, copied: Copied) -> None:
        """A file was copied; only while it is :meth:`held`."""
        if self._file is None:
            raise ValueError(f"the record of copies from {self._names} is not held")
        self._file.write(b"\n" + json.dumps([path, copied.source, copied.target]).encode() + b"\n")

    def forget(self, path: str) -> None:
        """What was noted of a file is not so."""
        self.note(path, Copied("", ""))

    def _read(self) -> dict[str, Copied]:
        known: dict[str, Copied] = {}
        try:
            with open(self._path, "rb") as file:
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            return known
        for line in filter(None, lines):
            try:
                path, source, target = json.loads(line)
                known[str(path)] = Copied(str(source), str(target))
            except (ValueError, TypeError):  # torn by what ended the last one
                continue
        return known
