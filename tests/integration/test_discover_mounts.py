"""``discover()`` on real mounts in every state that a mount gets into."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from ray_anystorage.discovery.discover import discover
from ray_anystorage.discovery.homes import find_mount_homes
from ray_anystorage.discovery.mounts import look_at_mount
from ray_anystorage.discovery.probe import bounded, probe_directory
from ray_anystorage.environment import Environment, Location, Place, RunHome, Tier
from ray_anystorage.errors import (
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
from ray_anystorage.testing.s3_server import S3Server
from tests.harness.mounts import FuseMount, cannot, fuse, read_only, tmpfs

LIMIT = 2.0  # seconds that a tier gets in these tests


def look(root: Path, tier: Tier = "cluster", timeout: float = LIMIT) -> Place:
    return look_at_mount(Location(tier, str(root), f"argument {tier}_storage", True), timeout)


def failure(place: Place) -> StorageError:
    """The error of a failed place, after checking that it says what every one of them must say."""
    assert place.state == "failed"
    assert place.problem is not None
    error = place.problem.error()
    assert error.tier == place.tier
    assert error.place == place.root
    assert place.root in error.tried
    assert f"RAY_ANYSTORAGE_{place.tier.upper()}_STORAGE" in error.remedy
    assert str(error).startswith(f"{place.tier} storage {place.root}: ")
    return error


@pytest.fixture
def fuse_mount(s3_server: S3Server, tmp_path: Path) -> Iterator[FuseMount]:
    with fuse(s3_server, tmp_path / "fuse") as mount:
        yield mount


def test_plain_directory_is_usable_and_nothing_stays_behind(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    place = look(tmp_path)
    assert place.usable
    assert place.problem is None
    assert not place.network
    numbers = os.statvfs(tmp_path)
    assert place.space is not None
    assert place.space.total_bytes == numbers.f_blocks * numbers.f_frsize
    assert place.space.free_bytes == pytest.approx(numbers.f_bavail * numbers.f_frsize, rel=0.1)
    assert os.listdir(tmp_path) == ["mine"]


def test_tmpfs_is_named_and_measured(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "memory", size="8m", inodes=100) as root:
        place = look(root)
        assert place.usable
        assert (place.kind, place.filesystem, place.network) == ("tmpfs", "tmpfs", False)
        assert place.description == "memory file system (tmpfs)"
        assert place.space is not None
        assert (place.space.free_bytes, place.space.total_bytes) == (8 * 2**20, 8 * 2**20)
        assert (place.space.free_inodes, place.space.total_inodes) == (99, 100)
        assert os.listdir(root) == []


def test_read_only_mount(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with read_only(source, tmp_path / "mount") as root:
        error = failure(look(root))
        assert type(error) is MountReadOnlyError
        assert error.errno == errno.EROFS
        assert "read-only" in error.reason
        assert "probe file" in error.tried
    assert os.listdir(source) == []


def test_full_mount(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "full", size="8m") as root:
        fill(root)
        before = sorted(os.listdir(root))
        place = look(root)
        error = failure(place)
        assert type(error) is MountFullError
        assert "0 B of 8.39 MB free" in error.reason
        assert place.space is not None
        assert place.space.free_bytes == 0
        assert sorted(os.listdir(root)) == before


def test_mount_with_room_for_less_than_the_probe_is_left_as_it_was(tmp_path: Path) -> None:
    """The probe's file can be created here and its bytes cannot be written: it must be deleted again."""
    with tmpfs(tmp_path / "full", size="8m") as root:
        fill(root)
        with pytest.raises(OSError, match="No space left") as caught:
            probe_directory(str(root))
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(root) == ["filling"]


def test_mount_without_inodes(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "inodes", size="8m", inodes=4) as root:
        for number in range(3):  # the fourth is the root directory's
            (root / str(number)).touch()
        place = look(root)
        error = failure(place)
        assert type(error) is NoInodesError
        assert isinstance(error, MountFullError)
        assert "inode" in error.reason
        assert place.space is not None
        assert (place.space.free_inodes, place.space.total_inodes) == (0, 4)
        assert sorted(os.listdir(root)) == ["0", "1", "2"]


def test_file_where_the_mount_should_be(tmp_path: Path) -> None:
    file = tmp_path / "mount"
    file.write_text("kept")
    error = failure(look(file))
    assert type(error) is NotADirectoryAtMountError
    assert isinstance(error, NotADirectoryError)
    assert file.read_text() == "kept"
    assert type(failure(look(file / "below"))) is NotADirectoryAtMountError


