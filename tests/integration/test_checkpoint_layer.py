"""Save, put together, fetch and verify a checkpoint, on a directory and on a real S3 server, inline and spilled."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ray_anystorage.checkpoint import restore
from ray_anystorage.checkpoint import unreadable as unreadable_module
from ray_anystorage.checkpoint.audit import audit
from ray_anystorage.checkpoint.contents import Contents, assemble
from ray_anystorage.checkpoint.manifest import FOLDER, METADATA, POINTER, Manifest
from ray_anystorage.checkpoint.read import commit, manifests_of, read_contents
from ray_anystorage.checkpoint.restore import Sources, fetch, verify_in_place, verify_stored
from ray_anystorage.checkpoint.save import Part, begin, save, store_data, write_manifest
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.checkpoint.tree import scan
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import (
    AttemptEndedError,
    CheckpointCorruptedError,
    CheckpointIncompleteError,
    CheckpointMissingError,
    CheckpointOverwrittenError,
    CheckpointUnreadableError,
    RankConflictError,
    RequestError,
    SourceChangedError,
    UnsavableFileError,
)
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer.digest import CHUNK_BYTES, chunks_of_file
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.s3_store import S3Store
from ray_anystorage.transfer.store import Store
from tests.harness.faulty_proxy import faulty_proxy, share

FILES = {
    "model.bin": CHUNK_BYTES * 2 + 17,
    "empty": 0,
    "sub dir/größe ★.json": 100,
    "deep/er/still/x": 1,
    f"long/{'n' * 200}/{'m' * 200}": 5,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with files of every kind, an empty folder, links and a sparse file."""
    root = tmp_path / "source"
    for name, size in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.urandom(size))
    (root / "empty folder" / "inner").mkdir(parents=True)
    (root / "link").symlink_to("model.bin")
    with (root / "sparse").open("wb") as file:
        file.truncate(3 << 20)
    return root


@pytest.fixture
def bucket_store(s3_server: S3Server, bucket: str) -> Iterator[S3Store]:
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    address = BucketAddress("s3", bucket, "folder/run", s3_server.region, s3_server.endpoint)
    store = S3Store(address, Grant("env", "the test's keys", "test", (), Secrets(keys)))
    yield store
    store.close()


def same(left: Path, right: Path) -> bool:
    """Equal trees, empty folders included; links count as what they lead to."""

    def content(root: Path) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
            for path in root.rglob("*")
            if FOLDER not in path.parts
        }

    return content(left) == content(right)


def saved(home: Store, source: Path, *, spill: Store | None = None, rank: int = 0, world: int = 1) -> Manifest:
    return save(home, scan(str(source)), Part("checkpoint_1", "a1", rank, world), spill=spill)


def whole(home: Store, *roster: int) -> Contents:
    return assemble("checkpoint_1", manifests_of(home, "checkpoint_1"), attempt="a1", ranks=roster or (0,))


def here(home: Store, bucket: Store | None = None) -> Sources:
    """Sources for data in the home, and in the folder of the checkpoint in a bucket that it was spilled to."""

    def locate(uri: str) -> Store:
        assert isinstance(bucket, S3Store)
        return bucket.moved(replace(bucket._address, prefix=uri.removeprefix(f"s3://{bucket._address.bucket}/")))

    return Sources(home, locate)


def test_on_a_mount_the_files_lie_as_they_were_and_verify_in_place(tmp_path: Path, source: Path) -> None:
    home = PosixStore(str(tmp_path / "home"))
    saved(home, source)
    contents = whole(home)
    verify_in_place(contents, str(tmp_path / "home" / "checkpoint_1"))
    assert contents.size == sum(FILES.values()) + FILES["model.bin"] + (3 << 20)
    fetch(here(home), contents, str(tmp_path / "back"))
    assert same(source, tmp_path / "back")


