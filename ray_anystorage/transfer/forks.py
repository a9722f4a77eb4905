"""obstore after a fork: the threads that it works with stay with the parent, and a call in the child waits for ever."""

from __future__ import annotations

import os

_user: int | None = None  # the process that first used obstore


def obstore_is_lost() -> bool:
    """True in a process that was forked from one that had used obstore; otherwise this process counts as using it."""
    global _user
    if _user is None:
        _user = os.getpid()
    return _user != os.getpid()