def test_said_root_that_is_missing_fails_and_a_default_one_is_absent(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    error = failure(look(missing))
    assert type(error) is MountMissingError
    assert isinstance(error, FileNotFoundError)
    place = look_at_mount(Location("cluster", str(missing), "default mount", False), LIMIT)
    assert place.state == "absent"
    assert place.problem is None
    assert str(missing) in place.description
    assert os.listdir(tmp_path) == []


def test_directory_of_another_user() -> None:
    if os.geteuid() != 0:
        cannot("taking another user's place needs root")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        os.seteuid(65534)
        try:
            error = failure(look(Path(directory)))
        finally:
            os.seteuid(0)
        assert type(error) is MountPermissionError
        assert "uid 65534" in error.reason
        assert os.listdir(directory) == []


def test_local_tier_falls_back_to_the_home_directory_without_making_anything(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    fallback = home / "deeper" / "ray_results"
    missing = tmp_path / "local_storage"
    place = look_at_mount(Location("local", str(missing), "default mount", False), LIMIT, fallback=str(fallback))
    assert place.usable
    assert place.location == Location("local", str(fallback), "root disk (fallback)", False)
    assert place.description.endswith(f"as there is no mount at {missing}")
    assert list(home.iterdir()) == []
    said = look_at_mount(Location("local", str(missing), "argument local_storage", True), LIMIT, fallback=str(fallback))
    assert type(failure(said)) is MountMissingError


def test_working_fuse_mount(fuse_mount: FuseMount) -> None:
    place = look(fuse_mount.directory, timeout=10)
    assert place.usable
    assert (place.kind, place.filesystem, place.network) == ("fuse", "fuse.seaweedfs", True)
    assert place.description == "FUSE mount (fuse.seaweedfs)"
    assert os.listdir(fuse_mount.directory) == []


def test_link_to_a_mount_is_named_after_the_mount(fuse_mount: FuseMount, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(fuse_mount.directory)
    assert look(link, timeout=10).filesystem == "fuse.seaweedfs"
    fuse_mount.hang()
    place = look(link)
    assert type(failure(place)) is MountTimeoutError
    assert place.filesystem == "fuse.seaweedfs"


def test_dead_fuse_mount(fuse_mount: FuseMount) -> None:
    fuse_mount.die()
    place = look(fuse_mount.directory)
    error = failure(place)
    assert type(error) is MountDeadError
    assert error.errno == errno.ENOTCONN
    assert isinstance(error, ConnectionError)
    assert place.description == "FUSE mount (fuse.seaweedfs)"


def test_hung_mount_costs_one_limit_even_for_three_tiers(fuse_mount: FuseMount, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    hung = str(fuse_mount.directory)
    fuse_mount.hang()
    started = time.monotonic()
    environment = discover(
        local_storage=str(good), cluster_storage=hung, user_storage=hung, shared_storage=hung, timeout=LIMIT, environ={}
    )
    elapsed = time.monotonic() - started
    assert LIMIT <= elapsed < 3 * LIMIT, "the tiers waited one after another"
    assert states(environment) == ["usable", "failed", "failed", "failed", "absent"]
    for place in environment.places[1:4]:
        error = failure(place)
        assert type(error) is MountTimeoutError
        assert isinstance(error, TimeoutError)
        assert "does not answer" in error.reason
        assert "2 s" in error.tried
        assert place.description == "FUSE mount (fuse.seaweedfs)"


def test_mount_that_comes_back_is_left_clean_and_its_threads_end(fuse_mount: FuseMount) -> None:
    fuse_mount.hang()
    assert look(fuse_mount.directory).state == "failed"
    stuck = [thread for thread in threading.enumerate() if str(fuse_mount.directory) in thread.name]
    assert stuck
    assert all(thread.daemon for thread in stuck)
    fuse_mount.resume()
    for thread in stuck:
        thread.join(20)
        assert not thread.is_alive()
    assert os.listdir(fuse_mount.directory) == []
    assert look(fuse_mount.directory, timeout=10).usable


def test_hung_mount_does_not_keep_the_interpreter_from_exiting(fuse_mount: FuseMount) -> None:
    fuse_mount.hang()
    script = (
        "import json, sys, time; from ray_anystorage.discovery.discover import discover\n"
        "started = time.monotonic()\n"
        f"found = discover(cluster_storage={str(fuse_mount.directory)!r}, timeout={LIMIT})\n"
        "problem = found.place('cluster').problem.error_type.__name__\n"
        "print(json.dumps({'took': time.monotonic() - started, 'problem': problem, 'left': time.time()}), flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    ended = time.time()
    said = json.loads(done.stdout)
    assert said["problem"] == "MountTimeoutError"
    assert said["took"] < 3 * LIMIT
    assert ended - said["left"] < 15
    assert done.stderr == ""


def test_runs_of_a_name_are_found_on_a_real_mount_and_a_hang_is_an_error(fuse_mount: FuseMount) -> None:
    root = fuse_mount.directory
    (root / "run").mkdir()
    (root / "run" / "tuner.pkl").touch()
    place = look(root, timeout=10)
    assert find_mount_homes("run", [place], 10) == (RunHome("run", "cluster", str(root / "run"), is_run=True),)
    fuse_mount.hang()
    with pytest.raises(MountTimeoutError, match="does not answer"):
        find_mount_homes("run", [place], LIMIT)


def test_bounded_gives_up_on_a_call_that_the_kernel_holds(fuse_mount: FuseMount) -> None:
    fuse_mount.hang()
    with pytest.raises(TimeoutError, match=r"look: no answer within 0\.5 s"):
        bounded(lambda: os.stat(fuse_mount.directory / "x"), 0.5, what="look")


def states(environment: Environment) -> list[str]:
    return [place.state for place in environment.places]


def fill(root: Path) -> None:
    with open(root / "filling", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        write_for_ever(file)


def write_for_ever(file: FileIO) -> None:
    while True:
        file.write(bytes(2**20))