def test_in_a_bucket_the_data_lies_as_plain_objects(
    tmp_path: Path, source: Path, bucket_store: S3Store, s3_server: S3Server, bucket: str
) -> None:
    saved(bucket_store, source)
    keys = {key.removeprefix("folder/run/checkpoint_1/") for key in s3_server.keys(bucket)}
    assert {*FILES, "link", "sparse"} <= keys
    body = s3_server.client().get_object(Bucket=bucket, Key="folder/run/checkpoint_1/model.bin")["Body"].read()
    assert body == (source / "model.bin").read_bytes()
    fetch(here(bucket_store), whole(bucket_store), str(tmp_path / "back"))
    assert same(source, tmp_path / "back")


def test_spilled_data_is_in_the_bucket_and_its_manifest_in_the_home(
    tmp_path: Path, source: Path, bucket_store: S3Store
) -> None:
    home = PosixStore(str(tmp_path / "home"))
    manifest = saved(home, source, spill=bucket_store)
    assert manifest.location == f"{bucket_store.uri}/checkpoint_1"
    assert [path.name for path in (tmp_path / "home" / "checkpoint_1").iterdir() if path.is_file()] == [POINTER]
    assert manifest.location in (tmp_path / "home" / "checkpoint_1" / POINTER).read_text()
    fetch(here(home, bucket_store), whole(home), str(tmp_path / "back"))
    assert same(source, tmp_path / "back")


def test_only_the_named_files_are_fetched(tmp_path: Path, source: Path, bucket_store: S3Store) -> None:
    saved(bucket_store, source)
    contents = whole(bucket_store)
    before = bucket_store.counters.bytes_fetched
    fetch(here(bucket_store), contents.matching(["sub dir/*", "deep/*"]), str(tmp_path / "back"))
    assert bucket_store.counters.bytes_fetched - before == 101
    assert sorted(path.name for path in (tmp_path / "back").rglob("*") if path.is_file()) == ["größe ★.json", "x"]
    with pytest.raises(RequestError, match=r"files='nothing\*' names nothing"):
        contents.matching("nothing*")


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
@pytest.mark.parametrize("place", ["mount", "bucket"])
def test_damage_is_an_error_that_names_the_file(
    tmp_path: Path, source: Path, s3_server: S3Server, bucket: str, bucket_store: S3Store, place: str, damage: str
) -> None:
    home: Store = PosixStore(str(tmp_path / "home")) if place == "mount" else bucket_store
    saved(home, source)
    content = bytearray((source / "model.bin").read_bytes())
    content[CHUNK_BYTES + 5] ^= 1
    content = content[:-9] if damage == "cut" else content
    file, client = tmp_path / "home" / "checkpoint_1" / "model.bin", s3_server.client()
    where = {"Bucket": bucket, "Key": "folder/run/checkpoint_1/model.bin"}
    if place == "mount":
        file.unlink()
    if damage == "gone":
        client.delete_object(**where)
    elif place == "mount":
        file.write_bytes(content)
    else:
        client.put_object(**where, Body=bytes(content))
    contents = whole(home)
    with pytest.raises(CheckpointCorruptedError, match=r"model\.bin"):
        verify_stored(here(home), contents)
    with pytest.raises(CheckpointCorruptedError, match=r"model\.bin"):
        fetch(here(home), contents, str(tmp_path / "back"))
    assert not (tmp_path / "back" / "model.bin").exists()
    if place == "mount":
        with pytest.raises(CheckpointCorruptedError, match=r"model\.bin"):
            verify_in_place(contents, str(file.parent))


def test_sizes_alone_find_what_is_cut_and_say_nothing_of_a_flipped_bit(tmp_path: Path, source: Path) -> None:
    home = PosixStore(str(tmp_path / "home"))
    saved(home, source)
    file = tmp_path / "home" / "checkpoint_1" / "model.bin"
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    verify_in_place(whole(home), str(file.parent), content=False)
    file.write_bytes(content[:-1])
    with pytest.raises(CheckpointCorruptedError, match="were saved"):
        verify_in_place(whole(home), str(file.parent), content=False)


def rank_source(tmp_path: Path, rank: int, **files: bytes) -> Path:
    root = tmp_path / f"rank{rank}"
    root.mkdir()
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


