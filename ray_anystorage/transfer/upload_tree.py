"""Copying a directory into a bucket, several files at once, touching no key outside of the destination.

pyarrow's own directory copy makes a marker object for every level above the destination, which lies outside of what a
run may write; copying file by file does not.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import pyarrow.fs

_FILES_AT_ONCE = 8
_CHUNK_BYTES = 64 << 20  # as Ray's own copying


def upload_tree(source: str, filesystem: Any, destination: str) -> None:
    """Copy every file below a local directory; the store has them all when this returns.

    Parameters
    ----------
    source
        A local directory.
    filesystem, destination
        A native ``pyarrow.fs`` file system of a bucket, and the path there.

    Raises
    ------
    OSError
        The first file that could not be copied, or folder that could not be read; copies in flight are finished first.
    """

    def copy(name: str) -> None:
        pyarrow.fs.copy_files(
            os.path.join(source, name),
            f"{destination}/{name}",
            destination_filesystem=filesystem,
            chunk_size=_CHUNK_BYTES,
            use_threads=False,  # pyarrow's threads can block each other here: apache/arrow#32372
        )

    files = list(_files(source))
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="anystorage-upload") as pool:
        copies = [pool.submit(copy, name) for name in files]
        try:
            for done in as_completed(copies):
                done.result()
        except OSError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def has_empty_directory(source: str) -> bool:
    """True when the tree has a directory without an entry, for which no object would stand."""
    return any(not folders and not files for _, folders, files in os.walk(source))


def _files(source: str) -> Iterator[str]:
    """Every file below, links followed but no folder entered from within itself."""
    entered = {os.path.realpath(source)}
    for folder, folders, names in os.walk(source, followlinks=True, onerror=_raise):
        folders[:] = [name for name in folders if _is_new(os.path.join(folder, name), entered)]
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), source)


def _is_new(folder: str, entered: set[str]) -> bool:
    real = os.path.realpath(folder)
    if real in entered:
        raise OSError(errno.ELOOP, "a link leads to a folder that is saved already", folder)
    entered.add(real)
    return True


def _raise(error: OSError) -> None:
    raise error
