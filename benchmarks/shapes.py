"""What is moved and where: the shapes of a checkpoint, and the places."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.target import MiB

KiB = 1 << 10
GiB = 1 << 30


@dataclass(frozen=True, slots=True)
class Shape:
    """``count`` files of ``size`` bytes each."""

    count: int
    size: int

    @property
    def total(self) -> int:
        """Bytes together."""
        return self.count * self.size

    def __str__(self) -> str:
        unit, name = next((unit, name) for unit, name in _UNITS if self.size % unit == 0)
        return f"{self.count:,} x {self.size // unit} {name}"


_UNITS = ((GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB"), (1, "B"))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a checkpoint goes: a round trip in seconds, a rate in bytes per second per connection (None: unlimited)."""

    name: str
    is_bucket: bool = True
    round_trip: float = 0.0
    rate: float | None = None


LOOPBACK = Place("loopback")
FAR = Place("far", round_trip=0.025, rate=20e6)
DIRECTORY = Place("directory", is_bucket=False)
PLACES = (LOOPBACK, FAR, DIRECTORY)

FULL = (Shape(1, GiB), Shape(8, 256 * MiB), Shape(512, 256 * KiB), Shape(5000, 4 * KiB))
COPIED = (Shape(5000, 4 * KiB), Shape(1, 4 * GiB))
QUICK = (Shape(1, 256 * MiB), Shape(128, 256 * KiB))


def shapes(place: Place, *, quick: bool) -> tuple[Shape, ...]:
    """The shapes to move at a place; fewer tiny files where each costs a round trip."""
    chosen = QUICK if quick else FULL
    few = Shape(1000, 4 * KiB)
    return tuple(few if shape == FULL[3] and place == FAR else shape for shape in chosen)


def write_files(directory: Path, shape: Shape) -> None:
    """Fill a new directory with random files, which no layer can compress or merge."""
    directory.mkdir()
    for number in range(shape.count):
        with open(directory / f"file-{number:05d}", "wb") as file:
            for start in range(0, shape.size, 16 * MiB):
                file.write(os.urandom(min(16 * MiB, shape.size - start)))


def checksums(directory: Path) -> dict[str, tuple[int, int]]:
    """Size and CRC-32 of every file by its relative name: enough against accidents, and quick."""
    return {path.relative_to(directory).as_posix(): _checksum(path) for path in directory.rglob("*") if path.is_file()}


def _checksum(path: Path) -> tuple[int, int]:
    value, buffer = 0, memoryview(bytearray(4 * MiB))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            value = zlib.crc32(buffer[:count], value)
    return path.stat().st_size, value
