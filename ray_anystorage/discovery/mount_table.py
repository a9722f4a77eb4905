"""Reads the kernel's mount table, and says of a path what it lies on without touching it.

A ``stat`` on a mount whose server is gone may never return, so everything here comes from ``/proc`` and ``/sys``;
only :func:`resolve_links` looks at directories, and it stops at the first network mount.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_anystorage.environment import Kind

_MOUNT_TABLE = "/proc/self/mountinfo"
_MOST_LINKS = 40  # as many as the kernel follows in one path
_PARALLEL = frozenset({"lustre", "beegfs", "gpfs", "ceph", "wekafs", "panfs", "pvfs2", "glusterfs", "ocfs2", "gfs2"})
_DISK = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "bcachefs", "ntfs3", "fuseblk", "vfat"}
)
_MEMORY = frozenset({"tmpfs", "ramfs", "hugetlbfs"})
_OVERLAY = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})
_SMB = frozenset({"cifs", "smb3", "smbfs"})
_HOST_SHARE = frozenset({"9p", "virtiofs", "vboxsf"})
# Disks on the other side of a network that show themselves as NVMe on AWS and Google Cloud.
_NETWORK_NVME = {"Amazon Elastic Block Store": "EBS volume", "nvme_card-pd": "persistent disk"}


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of the mount table; ``device`` is ``major:minor``, ``options`` are the file system's own."""

    mount_point: str
    filesystem: str
    source: str = ""
    device: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Nature:
    """What a path lies on: see the attributes of the same names of ``environment.Place``."""

    kind: Kind = "unknown"
    filesystem: str = ""
    network: bool = False
    description: str = "a place that the mount table does not know"


def parse_mount_table(text: str) -> tuple[MountEntry, ...]:
    """Read the text of ``/proc/self/mountinfo`` (``man 5 proc``); lines of another shape are passed over."""
    entries = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if separator and len(fields) >= 6 and len(rest) >= 3:
            options = tuple(rest[2].split(","))
            entries.append(MountEntry(_unescape(fields[4]), rest[0], _unescape(rest[1]), fields[2], options))
    return tuple(entries)


def read_mount_table() -> tuple[MountEntry, ...]:
    """The mount table of this process, in mounting order; empty where the system has none in ``/proc``."""
    try:
        return parse_mount_table(Path(_MOUNT_TABLE).read_text(errors="surrogateescape"))
    except FileNotFoundError:
        return ()


def find_mount(path: str, table: Sequence[MountEntry]) -> MountEntry | None:
    """The entry that an absolute path lies on, going by its text: links are not followed."""
    best: MountEntry | None = None
    for entry in table:
        # Of two mounts on the same point the later one is on top.
        if _contains(entry.mount_point, path) and (best is None or len(entry.mount_point) >= len(best.mount_point)):
            best = entry
    return best


def resolve_links(path: str, table: Sequence[MountEntry]) -> str:
    """Follow the links of an absolute path as far as no network mount has to be touched."""
    settled, left, links = "/", deque(_segments(path)), 0
    points = {entry.mount_point for entry in table}
    while left and links < _MOST_LINKS and not _is_network(find_mount(settled, table)):
        segment = left.popleft()
        step = os.path.dirname(settled) if segment == ".." else os.path.join(settled, segment)
        try:
            target = "" if step in points else os.readlink(step)
        except OSError:  # not a link, or not there
            target = ""
        if target:
            links += 1
            left.extendleft(reversed(_segments(target)))
            settled = "/" if target.startswith("/") else settled
        else:
            settled = step
    return os.path.normpath(os.path.join(settled, *left))


def describe(path: str, table: Sequence[MountEntry], *, sysfs: str = "/sys") -> Nature:
    """Say what an absolute path without links lies on."""
    entry = find_mount(path, table)
    if entry is None:
        return Nature()
    kind, network, phrase = _classify(entry)
    if kind == "disk":
        root = find_mount("/", table)
        phrase = _disk_phrase(entry, root, list(_disks(entry, sysfs)), sysfs)
    return Nature(kind, entry.filesystem, network, f"{phrase} ({entry.filesystem})")


