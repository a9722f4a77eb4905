"""Seeing every system call of a process that touches files, before it happens, and failing one: seccomp's notices.

The kernel hands each call of the filter to whoever holds the listener, and the caller waits for the answer: so nothing
gets by, whether Python, pyarrow or a C library makes the call, and from whatever thread. Not seen are writes to memory
that is mapped to a file; io_uring is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import signal
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.harness.crash_points import READS, Points

# linux/seccomp.h, linux/audit.h, linux/bpf_common.h
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION, _ANSWER, _GO_ON = struct.Struct("QIIiIQ6Q"), struct.Struct("QqiI"), 1
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_NO_NEW_PRIVILEGES, _SET_FILTER, _NEW_LISTENER = 38, 1, 8
_MACHINES = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}  # column, architecture, seccomp's number
_FICLONE = 0x40049409
_HERE = -100  # AT_FDCWD


@dataclass(frozen=True, slots=True)
class _Call:
    """A system call: its number on each machine, and which arguments name the file (a descriptor, a path, or both)."""

    verb: str
    numbers: tuple[int | None, int | None]
    descriptor: int | None = None
    path: int | None = None
    flags: int | None = None


_CALLS = (
    _Call("open", (2, None), path=0, flags=1),
    _Call("open", (257, 56), descriptor=0, path=1, flags=2),
    _Call("create", (85, None), path=0),
    _Call("create", (437, 437), descriptor=0, path=1),  # openat2, whose flags lie in memory
    *(_Call("write", numbers, descriptor=0) for numbers in ((1, 64), (18, 68), (20, 66), (296, 70), (328, 287))),
    _Call("write", (326, 285), descriptor=2),  # copy_file_range
    _Call("write", (40, 71), descriptor=0),  # sendfile
    _Call("write", (275, 76), descriptor=2),  # splice
    _Call("clone", (16, 29), descriptor=0, flags=1),  # of all ioctls, FICLONE
    _Call("fsync", (74, 82), descriptor=0),
    _Call("fdatasync", (75, 83), descriptor=0),
    _Call("sync_file_range", (277, 84), descriptor=0),
    _Call("flock", (73, 32), descriptor=0),
    _Call("rename", (82, None), path=1),
    *(_Call("rename", numbers, descriptor=2, path=3) for numbers in ((264, 38), (316, 276))),
    _Call("link", (86, None), path=1),
    _Call("link", (265, 37), descriptor=2, path=3),
    _Call("symlink", (88, None), path=1),
    _Call("symlink", (266, 36), descriptor=1, path=2),
    _Call("unlink", (87, None), path=0),
    _Call("unlink", (263, 35), descriptor=0, path=1),
    _Call("rmdir", (84, None), path=0),
    _Call("mkdir", (83, None), path=0),
    _Call("mkdir", (258, 34), descriptor=0, path=1),
    _Call("mknod", (133, None), path=0),
    _Call("mknod", (259, 33), descriptor=0, path=1),
    _Call("truncate", (76, 45), path=0),
    _Call("truncate", (77, 46), descriptor=0),
    _Call("allocate", (285, 47), descriptor=0),
    *(_Call("utime", (number, None), path=0) for number in (132, 235)),
    *(_Call("utime", numbers, descriptor=0, path=1) for numbers in ((280, 88), (261, None))),
    *(_Call("chmod", (number, None), path=0) for number in (90, 92, 94)),
    *(_Call("chmod", numbers, descriptor=0) for numbers in ((91, 52), (93, 55))),
    *(_Call("chmod", numbers, descriptor=0, path=1) for numbers in ((268, 53), (452, 452), (260, 54))),
    *(_Call("xattr", numbers, path=0) for numbers in ((188, 5), (189, 6), (197, 14), (198, 15))),
    *(_Call("xattr", numbers, descriptor=0) for numbers in ((190, 7), (199, 16))),
    _Call("io_uring", (425, 425)),
)
_READING = (
    *(_Call("read", numbers, descriptor=0) for numbers in ((0, 63), (17, 67), (19, 65), (295, 69), (327, 286))),
    _Call("list", (217, 61), descriptor=0),
    *(_Call("look", (number, None), path=0) for number in (4, 6, 21)),
    *(_Call("look", numbers, descriptor=0, path=1) for numbers in ((262, 79), (332, 291), (269, 48), (439, 439))),
)


def _numbered() -> dict[int, _Call]:
    column = _MACHINES.get(platform.machine(), (0,))[0]
    return {number: call for call in (*_CALLS, *_READING) if (number := call.numbers[column]) is not None}


def cannot_watch() -> str | None:
    """Why this machine's kernel does not hand calls over, or ``None`` where it does."""
    if platform.machine() not in _MACHINES:
        return f"no table of system calls for {platform.machine()}"
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail") as file:
            return None if "user_notif" in file.read() else "this kernel's seccomp has no user notifications"
    except OSError as error:
        return f"this kernel has no seccomp: {error}"


