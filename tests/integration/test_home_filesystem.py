"""The home file system on real file systems: atomic files, the reserve on a full disk, the limit on a hung mount."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.fs
import pytest

from ray_anystorage.errors import MountFullError, MountTimeoutError
from ray_anystorage.home.atomic import TEMPORARY_SUFFIX
from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe, mirror_of
from ray_anystorage.home.prepare import prepare_home
from ray_anystorage.home.reserve import RESERVE_BYTES
from ray_anystorage.testing.s3_server import S3Server
from tests.harness.mounts import fuse, tmpfs

SNAPSHOT = "checkpoint_manager_snapshot.json"


def filesystem(root: Path, *, call_timeout: float = 20.0) -> HomeFileSystem:
    return HomeFileSystem(HomeRecipe("cluster", str(root), str(root / "run"), (SNAPSHOT,), call_timeout))


def write(home: HomeFileSystem, name: str, content: bytes) -> None:
    with home.open_output_stream(f"{home.recipe.home}/{name}") as stream:
        stream.write(content)


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.rglob(f"*{TEMPORARY_SUFFIX}")]


def fill(directory: Path) -> None:
    """Take all the space of a small mount."""
    with (directory / "filler").open("wb", buffering=0) as file:
        chunk = 1 << 20
        while chunk:
            try:
                file.write(bytes(chunk))
            except OSError:
                chunk //= 2


def test_ray_takes_it_for_local_and_it_pickles(tmp_path: Path) -> None:
    home = filesystem(tmp_path)
    again = pickle.loads(pickle.dumps(home))
    assert isinstance(again, pyarrow.fs.LocalFileSystem)
    assert again == home == pyarrow.fs.LocalFileSystem()
    assert again.recipe == home.recipe


def test_a_file_appears_whole_with_its_second_copy_and_nothing_else(tmp_path: Path) -> None:
    home = filesystem(tmp_path)
    prepare_home(home)
    stream = home.open_output_stream(f"{home.recipe.home}/{SNAPSHOT}")
    stream.write(b"first ")
    assert not os.path.exists(f"{home.recipe.home}/{SNAPSHOT}")
    stream.write(b"second")
    stream.close()
    assert Path(home.recipe.home, SNAPSHOT).read_bytes() == b"first second"
    assert Path(mirror_of(f"{home.recipe.home}/{SNAPSHOT}")).read_bytes() == b"first second"
    assert leftovers(tmp_path) == []


def test_an_exception_in_the_block_keeps_the_old_content(tmp_path: Path) -> None:
    home = filesystem(tmp_path)
    prepare_home(home)
    write(home, SNAPSHOT, b"old")

    def interrupted() -> None:
        with home.open_output_stream(f"{home.recipe.home}/{SNAPSHOT}") as stream:
            stream.write(b"half")
            raise KeyError("interrupted")

    with pytest.raises(KeyError):
        interrupted()
    assert Path(home.recipe.home, SNAPSHOT).read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_a_full_home_goes_on_with_its_reserve_then_ends_clearly_and_recovers(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", size="8m") as root:
        home = filesystem(root)
        prepare_home(home)
        write(home, SNAPSHOT, b"before")
        fill(root)
        write(home, SNAPSHOT, b"x" * 100_000)
        assert Path(home.recipe.home, SNAPSHOT).read_bytes() == b"x" * 100_000, "the reserve was not given up"
        assert not home.reserve.held()
        fill(root)
        with pytest.raises(MountFullError) as raised:
            write(home, SNAPSHOT, b"y" * 200_000)
        for words in ("cluster", str(root), SNAPSHOT, "num_to_keep"):
            assert words in str(raised.value)
        assert Path(home.recipe.home, SNAPSHOT).read_bytes() == b"x" * 100_000, "a failed write left a torn file"
        assert leftovers(root) == []
        (root / "filler").unlink()
        prepare_home(home)
        assert home.reserve.held()
        write(home, SNAPSHOT, b"after")
        assert Path(home.recipe.home, SNAPSHOT).read_bytes() == b"after"


def test_the_reserve_frees_an_inode_too(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "few", size="16m", inodes=9) as root:
        home = filesystem(root)
        prepare_home(home)
        taken = 0
        while True:
            try:
                (root / f"taken{taken}").touch()
            except OSError:
                break
            taken += 1
        write(home, SNAPSHOT, b"through")
        assert Path(home.recipe.home, SNAPSHOT).read_bytes() == b"through"


def test_a_reserve_is_no_condition(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "tiny", size="256k") as root:
        home = filesystem(root)
        assert RESERVE_BYTES > 256 << 10
        prepare_home(home)
        assert not home.reserve.held()
        write(home, SNAPSHOT, b"small")
        assert Path(home.recipe.home, SNAPSHOT).read_bytes() == b"small"


def test_deleting_and_listing_are_those_of_pyarrow(tmp_path: Path) -> None:
    home = filesystem(tmp_path)
    prepare_home(home)
    home.create_dir(f"{home.recipe.home}/checkpoint_1")
    write(home, "checkpoint_1/data", b"1")
    home.move(f"{home.recipe.home}/checkpoint_1/data", f"{home.recipe.home}/checkpoint_1/moved")
    assert home.open_input_stream(f"{home.recipe.home}/checkpoint_1/moved").read() == b"1"
    home.delete_dir(f"{home.recipe.home}/checkpoint_1")
    assert home.get_file_info(f"{home.recipe.home}/checkpoint_1").type == pyarrow.fs.FileType.NotFound
    with pytest.raises(OSError, match="checkpoint_1"):
        home.delete_dir(f"{home.recipe.home}/checkpoint_1")


def test_a_hung_mount_is_an_error_within_the_limit(tmp_path: Path, s3_server: S3Server) -> None:
    with fuse(s3_server, tmp_path / "fuse") as mount:
        home = filesystem(mount.directory, call_timeout=3.0)
        prepare_home(filesystem(mount.directory))
        mount.hang()
        start = time.monotonic()
        with pytest.raises(MountTimeoutError, match="3 s") as raised:
            write(home, SNAPSHOT, b"lost")
        assert time.monotonic() - start < 15
        assert isinstance(raised.value, TimeoutError)
        assert str(mount.directory) in str(raised.value)
        mount.resume()


def test_a_mount_that_hangs_during_a_write_lets_go_in_time_and_what_wakes_up_later_changes_nothing(
    tmp_path: Path, s3_server: S3Server
) -> None:
    with fuse(s3_server, tmp_path / "fuse") as mount:
        home = filesystem(mount.directory, call_timeout=3.0)
        prepare_home(filesystem(mount.directory))
        write(home, SNAPSHOT, b"old")
        stream = home.open_output_stream(f"{home.recipe.home}/{SNAPSHOT}")
        stream.write(b"late")
        mount.hang()
        start = time.monotonic()
        with pytest.raises(MountTimeoutError), stream:
            stream.close()
        assert time.monotonic() - start < 15
        mount.resume()
        write(home, SNAPSHOT, b"newer")
        _wait_for_threads("anystorage write")
        assert Path(home.recipe.home, SNAPSHOT).read_bytes() == b"newer"


def _wait_for_threads(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name.startswith(name):
            thread.join(20)
            assert not thread.is_alive()


def test_a_stream_that_nobody_closed_changes_nothing(tmp_path: Path) -> None:
    home = filesystem(tmp_path)
    prepare_home(home)
    write(home, SNAPSHOT, b"old")
    stream = home.open_output_stream(f"{home.recipe.home}/{SNAPSHOT}")
    stream.write(b"h" * (2 << 20))
    del stream
    gc.collect()
    assert Path(home.recipe.home, SNAPSHOT).read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_small_writes_are_gathered_and_compressed_files_read_back(tmp_path: Path) -> None:
    home = filesystem(tmp_path)
    prepare_home(home)
    with home.open_output_stream(f"{home.recipe.home}/many") as stream:
        for number in range(50_000):
            stream.write(f"{number:08d}".encode())
    assert Path(home.recipe.home, "many").read_bytes() == b"".join(f"{n:08d}".encode() for n in range(50_000))
    write(home, "state.json.gz", b"text")
    assert home.open_input_stream(f"{home.recipe.home}/state.json.gz").read() == b"text"


def test_a_reserve_that_a_crash_left_short_is_filled(tmp_path: Path) -> None:
    home = filesystem(tmp_path)
    prepare_home(home)
    reserve = Path(home.recipe.home, ".anystorage", "reserve")
    reserve.write_bytes(b"short")
    prepare_home(home)
    assert reserve.stat().st_size == RESERVE_BYTES


WRITER = """
import sys
from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe
home = HomeFileSystem(HomeRecipe("cluster", sys.argv[1], sys.argv[1] + "/run", (sys.argv[2],), 20.0))
number = 0
while True:
    number += 1
    with home.open_output_stream(f"{home.recipe.home}/{sys.argv[2]}") as stream:
        stream.write(f"{number:08d}".encode() * 5000)
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_the_old_or_the_new_file_and_the_sweep_removes_the_rest(tmp_path: Path) -> None:
    home = filesystem(tmp_path)
    prepare_home(home)
    path = Path(home.recipe.home, SNAPSHOT)
    for round_ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), SNAPSHOT], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            for _ in range(10 + 7 * round_):
                assert writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
        for file in (path, Path(mirror_of(str(path)))):
            content = file.read_bytes()
            assert len(content) == 8 * 5000
            assert len({content[i : i + 8] for i in range(0, len(content), 8)}) == 1, "a mix of two writes"
    old = time.time() - 3600
    for name in leftovers(tmp_path):
        os.utime(next(tmp_path.rglob(name)), (old, old))
    prepare_home(home)
    assert leftovers(tmp_path) == []
    shutil.rmtree(tmp_path / "run")
