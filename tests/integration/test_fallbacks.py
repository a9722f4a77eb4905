"""A place that is full, stalls or fails: the data goes to the other one, loudly, and comes back right."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from click.testing import CliRunner
from ray import cloudpickle
from ray.train import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.checkpoint.manifest import FOLDER, POINTER, Manifest
from ray_anystorage.checkpoint.read import commit, read_contents
from ray_anystorage.checkpoint.record import RECORD
from ray_anystorage.checkpoint.restore import Sources, fetch, verify_in_place
from ray_anystorage.checkpoint.save import Part, save
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.checkpoint.tree import scan
from ray_anystorage.cli.main import main
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress
from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe
from ray_anystorage.home.prepare import prepare_home
from ray_anystorage.home.store import HomeStore
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer import disk
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.retry import Patience
from ray_anystorage.transfer.s3_store import S3Store
from ray_anystorage.transfer.store import Store
from tests.harness.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.harness.mounts import fuse, tmpfs
from tests.harness.ray_cluster import RayCluster, leave_clean
from tests.harness.run_homes import Site, site
from tests.harness.waiting import wait_until

__all__ = ["site"]
cloudpickle.register_pickle_by_value(sys.modules[__name__])

NAME = "checkpoint_1"
IMPATIENT = Patience(first_delay=0.001, longest_delay=0.01, attempts=3)
THRESHOLD = 1 << 30


def home_on(root: Path, *, call_timeout: float = 20.0) -> HomeStore:
    """A run home on a mount, made ready."""
    home = HomeFileSystem(HomeRecipe("cluster", str(root), str(root / "run"), (), call_timeout))
    prepare_home(home)
    return HomeStore(home)


@dataclass(slots=True)
class Bucket:
    """The folder of a bucket that a run spills to, behind a proxy, and with other keys than the full ones if said."""

    address: BucketAddress
    proxy: FaultyProxy
    server: S3Server

    def store(self, *, readonly: bool = False) -> S3Store:
        """The folder, open."""
        server = self.server
        key, secret = (
            (server.readonly_access_key, server.readonly_secret_key)
            if readonly
            else (server.access_key, server.secret_key)
        )
        keys = Secrets({"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret})
        return S3Store(self.address, Grant("env", "the test's keys", "test", (), keys))

    def at(self, uri: str) -> Store:
        """A folder of the bucket."""
        return self.store().moved(replace(self.address, prefix=uri.removeprefix(f"s3://{self.address.bucket}/")))


@pytest.fixture
def spilled(s3_server: S3Server, bucket: str) -> Iterator[Bucket]:
    with faulty_proxy(s3_server.endpoint) as proxy:
        yield Bucket(BucketAddress("s3", bucket, "spilled/run-1", s3_server.region, proxy.endpoint), proxy, s3_server)


def source_of(folder: Path, sizes: dict[str, int]) -> Path:
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(size))
    return folder


def saved(saver: Saver, source: Path) -> Manifest:
    return saver.save(str(source), Part(NAME, "a1", 0, 1))


def assert_restored(home: Store, bucket: Bucket, source: Path, target: Path) -> None:
    commit(home, NAME, "a1")
    fetch(Sources(home, bucket.at), read_contents(home, NAME), str(target))
    names = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert {path.relative_to(target) for path in target.rglob("*") if path.is_file()} == names
    assert all((source / name).read_bytes() == (target / name).read_bytes() for name in names)


def assert_detour(manifest: Manifest, log: pytest.LogCaptureFixture, location: str | None, *words: str) -> None:
    """The manifest says why its data is elsewhere, and a warning said it when it was saved."""
    assert manifest.location == location
    assert manifest.detour is not None
    warned = " ".join(r.getMessage() for r in log.records if r.levelno >= logging.WARNING)
    for word in words:
        assert word in manifest.detour
        assert word in warned


def data_in(home: HomeStore) -> set[str]:
    """What lies in the checkpoint's folder beside this package's own notes."""
    return {path.name for path in Path(home.root, NAME).iterdir()} - {FOLDER, POINTER}


# --- the mount is full ----------------------------------------------------------------------------


def test_a_full_mount_sends_the_data_to_the_bucket(
    tmp_path: Path, spilled: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    with tmpfs(tmp_path / "small", size="8m") as root:
        home = home_on(root)
        (root / "of-others").write_bytes(bytes(5 << 20))
        source = source_of(tmp_path / "source", {"model.bin": 3 << 20, "sub/x": 10})
        manifest = saved(Saver(home=home, threshold=THRESHOLD, spill=spilled.store), source)
        assert_detour(manifest, caplog, f"{spilled.address.uri}/{NAME}", "would not fit", "that are free")
        assert data_in(home) == set()
        assert_restored(home, spilled, source, tmp_path / "back")


def test_a_mount_that_fills_up_meanwhile_gives_back_what_it_took(
    tmp_path: Path, spilled: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    with tmpfs(tmp_path / "small", size="32m", inodes=40) as root:  # bytes are free, so that nothing warns before
        home = home_on(root)
        source = source_of(tmp_path / "source", {f"shard-{i}": 1000 for i in range(60)})
        manifest = saved(Saver(home=home, threshold=THRESHOLD, spill=spilled.store), source)
        assert_detour(manifest, caplog, f"{spilled.address.uri}/{NAME}", "the run home failed", "no space left")
        assert data_in(home) == set()
        assert_restored(home, spilled, source, tmp_path / "back")


# --- the mount stalls -----------------------------------------------------------------------------


@contextlib.contextmanager
def no_thread_stays() -> Iterator[None]:
    """None of the package's but those that were there before: other tests of this process have theirs."""
    before = set(threading.enumerate())
    yield
    ours = [t for t in threading.enumerate() if t.name.startswith("anystorage") and t not in before]
    for thread in ours:
        thread.join(timeout=60)
    assert [thread.name for thread in ours if thread.is_alive()] == []


