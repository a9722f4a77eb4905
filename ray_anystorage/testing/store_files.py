"""Files to send and to look at, and what a transfer may have left, for tests of stores and of the engine."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Sequence
from pathlib import Path

from ray_anystorage.transfer.files import Incoming, Outgoing, Stored


def write_files(root: Path, sizes: dict[str, int]) -> list[Outgoing]:
    """Files of random bytes, as they go to a store under their own names; sizes in bytes."""
    files = []
    for name, size in sizes.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(f"{name} {size}").randbytes(size))  # noqa: S311
        files.append(Outgoing(str(path), name, size))
    return files


def incoming(stored: Sequence[Stored], root: Path) -> list[Incoming]:
    """Fetch what was stored into a folder, with every digest."""
    return [Incoming(file.key, str(root / file.key), file.size, file.digest, file.chunks) for file in stored]


def same_content(files: Sequence[Outgoing], root: Path) -> bool:
    """True when the folder holds the same bytes under the same names."""
    return all(Path(file.path).read_bytes() == (root / file.key).read_bytes() for file in files)


def flip_bit(path: Path, offset: int) -> None:
    """Damage one bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def leftovers(root: Path) -> list[str]:
    """Temporary files below a folder."""
    with contextlib.suppress(FileNotFoundError):
        return [str(path) for path in root.rglob(".anystorage-*")]
    return []


def transfer_threads() -> list[str]:
    """Names of the engine's threads that are alive."""
    names = ("anystorage-transfer", "anystorage-streamed")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(names)]
