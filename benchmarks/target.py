"""What a client is told: where the place is, and the protocol that every client speaks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

MiB = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """A place: a bucket behind an endpoint, or (``endpoint`` empty) a directory ``root``.

    S3 credentials are in the process's environment, in the ``AWS_*`` variables that every SDK reads.
    """

    endpoint: str = ""
    region: str = ""
    bucket: str = ""
    root: str = ""
    connections: int = 0  # for the plain client alone

    @property
    def is_bucket(self) -> bool:
        return bool(self.endpoint)

    def ray_path(self, folder: str) -> str:
        """The ``storage_path`` that leads stock Ray here: in a bucket to a folder of it, else to the directory."""
        if not self.is_bucket:
            return self.root
        host = urlsplit(self.endpoint).netloc
        return f"s3://{self.bucket}/{folder}?scheme=http&endpoint_override={host}&region={self.region}"


class Client(Protocol):
    """One competitor. Made before the clock starts: imports and settings are free, connections are not.

    ``SETTINGS`` says in words what was set; ``DURABLE``, that a save to a directory has been synced when it returns.
    """

    SETTINGS: str
    DURABLE: bool

    def __init__(self, target: Target) -> None: ...

    def save(self, directory: str, prefix: str) -> None:
        """Store every file below ``directory`` under ``prefix``."""

    def restore(self, prefix: str, directory: str) -> None:
        """Bring every file under ``prefix`` into ``directory``, which exists and is empty."""


def files_below(directory: str) -> list[tuple[str, str, int]]:
    """Path, relative name and size in bytes of every file."""
    root = Path(directory)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return [(str(path), path.relative_to(root).as_posix(), path.stat().st_size) for path in paths]


def ranges(size: int, step: int) -> list[tuple[int, int]]:
    """Offset and length of each piece of ``size`` bytes."""
    return [(offset, min(step, size - offset)) for offset in range(0, size, step)]
