"""Saves that were killed and are made again: what the store has is not sent twice, and nothing else is taken for it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from ray_anystorage.checkpoint.journal import Journal
from ray_anystorage.checkpoint.node import Node
from ray_anystorage.checkpoint.read import commit, read_contents
from ray_anystorage.checkpoint.restore import Sources, fetch
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress
from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe
from ray_anystorage.home.store import HomeStore
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer import s3_store, s3_upload
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.files import Stored
from ray_anystorage.transfer.object_store import LEAST_COPIED
from ray_anystorage.transfer.s3_store import S3Store
from ray_anystorage.transfer.store import Store
from tests.harness.faulty_proxy import faulty_proxy
from tests.harness.mounts import free_bytes, reflinking, tmpfs
from tests.harness.ray_cluster import RayCluster

SPAWN = multiprocessing.get_context("spawn")
LARGE, SMALL, FILES, NOTED = CHUNK_BYTES + 17, LEAST_COPIED, 10, 8


class Interrupted(BaseException):
    """Ends a save in the middle."""


class Ending(Journal):
    """A journal that ends the save once it has noted so many files."""

    left = NOTED

    def note(self, place: str, checkpoint: str, stored: Stored) -> None:
        super().note(place, checkpoint, stored)
        self.left -= 1
        if self.left == 0:
            self.end()

    def end(self) -> None:
        """End it as an exception does."""
        raise Interrupted


class Dying(Ending):
    """One whose process is killed instead."""

    def end(self) -> None:
        """End it as nobody sees coming."""
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where a child finds the bucket, with its keys: it gets this over a pipe."""

    name: str
    endpoint: str
    region: str
    keys: tuple[tuple[str, str], ...]

    def store(self, prefix: str = "run") -> S3Store:
        """A folder; its counters are at 0."""
        return connected(self).moved(BucketAddress("s3", self.name, prefix, self.region, self.endpoint))


@cache
def connected(bucket: Bucket) -> S3Store:
    """The connections of a bucket, which cost more than all that a test sends."""
    address = BucketAddress("s3", bucket.name, "", bucket.region, bucket.endpoint)
    return S3Store(address, Grant("env", "the test's keys", "test", (), Secrets(dict(bucket.keys))))


@dataclass(frozen=True, slots=True)
class Site:
    """A run home on a mount, whose data lies there too or is spilled to a bucket."""

    root: Path
    bucket: Bucket | None

    @property
    def home(self) -> HomeStore:
        """The run home."""
        return HomeStore(HomeFileSystem(HomeRecipe("cluster", str(self.root), str(self.root / "run"), (), 20.0)))

    def data(self) -> Store:
        """The store of the data, with counters at 0."""
        return self.home if self.bucket is None else self.bucket.store()

    def journal(self, rank: int = 0) -> Journal:
        """The journal of a process that begins now."""
        return Journal(str(self.root / "journals"), "run", rank)

    def noted(self) -> dict[str, Stored]:
        """What the journals of this node hold, by key."""
        journal = self.journal(rank=99)
        with journal.writing():
            return {stored.key: stored for stored in journal.known(self.data().uri)}

    def save(
        self, source: Path, checkpoint: str, *, attempt: str = "a2", rank: int = 0, journal: Journal | None = None
    ) -> int:
        """Save as a process that begins now; returns the bytes of data that a bucket was sent."""
        data = self.data()
        spill = None if self.bucket is None else lambda: data
        saver = Saver(home=self.home, threshold=0, spill=spill, journal=journal or self.journal(rank))
        saver.save(str(source), Part(checkpoint, attempt, rank, 1))
        return data.counters.bytes_sent

    def killed_save(self, source: Path, checkpoint: str) -> dict[str, Stored]:
        """Save in a process that is killed in the middle; returns what was noted by then, by key."""
        process: BaseProcess = SPAWN.Process(target=_save_and_die, args=(self, source, checkpoint))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(self.noted()) == NOTED
        return self.noted()

    def interrupted_save(self, source: Path, checkpoint: str) -> dict[str, Stored]:
        """Save, and be interrupted in the middle; returns what was noted by then, by key."""
        with pytest.raises(Interrupted):
            self.save(source, checkpoint, attempt="a1", journal=Ending(str(self.root / "journals"), "run", 0))
        assert len(self.noted()) >= NOTED
        return self.noted()

    def restored(self, checkpoint: str, target: Path) -> dict[str, bytes]:
        """Commit and fetch a checkpoint."""
        commit(self.home, checkpoint, "a2")
        sources = Sources(self.home, lambda uri: self.data_folder(uri))
        fetch(sources, read_contents(self.home, checkpoint), str(target))
        return content(target)

    def data_folder(self, uri: str) -> Store:
        """The folder of the bucket that a manifest names."""
        assert self.bucket is not None
        return self.bucket.store(uri.partition(f"{self.bucket.name}/")[2])