def test_a_mount_that_stalls_in_the_middle_of_the_data_is_left_for_the_bucket(
    tmp_path: Path, spilled: Bucket, s3_server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(tmp_path / "source", {f"shard-{i:03}": 300_000 for i in range(150)})
    with fuse(s3_server, tmp_path / "fuse") as mount, no_thread_stays():
        home = home_on(mount.directory, call_timeout=4.0)
        folder = Path(home.root, NAME)

        def wake(method: str, path: str) -> Fault | None:
            """The mount is back when the bucket hears of the data: the manifest still goes there."""
            mount.resume()
            return None

        spilled.proxy.rule = wake

        def hang() -> None:
            wait_until(lambda: list(folder.glob("shard-*")), 60, "the first of the data is on the mount")
            mount.hang()

        stops = threading.Thread(target=hang)
        stops.start()
        try:
            manifest = saved(Saver(home=home, threshold=THRESHOLD, spill=spilled.store), source)
        finally:
            stops.join()
            mount.resume()
        assert_detour(manifest, caplog, f"{spilled.address.uri}/{NAME}", "the run home failed", "moved no bytes")
        assert_restored(home, spilled, source, tmp_path / "back")


def test_a_mount_that_drains_slowly_is_not_taken_for_one_that_stalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no slow disk here: each step of the kernel's writing takes as long as it would on one."""
    source = source_of(tmp_path / "source", {"large.bin": 6 * disk._WRITE_BACK_BYTES})
    home, steps, write = home_on(tmp_path / "mount", call_timeout=4.0), 0, disk._sync_range

    def slowly(descriptor: int, offset: int, size: int, flags: int) -> int:
        nonlocal steps
        if flags == disk._SYNC_FILE_RANGE_WAITING:
            steps += 1
            time.sleep(0.8)  # six of them take longer than a call may
        return write(descriptor, offset, size, flags)

    monkeypatch.setattr(disk, "_sync_range", slowly)
    saved(Saver(home=home, threshold=THRESHOLD), source)
    assert steps == 6


def test_what_a_slow_disk_failed_to_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int, offset: int, size: int, flags: int) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    monkeypatch.setattr(disk, "_sync_range", fails)
    store = PosixStore(str(tmp_path))
    upload = store.begin("large", 3 * CHUNK_BYTES)
    upload.part(0, 0, bytes(3 * CHUNK_BYTES))
    with pytest.raises(OSError, match="Input/output error"):
        upload.commit()
    upload.abort()
    assert os.listdir(tmp_path) == []


