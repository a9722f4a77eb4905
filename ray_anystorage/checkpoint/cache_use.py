"""Using entries of the node's cache, and directories that are there for the time being."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence

from ray_anystorage.checkpoint.cache import CachedFile, Entry

logger = logging.getLogger("ray.train.anystorage")


def all_there(entry: Entry, wanted: Sequence[CachedFile]) -> bool:
    """Whether the cache has every file, by size; content is compared when it is used."""

    def there(file: CachedFile) -> bool:
        with contextlib.suppress(OSError):
            return os.stat(os.path.join(entry.directory, file.path)).st_size == file.size
        return False

    return bool(wanted) and all(there(file) for file in wanted)


@contextlib.contextmanager
def while_read(entry: Entry) -> Iterator[None]:
    """Use an entry that goes when nobody reads it any more."""
    try:
        with entry.reading():
            yield
    finally:
        try:
            entry.remove()
        except OSError as error:
            logger.warning("what was fetched for the time being stays in %s: %s", entry.folder, error)


@contextlib.contextmanager
def temporary_directory() -> Iterator[str]:
    """A directory that goes with the block."""
    with tempfile.TemporaryDirectory(prefix="anystorage-checkpoint-") as directory:
        yield directory
