"""The names of files that are under way, on mounts, in downloads and in caches; whoever sweeps knows them by these."""

from __future__ import annotations

import contextlib
import os
import re
import secrets

_NAME = re.compile(r"\.anystorage-[0-9a-f]{16}\.part")  # a user's file may begin like one


def temporary_beside(path: str, token: str | None = None) -> str:
    """A name in the folder of a file that is to take its place from there: a new one, or that of a token in hex."""
    return os.path.join(os.path.dirname(path), f".anystorage-{(token or secrets.token_hex(8))[:16]}.part")


def is_temporary(name: str) -> bool:
    """True for the name of a file that :func:`temporary_beside` gave, without its folder."""
    return _NAME.fullmatch(name) is not None


def remove_temporary(path: str | None) -> None:
    """Remove a file under way that nobody goes on with, if it is one and there."""
    if path is not None and is_temporary(os.path.basename(path)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)