def _save_and_die(site: Site, source: Path, checkpoint: str) -> None:
    site.save(source, checkpoint, attempt="a1", journal=Dying(str(site.root / "journals"), "run", 0))


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def size(files: Iterable[Stored]) -> int:
    return sum(stored.size for stored in files)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten files of random bytes, one of which takes several parts."""
    root = tmp_path / "source"
    (root / "sub").mkdir(parents=True)
    for number in range(FILES):
        (root / "sub" / str(number)).write_bytes(os.urandom(SMALL + number // 5 if number else LARGE))
    return root


@pytest.fixture
def on_mount(tmp_path: Path) -> Site:
    return Site(tmp_path, None)


@pytest.fixture
def spilling(tmp_path: Path, s3_server: S3Server, bucket: str) -> Site:
    keys = (("AWS_ACCESS_KEY_ID", s3_server.access_key), ("AWS_SECRET_ACCESS_KEY", s3_server.secret_key))
    return Site(tmp_path, Bucket(bucket, s3_server.endpoint, s3_server.region, keys))


@pytest.fixture
def cloning(tmp_path: Path) -> Iterator[Path]:
    """A mount whose files can share blocks."""
    with reflinking(tmp_path / "cloning") as directory:
        yield directory


@pytest.mark.parametrize("name", ["checkpoint_1", "checkpoint_2"])
def test_a_bucket_is_not_sent_again_what_it_has_under_whatever_name(
    spilling: Site, source: Path, tmp_path: Path, name: str
) -> None:
    noted = spilling.killed_save(source, "checkpoint_1")
    total = sum(len(data) for data in content(source).values())
    assert spilling.save(source, name) == total - size(noted.values())
    assert spilling.restored(name, tmp_path / "back") == content(source)


def test_a_mount_keeps_the_files_that_it_has(on_mount: Site, source: Path, tmp_path: Path) -> None:
    noted = on_mount.killed_save(source, "checkpoint_1")
    on_mount.save(source, "checkpoint_1")
    home = on_mount.home
    assert {key: home.etag(key) for key in noted} == {key: stored.etag for key, stored in noted.items()}
    assert on_mount.restored("checkpoint_1", tmp_path / "back") == content(source)


@pytest.mark.parametrize(
    ("what", "name"), [("the file", "checkpoint_1"), ("the object", "checkpoint_1"), ("the object", "checkpoint_2")]
)
def test_other_content_of_equal_size_is_sent(
    spilling: Site, source: Path, tmp_path: Path, name: str, what: str
) -> None:
    noted = spilling.interrupted_save(source, "checkpoint_1")
    changed = next(stored for stored in noted.values() if stored.size < LARGE)
    if what == "the file":
        (source / changed.key.partition("/")[2]).write_bytes(os.urandom(changed.size))
    else:
        spilling.data().write_small(changed.key, os.urandom(changed.size))
    total = sum(len(data) for data in content(source).values())
    assert spilling.save(source, name) == total - size(noted.values()) + changed.size
    assert spilling.restored(name, tmp_path / "back") == content(source)


def test_what_another_rank_of_the_node_stored_counts_and_other_runs_do_not(
    spilling: Site, source: Path, tmp_path: Path
) -> None:
    noted = spilling.interrupted_save(source, "checkpoint_1")
    total = sum(len(data) for data in content(source).values())
    other = Journal(str(tmp_path / "journals"), "another run", 0)
    assert spilling.save(source, "checkpoint_2", rank=1, journal=other) == total
    assert spilling.save(source, "checkpoint_3", rank=1) == total - size(noted.values())


def test_unchanged_files_are_copied_by_the_store_also_by_the_next_process(
    spilling: Site, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_upload, "COPY_PART_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(s3_store, "COPY_PART_BYTES", CHUNK_BYTES)  # the large file goes in parts
    journal = spilling.journal()
    spilling.save(source, "checkpoint_1", journal=journal)
    (source / "sub" / "5").write_bytes(os.urandom(LEAST_COPIED))
    assert spilling.save(source, "checkpoint_2", journal=journal) == LEAST_COPIED
    assert spilling.save(source, "checkpoint_3") == 0
    for name in ("checkpoint_2", "checkpoint_3"):
        assert spilling.restored(name, tmp_path / name) == content(source)
    assert {key.partition("/")[0] for key in spilling.noted()} == {"checkpoint_3"}, "the journal grows"


def test_files_that_are_as_soon_sent_as_copied_are_sent_with_one_request_each(
    spilling: Site, source: Path, tmp_path: Path
) -> None:
    for number in range(FILES):
        (source / "sub" / str(number)).write_bytes(os.urandom(LEAST_COPIED - 1 if number else LEAST_COPIED))
    journal, data = spilling.journal(), spilling.data()
    spilling.save(source, "checkpoint_1", journal=journal)
    saver = Saver(home=spilling.home, threshold=0, spill=lambda: data, journal=journal)
    saver.save(str(source), Part("checkpoint_2", "a2", 0, 1))
    assert data.counters.bytes_sent == (FILES - 1) * (LEAST_COPIED - 1)
    assert data.counters.requests == FILES
    assert spilling.restored("checkpoint_2", tmp_path / "back") == content(source)


def test_a_mount_that_reflinks_shares_unchanged_files(cloning: Path, source: Path, tmp_path: Path) -> None:
    site = Site(cloning, None)
    site.save(source, "checkpoint_1")
    before = free_bytes(cloning)
    site.save(source, "checkpoint_2")
    assert before - free_bytes(cloning) < LARGE // 4, "it was written again"
    first, second = (cloning / "run" / name / "sub" / "0" for name in ("checkpoint_1", "checkpoint_2"))
    assert not first.samefile(second)
    with second.open("r+b") as file:
        file.write(b"written into")
    assert site.restored("checkpoint_1", tmp_path / "back") == content(source)


def test_a_mount_that_cannot_reflink_is_sent_everything(on_mount: Site, source: Path, tmp_path: Path) -> None:
    assert not on_mount.home.copies(SMALL), "the test's own disk can: run it on ext4 or tmpfs"
    for name in ("checkpoint_1", "checkpoint_2"):
        on_mount.save(source, name)
        assert on_mount.restored(name, tmp_path / name) == content(source)


@pytest.mark.parametrize("damage", ["torn", "junk", "not ours"])
def test_a_damaged_journal_costs_sending_and_nothing_else(
    spilling: Site, source: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    spilling.interrupted_save(source, "checkpoint_1")
    (file,) = (tmp_path / "journals").rglob("rank-0")
    if damage == "torn":
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "junk":
        file.write_bytes(b'\xff\n{}\n[1, 2]\n["a", "b", "c", "d", [], true, "e"]\nnull\n' + file.read_bytes()[-700:])
    else:
        (tmp_path / "journals").rename(tmp_path / "elsewhere")
        (tmp_path / "journals").symlink_to(tmp_path / "elsewhere")
    sent = spilling.save(source, "checkpoint_2")
    assert sent <= sum(len(data) for data in content(source).values())
    assert spilling.restored("checkpoint_2", tmp_path / "back") == content(source)
    if damage == "not ours":
        assert "after a crash is sent again" in caplog.text
    else:
        assert len(spilling.noted()) == FILES


def test_journals_of_runs_of_long_ago_go(tmp_path: Path) -> None:
    here = Node(str(tmp_path), "session")
    for run in ("old", "new"):
        with Journal(here.journals, run, 0).writing():
            (folder,) = (entry for entry in Path(here.journals).iterdir() if entry.stat().st_mtime)
        if run == "old":
            os.utime(folder, (0, 0))
    here.forget_old()
    assert list(Path(here.journals).iterdir()) == [folder]


def test_a_torn_line_takes_no_other_with_it(tmp_path: Path) -> None:
    for number in range(3):
        journal = Journal(str(tmp_path), "run", 0)
        with journal.writing():
            journal.note("place", "c", Stored(f"c/{number}", 1, "", ("0" * 32,), etag="e"))
        (file,) = tmp_path.glob("*/rank-0")
        os.truncate(file, file.stat().st_size - (9 if number == 1 else 0))
    last = Journal(str(tmp_path), "run", 1)
    with last.writing():
        assert [stored.key for stored in last.known("place")] == ["c/0", "c/2"]


def test_a_full_disk_under_the_journal_fails_no_save(
    spilling: Site, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tmpfs(tmp_path / "journals", size="64k") as disk:
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        spilling.save(source, "checkpoint_2")
        assert spilling.noted() == {}
    assert "no longer noted on this node" in caplog.text
    assert spilling.restored("checkpoint_2", tmp_path / "back") == content(source)


DRIVER = """
import os, pathlib, signal, sys, tempfile
import ray.train
from ray.train import FailureConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