def test_several_ranks_make_one_checkpoint_and_equal_names_need_equal_content(tmp_path: Path) -> None:
    home = PosixStore(str(tmp_path / "home"))
    saved(home, rank_source(tmp_path, 0, shard0=b"0", common=b"same"), rank=0, world=3)
    saved(home, rank_source(tmp_path, 1, shard1=b"1", common=b"same"), rank=1, world=3)
    contents = whole(home, 0, 1)
    assert [file.path for file in contents.files] == ["common", "shard0", "shard1"]
    assert contents.ranks == (0, 1)
    saved(home, rank_source(tmp_path, 2, common=b"other"), rank=2, world=3)
    with pytest.raises(RankConflictError, match=r"ranks 0 and 2 .*'common'"):
        commit(home, "checkpoint_1", "a1")
    with pytest.raises(CheckpointIncompleteError, match="never committed"):
        read_contents(home, "checkpoint_1")


def test_a_rank_that_should_have_saved_is_missed_and_attempts_are_not_mixed(tmp_path: Path) -> None:
    home = PosixStore(str(tmp_path / "home"))
    saved(home, rank_source(tmp_path, 0, shard0=b"0"), rank=0, world=2)
    with pytest.raises(CheckpointIncompleteError, match="no manifest of rank 1"):
        whole(home, 0, 1)
    save(home, scan(str(rank_source(tmp_path, 1, shard1=b"1"))), Part("checkpoint_1", "b2", 1, 4))
    with pytest.raises(CheckpointIncompleteError, match="no manifest of rank 0, 1"):
        whole(home, 0, 1)


def test_a_name_that_a_later_attempt_reused_is_never_a_mix(tmp_path: Path) -> None:
    home = PosixStore(str(tmp_path / "home"))
    for rank in (0, 1):
        saved(home, rank_source(tmp_path, rank, **{f"shard{rank}": b"first"}), rank=rank, world=2)
    commit(home, "checkpoint_1", "a1")
    later = rank_source(tmp_path, 2, shard0=b"later")
    save(home, scan(str(later)), Part("checkpoint_1", "b2", 0, 1))
    with pytest.raises(CheckpointIncompleteError, match="never committed"):
        read_contents(home, "checkpoint_1", attempt="a1")
    commit(home, "checkpoint_1", "b2")
    with pytest.raises(CheckpointIncompleteError, match="wrote over it"):
        read_contents(home, "checkpoint_1", attempt="a1")
    assert [file.path for file in read_contents(home, "checkpoint_1").files] == ["shard0"]


def test_a_rank_that_saved_under_this_name_before_and_not_now_is_not_mixed_in(tmp_path: Path) -> None:
    home = PosixStore(str(tmp_path / "home"))
    for rank in (0, 1):
        saved(home, rank_source(tmp_path, rank, **{f"shard{rank}": b"first"}), rank=rank, world=2)
    commit(home, "checkpoint_1", "a1")
    (tmp_path / "rank0" / "shard0").write_bytes(b"second")
    save(home, scan(str(tmp_path / "rank0")), Part("checkpoint_1", "a1", 0, 2, report=1))
    with pytest.raises(CheckpointIncompleteError, match="never committed"):
        read_contents(home, "checkpoint_1")
    with pytest.raises(CheckpointOverwrittenError, match="a later report"):
        commit(home, "checkpoint_1", "a1", report=0)
    assert [file.path for file in commit(home, "checkpoint_1", "a1", report=1).files] == ["shard0"]
    assert [file.path for file in commit(home, "checkpoint_1", "a1", report=2).files] == ["shard0"], "reported again"


def test_rays_own_note_is_kept_beside_the_data_and_may_change(tmp_path: Path) -> None:
    home = PosixStore(str(tmp_path / "home"))
    source = rank_source(tmp_path, 0, weights=b"w", **{METADATA: b"{}"})
    saved(home, source)
    contents = commit(home, "checkpoint_1", "a1")
    assert [file.path for file in contents.files] == ["weights"]
    note = tmp_path / "home" / "checkpoint_1" / METADATA
    assert note.read_bytes() == b"{}"
    note.write_bytes(b'{"changed": true}')
    verify_in_place(read_contents(home, "checkpoint_1"), str(note.parent))


