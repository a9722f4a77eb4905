"""Finds out what the mount of a tier really is: from the mount table, its free space, and a real write."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import replace

from ray_anystorage.discovery.mount_table import Nature, describe, read_mount_table, resolve_links
from ray_anystorage.discovery.probe import PROBE_BYTES, bounded, probe_directory
from ray_anystorage.environment import Location, Place, Problem, Space
from ray_anystorage.errors import (
    MountBrokenError,
    MountDeadError,
    MountFullError,
    MountMissingError,
    MountPermissionError,
    MountReadOnlyError,
    MountTimeoutError,
    NoInodesError,
    NotADirectoryAtMountError,
    StorageError,
)
from ray_anystorage.settings import PREFIX
from ray_anystorage.units import format_size

_ERRORS: dict[int, type[StorageError]] = {
    errno.ENOENT: MountMissingError,
    errno.ENOTDIR: NotADirectoryAtMountError,
    errno.EROFS: MountReadOnlyError,
    errno.EACCES: MountPermissionError,
    errno.EPERM: MountPermissionError,
    errno.ENOSPC: MountFullError,
    errno.EDQUOT: MountFullError,
    errno.ETIMEDOUT: MountTimeoutError,
    errno.ENOTCONN: MountDeadError,
    errno.ESTALE: MountDeadError,
    errno.EIO: MountDeadError,
    errno.EHOSTDOWN: MountDeadError,
    errno.EHOSTUNREACH: MountDeadError,
    errno.ECONNREFUSED: MountDeadError,
    errno.ECONNABORTED: MountDeadError,
    errno.ECONNRESET: MountDeadError,
}
# Reason and remedy; {root}, {uid}, {free} and {setting} are filled in, and the reason gets the system's own words.
_WORDS: dict[type[StorageError], tuple[str, str]] = {
    MountMissingError: (
        "the directory does not exist",
        "mount the storage there (on every node), or set {setting} to where it is",
    ),
    NotADirectoryAtMountError: (
        "a file lies where the mount should be",
        "move the file away and mount the storage there, or set {setting} to where it is",
    ),
    MountReadOnlyError: (
        "it is mounted read-only",
        "mount it read-write (mount -o remount,rw {root}), or set {setting} to a place that can be written",
    ),
    MountPermissionError: (
        "permission is denied to this user (uid {uid})",
        "give uid {uid} write permission on {root}, or set {setting} to a directory it owns",
    ),
    MountFullError: (
        "no space is left, or the quota of uid {uid} is used up ({free})",
        "delete what is not needed in {root} or raise the quota, or set {setting} to a place with room",
    ),
    NoInodesError: (
        "no inode is left, so no file can be created, although there are bytes ({free})",
        "delete small files in {root} or make the file system with more inodes, or set {setting} to a place with room",
    ),
    MountTimeoutError: (
        "it does not answer",
        "see whether its server is up and reachable from this node (a mount that hangs also hangs `df {root}`), "
        "remount it, or set {setting} to another place; a slow one gets more time with {prefix}PROBE_TIMEOUT",
    ),
    MountDeadError: (
        "its server or daemon is gone",
        "restart the server or daemon and mount again (umount -l {root} first), or set {setting} to another place",
    ),
    MountBrokenError: (
        "it fails",
        "look into the kernel log (dmesg) for what {root} lies on, or set {setting} to another place",
    ),
}


def look_at_mount(location: Location, timeout: float, *, fallback: str | None = None) -> Place:
    """Say what a mount is, and try it.

    Parameters
    ----------
    location
        The tier and its root.
    timeout
        Seconds that looking may take.
    fallback
        A directory that serves when the root is a default that does not exist. It need not exist: then the nearest
        directory above is tried, and nothing is made.

    Returns
    -------
    Place
        ``absent`` when a default root does not exist and there is no fallback; ``failed`` with its problem when
        anything is wrong; else ``usable``.
    """
    place = _look_within(location, timeout)
    if place.state != "absent" or fallback is None:
        return place
    instead = replace(location, root=os.path.normpath(fallback), source="root disk (fallback)")
    found = _look_within(instead, timeout, may_be_made=True)
    return replace(found, description=f"{found.description}, as there is no mount at {location.root}")


def problem_of(
    location: Location, error: OSError, *, tried: str, space: Space | None = None, network: bool = True
) -> Problem:
    """Turn an error of the operating system into the problem of the same meaning, with a remedy.

    Parameters
    ----------
    location
        Where it happened.
    error
        What the system said.
    tried
        What was done.
    space
        Tells a file system without inodes from a full one.
    network
        Tells a server that is gone from a disk that fails: both give ``EIO``.
    """
    kind = _ERRORS.get(error.errno or 0, MountTimeoutError if isinstance(error, TimeoutError) else MountBrokenError)
    if error.errno == errno.EIO and not network:
        kind = MountBrokenError
    if kind is MountFullError and space is not None and space.free_inodes == 0 and space.free_bytes != 0:
        kind = NoInodesError
    reason, remedy = _WORDS[kind]
    words = {
        "root": location.root,
        "uid": os.geteuid(),
        "free": _free(space),
        "setting": f"{PREFIX}{location.tier.upper()}_STORAGE",
        "prefix": PREFIX,
    }
    code = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return Problem(
        error_type=kind,
        reason=f"{reason.format(**words)} ({code}: {error.strerror or error})",
        tier=location.tier,
        place=location.root,
        tried=tried,
        remedy=remedy.format(**words),
    )


def measure(directory: str) -> Space:
    """Free and total bytes and inodes, as an unprivileged process may use them.

    Raises
    ------
    OSError
        The file system does not answer.
    """
    numbers = os.statvfs(directory)
    has_blocks, has_inodes = numbers.f_blocks > 0, numbers.f_files > 0
    return Space(
        free_bytes=numbers.f_bavail * numbers.f_frsize if has_blocks else None,
        total_bytes=numbers.f_blocks * numbers.f_frsize if has_blocks else None,
        free_inodes=numbers.f_favail if has_inodes else None,
        total_inodes=numbers.f_files if has_inodes else None,
    )


def _look_within(location: Location, timeout: float, *, may_be_made: bool = False) -> Place:
    sightings: list[Nature] = []  # filled from the thread, so that a mount that hangs still gets its name
    try:
        return bounded(lambda: _look(location, sightings, may_be_made), timeout, what=f"look at {location.root}")
    except TimeoutError as error:
        # A table read now holds what was mounted when the look began to hang.
        nature = sightings[-1] if sightings else describe(location.root, read_mount_table())
        tried = f"stat, statvfs and a {_size()} probe file in {location.root}, for {timeout:g} s"
        return _failed(location, nature, problem_of(location, error, tried=tried))


def _look(location: Location, sightings: list[Nature], may_be_made: bool) -> Place:
    table = read_mount_table()
    sightings.append(describe(resolve_links(location.root, table), table))
    directory = _nearest_directory(location.root) if may_be_made else location.root
    space: Space | None = None
    tried = f"looked up {directory}"
    try:
        if not stat.S_ISDIR(os.stat(directory).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", directory)
        nature = describe(os.path.realpath(directory), read_mount_table())  # read again: the look may have mounted it
        sightings.append(nature)
        space = measure(directory)
        tried = f"wrote and fsynced a {_size()} probe file in {directory}"
        probe_directory(directory)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and space is None and not location.explicit:
            return Place(location, "absent", description=f"nothing mounted: {location.root} does not exist")
        nature = sightings[-1]
        problem = problem_of(location, error, tried=tried, space=space, network=nature.network)
        return _failed(location, nature, problem, space)
    return _place(location, nature, space)


def _place(location: Location, nature: Nature, space: Space | None) -> Place:
    return Place(
        location=location,
        state="usable",
        kind=nature.kind,
        filesystem=nature.filesystem,
        network=nature.network,
        description=nature.description,
        space=space,
    )


def _failed(location: Location, nature: Nature, problem: Problem, space: Space | None = None) -> Place:
    found = replace(_place(location, nature, space), state="failed", problem=problem)
    if issubclass(problem.error_type, (MountMissingError, NotADirectoryAtMountError)):
        return replace(found, description=problem.reason)  # what lies around the place says nothing of it
    return found


def _nearest_directory(path: str) -> str:
    return next(candidate for candidate in (path, *_above(path)) if os.path.isdir(candidate))


def _above(path: str) -> Iterable[str]:
    while path != "/":
        path = os.path.dirname(path)
        yield path


def _free(space: Space | None) -> str:
    if space is None or space.free_bytes is None or space.total_bytes is None:
        return "free space unknown"
    return f"{format_size(space.free_bytes)} of {format_size(space.total_bytes)} free"


def _size() -> str:
    return f"{PROBE_BYTES // 1024} KiB"
