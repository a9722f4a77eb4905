"""What a path lies on, from the text of the mount table and ``/sys``."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_anystorage.discovery.mount_table import (
    describe,
    find_mount,
    parse_mount_table,
    read_mount_table,
    resolve_links,
)
from ray_anystorage.environment import Kind

TABLE = parse_mount_table(
    r"""22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw,discard
23 22 0:5 / /proc rw - proc proc rw
40 22 0:45 / /mnt/cluster_storage rw,relatime shared:100 master:3 - nfs4 10.0.0.5:/export rw,vers=4.1,addr=10.0.0.5
41 22 0:46 / /mnt/user_storage rw - nfs4 fs-0abc.efs.us-west-2.amazonaws.com:/ rw,vers=4.1,port=2049
42 22 0:47 / /mnt/shared_storage rw - nfs4 127.0.0.1:/ rw,vers=4.1,port=20123,addr=127.0.0.1
43 22 0:48 / /lustre rw - lustre 10.0.0.9@tcp:/fsx rw,flock
44 22 0:49 / /buckets/team rw,nosuid - fuse.gcsfuse team-bucket rw,user_id=0
45 22 0:50 / /mnt/with\040space\011and\134slash rw - tmpfs tmpfs rw
46 22 259:3 / /mnt/local_storage rw - xfs /dev/nvme1n1 rw
47 22 259:1 /data /bound rw - ext4 /dev/nvme0n1p1 rw
48 22 0:51 / /smb rw - cifs //server/share rw
49 22 0:52 / /host rw - virtiofs hostshare rw
50 22 0:53 / /auto rw - autofs /etc/auto rw,fd=7
51 50 0:54 / /auto rw - nfs 10.0.0.5:/auto rw,vers=3
52 22 0:55 / /odd rw - brandnewfs none rw
53 22 253:0 / /lvm rw - ext4 /dev/mapper/vg-lv rw
54 22 0:56 / /btr rw - btrfs /dev/sdb rw
55 22 259:5 / /ebs rw - ext4 /dev/nvme2n1 rw
a line of another shape
"""
)


@pytest.fixture
def sysfs(tmp_path: Path) -> str:
    """As the kernel lays it out: disks with partitions, a device-mapper volume over two NVMe disks, a SATA disk."""
    for number, name in {"259:1": "nvme0n1/nvme0n1p1", "259:3": "nvme1n1", "259:5": "nvme2n1", "253:0": "dm-0"}.items():
        device = tmp_path / "devices" / name
        device.mkdir(parents=True)
        link(tmp_path / "dev/block" / number, device)
    (tmp_path / "devices/nvme0n1/nvme0n1p1/partition").write_text("1\n")
    for disk, model in {
        "nvme0n1": "Disk 980",
        "nvme1n1": "Instance Storage",
        "nvme2n1": "Amazon Elastic Block Store",
    }.items():
        link(tmp_path / "class/block" / disk, tmp_path / "devices" / disk)
        (tmp_path / "devices" / disk / "device").mkdir()
        (tmp_path / "devices" / disk / "device/model").write_text(f"{model}     \n")
    link(tmp_path / "devices/dm-0/slaves/nvme0n1p1", tmp_path / "devices/nvme0n1/nvme0n1p1")
    link(tmp_path / "devices/dm-0/slaves/nvme1n1", tmp_path / "devices/nvme1n1")
    (tmp_path / "devices/sdb").mkdir()
    link(tmp_path / "class/block/sdb", tmp_path / "devices/sdb")
    return str(tmp_path)


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("path", "kind", "filesystem", "network", "description"),
    [
        ("/mnt/cluster_storage", "nfs", "nfs4", True, "NFS mount (nfs4)"),
        ("/mnt/cluster_storage/deep/er", "nfs", "nfs4", True, "NFS mount (nfs4)"),
        ("/mnt/user_storage", "nfs", "nfs4", True, "EFS mount (nfs4)"),
        ("/mnt/shared_storage", "nfs", "nfs4", True, "EFS mount (nfs4)"),
        ("/lustre/me", "parallel", "lustre", True, "parallel file system mount (lustre)"),
        ("/buckets/team", "fuse", "fuse.gcsfuse", True, "FUSE mount (fuse.gcsfuse)"),
        ("/mnt/with space\tand\\slash", "tmpfs", "tmpfs", False, "memory file system (tmpfs)"),
        ("/mnt/local_storage", "disk", "xfs", False, "NVMe disk mounted at /mnt/local_storage (xfs)"),
        ("/mnt/other", "disk", "ext4", False, "plain directory on the root disk, NVMe disk (ext4)"),
        ("/bound/x", "disk", "ext4", False, "directory of the root disk, bound to /bound, NVMe disk (ext4)"),
        ("/smb", "unknown", "cifs", True, "SMB mount (cifs)"),
        ("/host", "unknown", "virtiofs", True, "share of the host (virtiofs)"),
        ("/auto/x", "nfs", "nfs", True, "NFS mount (nfs)"),
        ("/odd", "unknown", "brandnewfs", False, "mount of an unknown kind (brandnewfs)"),
        ("/lvm", "disk", "ext4", False, "NVMe disk mounted at /lvm (ext4)"),
        ("/btr", "disk", "btrfs", False, "disk mounted at /btr (btrfs)"),
        ("/ebs", "disk", "ext4", False, "EBS volume mounted at /ebs (ext4)"),
    ],
)
def test_what_a_path_lies_on(
    sysfs: str, path: str, kind: Kind, filesystem: str, network: bool, description: str
) -> None:
    nature = describe(path, TABLE, sysfs=sysfs)
    assert (nature.kind, nature.filesystem, nature.network) == (kind, filesystem, network)
    assert nature.description == description


@pytest.mark.parametrize(
    ("line", "kind", "description"),
    [
        (
            "1 0 0:9 / / rw - overlay overlay rw,lowerdir=/a",
            "overlay",
            "directory on the container's overlay (overlay)",
        ),
        (
            "1 0 0:9 / / rw - fuse.fuse-overlayfs x rw",
            "overlay",
            "directory on the container's overlay (fuse.fuse-overlayfs)",
        ),
        ("1 0 0:9 / / rw - 9p none rw", "unknown", "share of the host (9p)"),
    ],
)
def test_root_of_a_container_is_seen_by_nobody_else(line: str, kind: Kind, description: str) -> None:
    nature = describe("/mnt/cluster_storage", parse_mount_table(line))
    assert (nature.kind, nature.network, nature.description) == (kind, False, description)


def test_mount_is_found_by_whole_segments_and_the_longest_point() -> None:
    found = find_mount("/mnt/cluster_storage2", TABLE)
    assert found is not None
    assert found.mount_point == "/"
    found = find_mount("/mnt/cluster_storage/x", TABLE)
    assert found is not None
    assert found.source == "10.0.0.5:/export"
    assert find_mount("/x", ()) is None
    assert describe("/x", ()).kind == "unknown"


def test_own_mount_table_has_a_root() -> None:
    assert find_mount("/", read_mount_table()) is not None


def test_links_are_followed_up_to_a_network_mount_and_not_into_it(tmp_path: Path) -> None:
    (tmp_path / "nfs").mkdir()
    (tmp_path / "nfs/inside").symlink_to("/elsewhere")
    (tmp_path / "absolute").symlink_to(tmp_path / "nfs")
    (tmp_path / "relative").symlink_to("./absolute/inside")
    (tmp_path / "loop").symlink_to("loop")
    base = str(tmp_path)
    table = parse_mount_table(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {base}/nfs rw - nfs h:/ rw")
    assert resolve_links(f"{base}/absolute/x/../y", table) == f"{base}/nfs/y"
    assert resolve_links(f"{base}/relative", table) == f"{base}/nfs/inside"
    assert resolve_links(f"{base}/relative", table[:1]) == "/elsewhere"
    assert resolve_links(f"{base}/missing/x", table) == f"{base}/missing/x"
    assert resolve_links(f"{base}/loop/x", table).endswith("/x")