def test_a_failed_upload_leaves_no_manifest(tmp_path: Path, source: Path, bucket_store: S3Store) -> None:
    tree = scan(str(source))
    (source / "deep/er/still/x").unlink()
    with pytest.raises(SourceChangedError, match="still/x is gone"):
        save(bucket_store, tree, Part("checkpoint_1", "a1", 0, 1))
    assert manifests_of(bucket_store, "checkpoint_1") == []


def test_a_store_that_fails_half_of_its_requests_changes_nothing(
    tmp_path: Path, source: Path, s3_server: S3Server, bucket: str
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    with faulty_proxy(s3_server.endpoint) as proxy:
        proxy.rule = share(50, ("503", "500", "429"), seed=3)
        address = BucketAddress("s3", bucket, "folder/run", s3_server.region, proxy.endpoint)
        store = S3Store(address, Grant("env", "the test's keys", "test", (), Secrets(keys)))
        saved(store, source)
        fetch(here(store), whole(store), str(tmp_path / "back"))
        store.close()
        assert sum(proxy.faults.values()) > 5
    assert same(source, tmp_path / "back")


def test_what_the_store_has_is_not_sent_again(tmp_path: Path, source: Path, bucket_store: S3Store) -> None:
    from ray_anystorage.transfer.files import Stored

    manifest = saved(bucket_store, source)
    already = [
        Stored(f"checkpoint_1/{file.path}", file.size, file.digest, file.chunks, etag=file.etag)
        for file in manifest.files
    ]
    before = bucket_store.counters.bytes_sent
    tree, part = scan(str(source)), Part("checkpoint_1", "b2", 0, 1)
    begin(bucket_store, part)
    again = write_manifest(bucket_store, tree, part, store_data(bucket_store, tree, part, already=already))
    assert bucket_store.counters.bytes_sent - before < 10_000, "more than the manifest was sent"
    assert again.files == manifest.files


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda root: (root / "odd").symlink_to("nowhere"), "leads to nothing"),
        (lambda root: (root / "odd").symlink_to("odd"), "circle"),
        (lambda root: (root / "odd").symlink_to(".."), "leads back"),
        (lambda root: os.mkfifo(root / "odd"), "neither a file nor a folder"),
    ],
)
def test_what_cannot_be_saved_is_refused_by_name(tmp_path: Path, make: object, word: str) -> None:
    (tmp_path / "source" / "sub").mkdir(parents=True)
    make(tmp_path / "source")  # type: ignore[operator]
    if word == "leads back":
        (tmp_path / "source" / "odd").unlink()
        (tmp_path / "source" / "sub" / "odd").symlink_to("..")
    with pytest.raises(UnsavableFileError, match=word) as raised:
        scan(str(tmp_path / "source"))
    assert "odd" in str(raised.value)


class Overtaken(PosixStore):
    """A home in which, whenever this rank has listed a folder, another one does something there."""

    def __init__(self, root: Path, other: Callable[[], object]) -> None:
        super().__init__(str(root))
        self._other = other

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        listed = [*super().list(prefix)]
        self._other()
        yield from listed


def test_ranks_that_begin_at_once_do_not_miss_what_another_attempt_left(tmp_path: Path, source: Path) -> None:
    home = PosixStore(str(tmp_path / "home"))
    saved(home, source, rank=0, world=2)
    again = [Part("checkpoint_1", "a2", rank, 2) for rank in (0, 1)]
    assert begin(Overtaken(tmp_path / "home", lambda: begin(home, again[1])), again[0]).former == ()


def test_a_rank_begins_while_another_replaces_its_manifest_of_an_earlier_report(tmp_path: Path, source: Path) -> None:
    home, reused = PosixStore(str(tmp_path / "home")), Part("latest", "a1", 1, 2, report=1)
    save(home, scan(str(source)), reused)
    (tmp_path / "small").mkdir()
    begin(home, replace(reused, report=2))
    other = partial(save, home, scan(str(tmp_path / "small")), replace(reused, report=2))
    assert begin(Overtaken(tmp_path / "home", other), replace(reused, rank=0, report=2)).former == ()


