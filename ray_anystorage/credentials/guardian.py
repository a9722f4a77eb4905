"""Removes a folder of secrets when the process that made it is gone, however it ended.

Run as a script, with a pipe as its input that ends with that process. It never reads a secret.
"""

import fcntl
import os
import sys
import time

_PATIENCE = 2.0  # seconds for the lock, which ends with the process as the pipe does, but not at the same instant
_LOOK_EVERY = 0.05


def guard(path: str) -> None:
    """Wait for the end of the input, then remove the folder and what is in it, unless another process has it by now."""
    os.read(0, 1)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    if _locked(folder) and os.path.samestat(os.fstat(folder), os.stat(path)):
        for name in os.listdir(folder):
            os.unlink(name, dir_fd=folder)
        os.rmdir(path)


def _locked(folder: int) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_EVERY)


if __name__ == "__main__":
    # A grandchild in a session of its own: what ends its parent's children or terminal leaves it alone.
    if os.fork() == 0:
        os.setsid()
        guard(sys.argv[1])
