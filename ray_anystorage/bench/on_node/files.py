"""Files as training code meets them: read to their end, from the disk rather than from memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ray_anystorage.checkpoint.manifest import FOLDER, METADATA

_READ = 4 << 20


def read_all(directory: str) -> int:
    """Bytes of all files but this package's and Ray's own, each read to its end."""
    buffer, moved = bytearray(_READ), 0
    for path in files_below(directory):
        inside = os.path.relpath(path, directory)
        if inside.startswith(f"{FOLDER}{os.sep}") or inside == METADATA:
            continue
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                moved += count
    return moved


def forget_pages(directory: str) -> None:
    """Empty this node's memory of a folder's files, as far as the system does that."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files_below(directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the system keeps what it has yet to write
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def files_below(directory: str) -> Iterator[str]:
    """Paths of all files below a folder."""
    for above, _, names in os.walk(directory):
        for name in names:
            yield os.path.join(above, name)