class Counting(PosixStore):
    """A home that says which files were read."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.read: list[str] = []

    def read_range(self, key: str, offset: int, into: memoryview) -> None:
        self.read.append(key.rpartition("/")[2])
        super().read_range(key, offset, into)


def test_a_rank_that_begins_reads_no_more_manifests_than_it_needs(tmp_path: Path) -> None:
    home, tree = Counting(tmp_path / "home"), scan(str(rank_source(tmp_path, 0)))
    for rank in range(8):
        save(home, tree, Part("latest", "a1", rank, 8, report=1))
    home.read.clear()
    for rank in range(8):
        assert begin(home, Part("latest", "a1", rank, 8, report=2), 100).others == 100 * rank
    assert home.read == []
    assert [manifest.rank for manifest in begin(home, Part("latest", "a2", 5, 8, report=3)).former] == [5]
    assert home.read == ["manifest-a1-5-of-8.json"]


def test_a_name_that_is_used_for_every_report_keeps_one_mark_of_each_rank(tmp_path: Path) -> None:
    home, tree = PosixStore(str(tmp_path / "home")), scan(str(rank_source(tmp_path, 0)))
    for report in range(1, 12):
        for rank in (0, 1):
            save(home, tree, Part("latest", "a1", rank, 2, report=report))
    marks = sorted(path.name for path in (tmp_path / "home" / "latest" / FOLDER).glob("begun-*"))
    assert marks == [f"begun-a1-{rank}-11-{tree.size}" for rank in (0, 1)]
    with pytest.raises(CheckpointOverwrittenError):
        commit(home, "latest", "a1", report=10)
    commit(home, "latest", "a1", report=11)


@pytest.mark.parametrize("grows", [False, True])
def test_what_a_later_report_writes_over_while_it_is_committed_is_no_checkpoint(tmp_path: Path, grows: bool) -> None:
    home, nothing = PosixStore(str(tmp_path / "home")), scan(str(rank_source(tmp_path, 0)))
    more = scan(str(rank_source(tmp_path, 1, more=b"more")))

    def save_empty(rank: int, report: int) -> None:
        part = Part("latest", "a1", rank, 2, report=report)
        begin(home, part)
        tree = more if grows and report == 2 else nothing
        write_manifest(home, tree, part, store_data(home, tree, part))

    for rank in (0, 1):
        save_empty(rank, 1)
    with pytest.raises(CheckpointOverwrittenError):
        commit(Overtaken(tmp_path / "home", lambda: save_empty(0, 2)), "latest", "a1", report=1)
    with pytest.raises(CheckpointIncompleteError, match="never committed"):
        read_contents(home, "latest")


def test_a_name_that_was_spilled_and_is_saved_inline_says_no_longer_that_its_data_is_elsewhere(
    tmp_path: Path, source: Path, bucket_store: S3Store
) -> None:
    home, pointer = PosixStore(str(tmp_path / "home")), tmp_path / "home" / "checkpoint_1" / POINTER
    saved(home, source, spill=bucket_store)
    commit(home, "checkpoint_1", "a1")
    assert pointer.exists()
    save(home, scan(str(source)), Part("checkpoint_1", "a2", 0, 1))
    commit(home, "checkpoint_1", "a2")
    assert not pointer.exists()
    verify_in_place(read_contents(home, "checkpoint_1"), str(pointer.parent))


def test_what_is_deleted_or_replaced_while_it_is_looked_at_is_never_an_error_of_the_store(tmp_path: Path) -> None:
    root, longer = tmp_path / "home", rank_source(tmp_path, 1, **{f"file{n}": b"x" for n in range(9)})
    home, tree = PosixStore(str(root)), scan(str(rank_source(tmp_path, 0, shard=b"0")))

    def replace_it() -> None:
        for path in (root / "checkpoint_1" / FOLDER).glob("manifest-*"):
            path.unlink()
        save(home, scan(str(longer)), Part("checkpoint_1", "a1", 0, 1, report=2))
        commit(home, "checkpoint_1", "a1", report=2)

    save(home, tree, Part("checkpoint_1", "a1", 0, 1, report=1))
    commit(home, "checkpoint_1", "a1", report=1)
    assert read_contents(Once(root, replace_it), "checkpoint_1").report == 2
    record = root / "checkpoint_1" / FOLDER / "commit.json"
    with pytest.raises(CheckpointIncompleteError, match="deleted in part"):
        read_contents(Once(root, record.unlink), "checkpoint_1")
    commit(home, "checkpoint_1", "a1", report=2)
    gone = partial(shutil.rmtree, root / "checkpoint_1")
    with pytest.raises(CheckpointMissingError, match="there is no checkpoint"):
        read_contents(Once(root, gone), "checkpoint_1")


class Once(Overtaken):
    """The same, and only for the first folder that is listed."""

    def __init__(self, root: Path, other: Callable[[], object]) -> None:
        super().__init__(root, self._first)
        self._first_time: Callable[[], object] | None = other

    def _first(self) -> None:
        other, self._first_time = self._first_time, None
        if other is not None:
            other()


class BadSectors(PosixStore):
    """A home on a disk that cannot read one file, or no longer anything."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))

    def read_range(self, key: str, offset: int, into: memoryview) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), key)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EISDIR])