def test_a_damaged_record_of_the_last_checkpoint_keeps_nobody_from_saving(
    tmp_path: Path, spilled: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(tmp_path / "source", {"a.bin": 100})
    home = home_on(tmp_path / "mount")
    saver = Saver(home=home, threshold=THRESHOLD, spill=spilled.store)
    saved(saver, source)
    commit(home, NAME, "a1")
    record = Path(home.root, NAME, FOLDER, RECORD)
    record.write_bytes(b"torn" + record.read_bytes()[4:])
    saver.save(str(source), Part("checkpoint_2", "a1", 0, 1))
    assert "cannot be read" in caplog.text


def test_reading_a_mount_that_hangs_ends_within_its_limit(tmp_path: Path, s3_server: S3Server) -> None:
    source = source_of(tmp_path / "source", {"a.bin": 100_000, "b.bin": 100_000})
    with fuse(s3_server, tmp_path / "fuse") as mount, no_thread_stays():
        home = home_on(mount.directory, call_timeout=3.0)
        save(home, scan(str(source)), Part(NAME, "a1", 0, 1))
        commit(home, NAME, "a1")
        contents = read_contents(home, NAME)
        folder = f"{home.root}/{NAME}"
        verify_in_place(contents, folder, home=home)
        mount.hang()
        try:
            with pytest.raises(errors.MountTimeoutError, match="moved no bytes"):
                verify_in_place(contents, folder, home=home)
            with pytest.raises(errors.MountTimeoutError, match="moved no bytes"):
                fetch(Sources(home, lambda uri: home), contents, str(tmp_path / "back"))
        finally:
            mount.resume()


def test_verify_says_of_a_mount_that_hangs_in_the_middle_that_it_cannot_be_read(
    site: Site, s3_server: S3Server, tmp_path: Path
) -> None:
    site.environment.setenv("RAY_ANYSTORAGE_CALL_TIMEOUT", "4")
    site.cluster.rmdir()
    with faulty_proxy(s3_server.endpoint) as proxy, fuse(s3_server, site.cluster) as mount:
        site.environment.setenv("RAY_ANYSTORAGE_ENDPOINT", proxy.endpoint)
        home = site.on_mount()
        for rank, spill in ((0, home.spill), (1, None)):  # verified in this order
            source = source_of(tmp_path / f"source-{rank}", {f"rank-{rank}.bin": 100_000})
            save(home.store, scan(str(source)), Part(NAME, "a1", rank, 2), spill=spill)
        commit(home.store, NAME, "a1")
        home.snapshot(NAME)
        hung = threading.Event()

        def hang_at_the_data(method: str, path: str) -> Fault | None:
            if method == "GET" and "rank-0.bin" in path and not hung.is_set():
                hung.set()
                mount.hang()
            return None

        proxy.rule = hang_at_the_data
        try:
            done = CliRunner().invoke(main, ["verify", home.store.uri, "--json"])
        finally:
            mount.resume()
        assert hung.is_set()
        assert done.exit_code == 1, done.output
        (finding,) = json.loads(done.stdout)["checkpoints"]
        assert finding["state"] == "not readable"
        assert "moved no bytes for 4 s" in finding["reason"]
        assert finding["mark"] is None, "a mount that hangs says nothing about the data"
        again = CliRunner().invoke(main, ["verify", home.store.uri, "--json"])
        assert (again.exit_code, json.loads(again.stdout)["totals"]["ok"]) == (0, 1), again.output


# --- the bucket fails -----------------------------------------------------------------------------


def test_a_bucket_that_fails_sends_the_data_to_the_mount(
    tmp_path: Path, spilled: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    home = home_on(tmp_path)
    source = source_of(tmp_path / "source", {"model.bin": 9 << 20, "x": 10})
    spilled.proxy.rule = lambda method, path: "503"
    saver = Saver(home=home, threshold=1 << 20, spill=spilled.store, patience=IMPATIENT)
    manifest = saved(saver, source)
    assert_detour(manifest, caplog, None, "the bucket failed", "SlowDown", "given up after 3 attempts")
    assert_restored(home, spilled, source, tmp_path / "back")


@pytest.mark.parametrize("size", [3 << 20, 20 << 20])
def test_a_bucket_that_refuses_sends_the_data_to_the_mount_where_it_fits(
    tmp_path: Path, spilled: Bucket, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    source = source_of(tmp_path / "source", {"model.bin": size})
    with tmpfs(tmp_path / "small", size="16m") as root:
        home = home_on(root)
        saver = Saver(home=home, threshold=1 << 20, spill=lambda: spilled.store(readonly=True))
        if size > 16 << 20:
            with pytest.raises(errors.BucketPermissionError, match="s3:PutObject"):
                saved(saver, source)
            others = "ray_anystorage.credentials"  # threads of other tests of this process may say something
            assert not [record for record in caplog.records if not record.name.startswith(others)]
        else:
            manifest = saved(saver, source)
            assert_detour(manifest, caplog, None, "the bucket failed", "do not allow")
            assert_restored(home, spilled, source, tmp_path / "back")


# --- through Ray ----------------------------------------------------------------------------------


@pytest.fixture
def driver(ray_cluster: RayCluster) -> Iterator[None]:
    """Connect this process to the session's cluster."""
    ray.init(ray_cluster.address, logging_level=logging.WARNING)
    yield
    ray.shutdown()


def train(config: dict[str, Any]) -> None:
    """Save number after number, each with two megabytes, from the last one on."""
    start, checkpoint = 0, ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as directory:
            start = int(Path(directory, "number").read_text())
            assert Path(directory, "weights").read_bytes() == bytes([start]) * (2 << 20)
    for number in range(start + 1, config["until"] + 1):
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "number").write_text(str(number))
            Path(directory, "weights").write_bytes(bytes([number]) * (2 << 20))
            ray.train.report(
                {"number": number, "from": start}, checkpoint=ray.train.Checkpoint.from_directory(directory)
            )


def fit(name: str, until: int) -> ray.train.Result:
    return DataParallelTrainer(
        train,
        train_loop_config={"until": until},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=anystorage.run_config(name, credentials="env"),
    ).fit()


@pytest.mark.needs_ray
def test_a_run_whose_mount_fills_up_trains_on_with_its_data_in_the_bucket(
    driver: None, s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_clean(monkeypatch)
    with tmpfs(tmp_path / "small", size="8m") as root:
        settings = {"CLUSTER_STORAGE": str(root), "LOCAL_STORAGE": str(tmp_path / "none")}
        settings |= {"ARTIFACT_STORAGE": f"s3://{bucket}/artifacts", "ENDPOINT": s3_server.endpoint}
        settings |= {"REGION": s3_server.region, "CACHE_SHARE": "0"}
        for name, value in settings.items():
            monkeypatch.setenv(f"RAY_ANYSTORAGE_{name}", value)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert fit("fills", until=5).metrics == {"number": 5, "from": 0}
        resumed = fit("fills", until=6)
        assert resumed.metrics == {"number": 6, "from": 5}
        done = CliRunner().invoke(main, ["verify", str(root / "fills"), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    inline = [finding for finding in found["checkpoints"] if not finding["places"][0].startswith("s3://")]
    assert 1 <= len(inline) <= 3, "the mount has room for three at most"
    assert found["totals"]["detours"] == 6 - len(inline)
    assert not any(finding["detours"] for finding in inline)