def hand_over(*, reads: bool) -> int:
    """Have this process's calls on files, ``reads`` among them or not, wait for the listener that is returned.

    Raises
    ------
    OSError
        The kernel does not let it.
    """
    _, architecture, number = _MACHINES[platform.machine()]
    wanted = [n for n, call in _numbered().items() if reads or call.verb not in READS]
    rows = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, 0)]
    rows += [(_JUMP_EQUAL, len(wanted) - at, 0, n) for at, n in enumerate(wanted)]
    rows += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NOTIFY)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rows), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    listener = int(libc.syscall(ctypes.c_long(number), _SET_FILTER, _NEW_LISTENER, header))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


@dataclass(frozen=True, slots=True)
class KernelWatch:
    """Answers for the calls of one process.

    Attributes
    ----------
    listener
        As :func:`hand_over` gave it to that process.
    process
        Its id, for killing it.
    roots
        Folder by the name under which calls below it count; what happens elsewhere is none of our business.
    """

    listener: int
    process: int
    roots: Mapping[str, str]
    points: Points

    def answer(self) -> None:
        """Take the next call, and let it go on, fail it, or kill the process."""
        notification = bytearray(_NOTIFICATION.size)
        with _ended_meanwhile():
            fcntl.ioctl(self.listener, _RECEIVE, notification)
            key, task, _, number, _, _, *arguments = _NOTIFICATION.unpack(notification)
            kind = self._kind(task, _numbered_calls[number], arguments)
            if kind == "kill":
                os.kill(self.process, signal.SIGKILL)
                return
            error = getattr(errno, kind) if kind else 0
            fcntl.ioctl(self.listener, _SEND, bytearray(_ANSWER.pack(key, 0, -error, 0 if error else _GO_ON)))

    def _kind(self, task: int, call: _Call, arguments: list[int]) -> str | None:
        if call.verb == "io_uring":
            return "ENOSYS"
        verb = _verb(call, arguments)
        path = _path(task, call, arguments) if verb else None
        for where, root in self.roots.items():
            if path is not None and (path == root or path.startswith(f"{root}/")):
                return self.points.meet(where, verb or "", os.path.relpath(path, root))
        return None


_numbered_calls = _numbered()


@contextlib.contextmanager
def _ended_meanwhile() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ProcessLookupError):  # the caller was killed while it waited
        return


def _verb(call: _Call, arguments: list[int]) -> str | None:
    if call.verb == "clone":
        return "clone" if arguments[1] == _FICLONE else None
    if call.verb == "open" and call.flags is not None:
        flags = arguments[call.flags]
        if flags & (os.O_CREAT | os.O_TRUNC):
            return "create"
        return "open" if flags & os.O_ACCMODE else "look"
    return call.verb


def _path(task: int, call: _Call, arguments: list[int]) -> str | None:
    named = _text(task, arguments[call.path]) if call.path is not None else ""
    if named is None or named.startswith("/"):
        return os.path.normpath(named) if named else None
    descriptor = _HERE if call.descriptor is None else ctypes.c_int(arguments[call.descriptor]).value
    try:
        folder = os.readlink(f"/proc/{task}/cwd" if descriptor == _HERE else f"/proc/{task}/fd/{descriptor}")
    except OSError:  # no such descriptor: the call fails by itself
        return None
    return os.path.normpath(os.path.join(folder, named)) if folder.startswith("/") else None


def _text(task: int, address: int) -> str | None:
    if address == 0:  # of utimensat: the descriptor itself
        return ""
    with open(f"/proc/{task}/mem", "rb", buffering=0) as memory:
        content = os.pread(memory.fileno(), 4096 - address % 4096, address)
        if b"\0" not in content:
            content += os.pread(memory.fileno(), 4096, address + len(content))
    return os.fsdecode(content.partition(b"\0")[0])
