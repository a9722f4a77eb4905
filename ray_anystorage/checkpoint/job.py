"""One save under way, as plain values: what is saved, and where it came to lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ray_anystorage.checkpoint.course import Handed
from ray_anystorage.checkpoint.manifest import Manifest
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.tree import Tree
from ray_anystorage.transfer.files import Stored
from ray_anystorage.transfer.store import Store


@dataclass(frozen=True, slots=True)
class Job:
    """One save: what, as which part, and what other attempts stored under the checkpoint's name.

    ``handed`` says when it was handed over, ``begun`` when it began, as ``time.monotonic`` has it.
    """

    tree: Tree
    part: Part
    former: tuple[Manifest, ...]
    handed: Handed
    begun: float

    def known_in(self, data: Store, *, spilled: bool) -> Iterator[Stored]:
        """What may be there; the engine looks before it relies on it."""
        name = self.part.checkpoint
        for manifest in self.former:
            if manifest.location == (f"{data.uri}/{name}" if spilled else None):
                for file in manifest.files:
                    yield Stored(f"{name}/{file.path}", file.size, file.digest, file.chunks, etag=file.etag)


@dataclass(frozen=True, slots=True)
class Placed:
    """What was stored, in which folder of the bucket if not in the run home, why there, and how long that took.

    ``sent`` is when that was done, as ``time.monotonic`` has it.
    """

    files: tuple[Stored, ...]
    location: str | None
    detour: str | None
    seconds: float
    sent: float
