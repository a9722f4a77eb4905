"""A private folder on a memory file system that is gone when the process that made it is, however that ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
import weakref

from ray_anystorage.credentials import guardian
from ray_anystorage.discovery.mount_table import find_mount, read_mount_table
from ray_anystorage.errors import CredentialsAgentError

_USUAL_ROOT = "/dev/shm"  # noqa: S108 - what is made there is private, and no link is followed
_MEMORY = ("tmpfs", "ramfs")
_PATIENCE = 10.0  # seconds for the lock of a folder that a guardian is removing
_LOOK_EVERY = 0.02
_live: weakref.WeakSet[MemoryFolder] = weakref.WeakSet()


def memory_root() -> str:
    """The directory that every node is expected to have on a memory file system: ``/dev/shm`` where this one has it.

    Raises
    ------
    CredentialsAgentError
        This node has no memory file system that can be written to.
    """
    table = read_mount_table()
    for root in (_USUAL_ROOT, *(entry.mount_point for entry in table if entry.filesystem in _MEMORY)):
        if _in_memory(root) and os.access(root, os.W_OK | os.X_OK):
            return root
    raise CredentialsAgentError(
        f"no memory file system can be written to on this node: expected {_USUAL_ROOT} to be a tmpfs. Secrets are "
        'never written to a disk\n  what to do: mount one, or use credentials="reference" or "ambient"'
    )


class MemoryFolder:
    """The folder, held by this process alone.

    Parameters
    ----------
    path
        Absolute; its parent must be on a memory file system.

    Raises
    ------
    CredentialsAgentError
        The place is none, or the folder is somebody else's.
    """

    def __init__(self, path: str) -> None:
        if not _in_memory(os.path.dirname(path)):
            raise CredentialsAgentError(
                f"{os.path.dirname(path)} is no memory file system on this node, and secrets are never written to a "
                "disk: mount a tmpfs there"
            )
        self.path = path
        self._folder, self._pipe = _take(path), -1
        try:
            self._pipe = _start_guardian(path)
        except (OSError, subprocess.SubprocessError) as error:
            self.close()
            raise CredentialsAgentError(
                f"no process can be started that would remove {path} at the end: {error}"
            ) from error
        _live.add(self)

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, mode 0600, at once and whole.

        Raises
        ------
        CredentialsAgentError
            The memory file system takes no file: it is full, or read-only.
        """
        try:
            self._write(name, content)
        except OSError as error:
            raise CredentialsAgentError(
                f"{os.path.join(self.path, name)} cannot be written: {error.strerror}\n  what to do: look at the "
                f"memory file system of this node (df {os.path.dirname(self.path)})"
            ) from error

    def _write(self, name: str, content: bytes) -> None:
        new = f"{name}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=self._folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, 0o600, dir_fd=self._folder), "wb") as file:
            file.write(content)
        os.rename(new, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def close(self) -> None:
        """Remove it now, unless another hand did; safe to call twice."""
        if self._folder < 0:
            return
        try:
            for name in os.listdir(self._folder):
                os.unlink(name, dir_fd=self._folder)
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(self.path)
        finally:
            self.forget()

    def forget(self) -> None:
        """Let go of it without a trace, as a child must that was forked: it is its parent's."""
        for descriptor in (self._folder, self._pipe):
            if descriptor >= 0:
                os.close(descriptor)
        self._folder = self._pipe = -1


def _in_memory(root: str) -> bool:
    entry = find_mount(os.path.realpath(root), read_mount_table())
    return entry is not None and entry.filesystem in _MEMORY


def _take(path: str) -> int:
    """Make or take over the folder, and lock it for as long as this process lives; the guardian looks at the lock."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        _make(path)
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:  # a guardian removed it at this moment
            continue
        except OSError as error:
            raise CredentialsAgentError(f"{path} is not a folder of this package's: {error.strerror}") from error
        try:
            _check_private(path, folder)
            if _lock(folder, path, deadline):
                return folder
        except BaseException:
            os.close(folder)
            raise
        os.close(folder)


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise CredentialsAgentError(f"{path} cannot be made for this run's credentials: {error.strerror}") from error


def _check_private(path: str, folder: int) -> None:
    status = os.fstat(folder)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise CredentialsAgentError(
            f"{path} belongs to user {status.st_uid} with mode {status.st_mode & 0o777:o}: expected user "
            f"{os.geteuid()} and mode 700. Remove it"
        )


def _lock(folder: int, path: str, deadline: float) -> bool:
    """Lock the folder; ``False`` where it was removed meanwhile."""
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CredentialsAgentError(f"{path} is held by another process") from None
            time.sleep(_LOOK_EVERY)
    try:
        return os.path.samestat(os.fstat(folder), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _start_guardian(path: str) -> int:
    """Start it with nothing of this process's but the read end of a pipe; returns the write end."""
    read, write = os.pipe()
    try:
        script = os.path.abspath(guardian.__file__)
        subprocess.run(  # noqa: S603 - this Python, with a file of this package
            [sys.executable, "-I", "-S", script, path],
            stdin=read,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            check=True,
        )
    except BaseException:
        os.close(write)
        raise
    finally:
        os.close(read)
    return write


def _forget_in_child() -> None:
    for folder in list(_live):
        folder.forget()


os.register_at_fork(after_in_child=_forget_in_child)