killed, count, size, noted = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])

def content(number):
    return bytes([number]) * size

def train():
    from ray_anystorage.checkpoint.journal import Journal
    note, left = Journal.note, [noted]
    def note_and_die(self, *arguments):
        note(self, *arguments)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    if not killed.exists():
        killed.touch()
        Journal.note = note_and_die
    with tempfile.TemporaryDirectory() as directory:
        for number in range(count):
            pathlib.Path(directory, str(number)).write_bytes(content(number))
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(directory))

config = anystorage.run_config("killed", failure_config=FailureConfig(max_failures=1))
result = DataParallelTrainer(train, scaling_config=ScalingConfig(num_workers=1), run_config=config).fit()
with result.checkpoint.as_directory() as directory:
    for number in range(count):
        assert pathlib.Path(directory, str(number)).read_bytes() == content(number)
"""


@pytest.mark.needs_ray
def test_the_next_attempt_of_a_killed_worker_sends_what_is_lacking(
    ray_cluster: RayCluster, s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    from tests.harness.run_homes import settings_of  # imports Ray, which the processes to be killed do without

    count, size, noted = 12, LEAST_COPIED, 10
    (tmp_path / "cluster").mkdir()
    (tmp_path / "local").mkdir()
    with faulty_proxy(s3_server.endpoint) as proxy:
        env = {
            **settings_of(tmp_path, s3_server, bucket),
            "RAY_ANYSTORAGE_LOCAL_STORAGE": str(tmp_path / "local"),
            "RAY_ANYSTORAGE_ENDPOINT": proxy.endpoint,
            "RAY_ANYSTORAGE_CREDENTIALS": "env",
            "RAY_ANYSTORAGE_THRESHOLD": "100kB",
        }
        arguments = [str(tmp_path / "killed"), *map(str, (count, size, noted))]
        ran = ray_cluster.run_driver(DRIVER, *arguments, env=env, timeout=170)
        assert ran.returncode == 0, (ran.stdout + ran.stderr)[-6000:]
        sent = proxy.body_bytes["PUT"]
    assert (tmp_path / "killed").exists()
    assert count * size <= sent <= (count + count - noted) * size + size, "the second attempt sent it all again"