def _classify(entry: MountEntry) -> tuple[Kind, bool, str]:
    filesystem = entry.filesystem
    # Sandboxes (gVisor, Kata) serve a container's root that way: nobody else sees it.
    shared = entry.mount_point != "/"
    if filesystem in ("nfs", "nfs4", "efs"):
        return "nfs", True, "EFS mount" if _is_efs(entry) else "NFS mount"
    if filesystem in _PARALLEL:
        return "parallel", True, "parallel file system mount"
    if filesystem in _DISK:
        return "disk", False, "disk"
    if filesystem in _MEMORY:
        return "tmpfs", False, "memory file system"
    if filesystem in _OVERLAY:
        return "overlay", False, "directory on the container's overlay"
    if filesystem == "fuse" or filesystem.startswith("fuse."):
        return "fuse", shared, "FUSE mount"
    if filesystem in _SMB:
        return "unknown", True, "SMB mount"
    if filesystem in _HOST_SHARE:
        return "unknown", shared, "share of the host"
    if filesystem == "autofs":
        return "unknown", True, "automount point"
    return "unknown", False, "mount of an unknown kind"


def _is_efs(entry: MountEntry) -> bool:
    """Direct mounts name the service's host; amazon-efs-utils mounts a loopback tunnel on a port of its own."""
    host = entry.source.partition(":")[0]
    tunnel = host in ("127.0.0.1", "localhost") and any(
        re.fullmatch("port=(20[0-9]{3})", option) and option != "port=2049" for option in entry.options
    )
    return entry.filesystem == "efs" or tunnel or bool(re.search(r"\.efs\..*\.amazonaws\.com", host))


def _is_network(entry: MountEntry | None) -> bool:
    return entry is not None and _classify(entry)[1]


def _disk_phrase(entry: MountEntry, root: MountEntry | None, disks: list[str], sysfs: str) -> str:
    medium = ""
    if disks and all(disk.startswith("nvme") for disk in disks):
        media = {_NETWORK_NVME.get(_model(disk, sysfs), "NVMe disk") for disk in disks}
        medium = " and ".join(sorted(media))
    suffix = f", {medium}" if medium else ""
    if entry.mount_point == "/":
        return f"plain directory on the root disk{suffix}"
    if root is not None and entry.device and entry.device == root.device:
        return f"directory of the root disk, bound to {entry.mount_point}{suffix}"
    return f"{medium or 'disk'} mounted at {entry.mount_point}"


def _disks(entry: MountEntry, sysfs: str) -> Iterator[str]:
    """Names of the whole disks below a mount: partitions, dm and md devices are followed down."""
    link = os.path.join(sysfs, "dev/block", entry.device)
    if not os.path.exists(link) and entry.source.startswith("/dev/"):  # btrfs and zfs have a device number of their own
        link = os.path.join(sysfs, "class/block", os.path.basename(os.path.realpath(entry.source)))
    if os.path.exists(link):
        yield from _whole_disks(os.path.realpath(link))


def _whole_disks(device: str) -> Iterator[str]:
    slaves = os.path.join(device, "slaves")
    below = os.listdir(slaves) if os.path.isdir(slaves) else []
    for name in below:
        yield from _whole_disks(os.path.realpath(os.path.join(slaves, name)))
    if not below:
        is_partition = os.path.exists(os.path.join(device, "partition"))
        yield os.path.basename(os.path.dirname(device) if is_partition else device)


def _model(disk: str, sysfs: str) -> str:
    try:
        return Path(sysfs, "class/block", disk, "device/model").read_text().strip()
    except OSError:
        return ""


def _contains(directory: str, path: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _segments(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment not in ("", ".")]


def _unescape(field: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
