"""What a directory holds, before it is saved: every file and every empty folder, or an error that names the odd."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass

from ray_anystorage.checkpoint.manifest import FOLDER, check_path
from ray_anystorage.errors import UnsavableFileError

# Not in XML, in which object stores list names, or not in UTF-8, or a separator to some of them.
_NOT_KEPT = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to save: its path below the directory (POSIX), where it is, and its bytes."""

    path: str
    source: str
    size: int


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory's content, in the order of the paths; ``empty`` are folders without an entry."""

    files: tuple[SourceFile, ...]
    empty: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def scan(directory: str) -> Tree:
    """List a directory. Links are followed: what they lead to is saved in their place.

    What is kept is names and content: no mode, owner or time, no hard link, no hole in a sparse file.

    Raises
    ------
    UnsavableFileError
        A link leads nowhere or in a circle, something is neither file nor folder, or a name cannot be kept; names it.
    OSError
        A folder cannot be read.
    """
    files: list[SourceFile] = []
    empty: list[str] = []
    _scan(directory, "", frozenset(), files, empty)
    return Tree(tuple(sorted(files, key=lambda file: file.path)), tuple(sorted(empty)))


def _scan(folder: str, below: str, above: frozenset[str], files: list[SourceFile], empty: list[str]) -> None:
    real = os.path.realpath(folder)
    if real in above:
        raise UnsavableFileError(f"{folder} cannot be saved: the link leads back to a folder that holds it")
    entries = sorted(os.listdir(folder))
    if not entries and below:
        empty.append(_checked(folder, below))
    for name in entries:
        if not below and name == FOLDER:  # of a checkpoint that was restored in place and is saved again
            continue
        source, path = os.path.join(folder, name), f"{below}/{name}" if below else name
        _checked(source, path)
        status = _stat(source)
        if stat.S_ISDIR(status.st_mode):
            _scan(source, path, above | {real}, files, empty)
        elif stat.S_ISREG(status.st_mode):
            files.append(SourceFile(path, source, status.st_size))
        else:
            raise UnsavableFileError(f"{source} cannot be saved: it is neither a file nor a folder")


def _stat(source: str) -> os.stat_result:
    try:
        return os.stat(source)
    except FileNotFoundError as error:
        raise UnsavableFileError(f"{source} cannot be saved: the link leads to nothing") from error
    except OSError as error:
        if os.path.islink(source):
            raise UnsavableFileError(f"{source} cannot be saved: the link leads in a circle") from error
        raise


def _checked(source: str, path: str) -> str:
    try:
        check_path(path)
    except ValueError as error:
        raise UnsavableFileError(f"{source!r} cannot be saved: {error}") from error
    if found := _NOT_KEPT.search(path):
        raise UnsavableFileError(f"{source!r} cannot be saved: not every store keeps {found[0]!r} in a name")
    return path