def test_a_file_that_cannot_be_read_is_a_fault_of_its_checkpoint_and_a_mount_that_cannot_is_none(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    home = PosixStore(str(tmp_path / "home"))
    saved(home, source)
    contents, folder = commit(home, "checkpoint_1", "a1"), str(tmp_path / "home" / "checkpoint_1")

    def unreadable(path: str) -> Iterator[str]:
        if path.endswith("/model.bin"):
            raise OSError(code, os.strerror(code), path)
        return chunks_of_file(path)

    monkeypatch.setattr(restore, "chunks_of_file", unreadable)
    unread = rf"damaged: model\.bin \(cannot be read: {os.strerror(code)}\)"
    with pytest.raises(CheckpointUnreadableError, match=unread):
        verify_in_place(contents, folder)
    found = audit(restore.Sources(home, lambda uri: home), "checkpoint_1", folder, content=True)
    assert (found.state, found.mark) == ("not readable", None)
    with pytest.raises(CheckpointUnreadableError, match=r"cannot be read: .*commit\.json"):
        read_contents(BadSectors(tmp_path / "home"), "checkpoint_1")

    def dead(path: str) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr(unreadable_module.os, "listdir", dead)
    for read in (
        lambda: verify_in_place(contents, folder),
        lambda: read_contents(BadSectors(tmp_path / "home"), "checkpoint_1"),
    ):
        with pytest.raises(OSError, match=r"^\[Errno") as raised:
            read()
        assert type(raised.value) in (OSError, PermissionError, IsADirectoryError)


@pytest.mark.parametrize("place", ["bucket", "mount"])
def test_a_save_that_is_refused_leaves_what_is_there_and_no_mark(
    bucket_store: S3Store, tmp_path: Path, place: str
) -> None:
    store: Store = bucket_store if place == "bucket" else PosixStore(str(tmp_path / "home"))
    source = tmp_path / "source"
    source.mkdir()
    (source / "data").write_bytes(b"one")
    save(store, scan(str(source)), Part("latest", "a1", 0, 1, report=1))
    commit(store, "latest", "a1", report=1)
    before = dict(store.list(""))

    def refuse() -> None:
        raise AttemptEndedError("another worker group runs")

    (source / "data").write_bytes(b"two two")
    saver = Saver(store, threshold=1 << 40)
    with pytest.raises(AttemptEndedError):
        saver.save(str(source), Part("latest", "a0", 0, 1, report=2), refuse)
    assert dict(store.list("")) == before
    asked: list[str] = []
    saver.save(str(source), Part("latest", "a2", 0, 1, report=2), lambda: asked.append("once"))
    assert asked == ["once"]
