"""The node's cache on real disks and between real processes: what it keeps, verifies, drops and evicts."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import stat
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_anystorage.checkpoint import cache_files, cache_index
from ray_anystorage.checkpoint.cache import CachedFile, Entry, NodeCache
from ray_anystorage.transfer.digest import chunks_of, file_digest
from tests.harness.mounts import tmpfs
from tests.unit.test_locks import wait_for_waiter

SPAWN = multiprocessing.get_context("spawn")
MIB = 1 << 20
PAGES = 1 << 15  # bytes that an entry's own notes may take


def cached(path: str, content: bytes) -> CachedFile:
    chunks = chunks_of(content)
    return CachedFile(path, len(content), file_digest(len(content), chunks), chunks)


def saved(folder: Path, files: dict[str, bytes]) -> list[tuple[str, CachedFile]]:
    """Files as a save has them: where they lie, and what the cache is told of them."""
    sources = []
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        sources.append((str(folder / path), cached(path, content)))
    return sources


def put(entry: Entry, *files: tuple[str, bytes]) -> None:
    """Fill an entry as a download does."""
    with entry.filling():
        for path, content in files:
            target = Path(entry.directory, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def make_room(cache: NodeCache, size: int) -> bool:
    """Ask for room, and let go of it."""
    with cache.room(cache.entry("another run", "to come", "a"), size) as fits:
        return fits


def missing(entry: Entry, files: list[CachedFile], session: str = "one") -> list[str]:
    with entry.filling():
        return [file.path for file in entry.missing(files, session)]


def let_settle(entry: Entry) -> None:
    """Wait until a stamp of every file tells it from any later state."""
    newest = max(path.stat().st_ctime_ns for path in Path(entry.directory).rglob("*"))
    while time.time_ns() - newest <= cache_index._SETTLED_AFTER:
        time.sleep(0.005)


@pytest.fixture
def cache(tmp_path: Path) -> NodeCache:
    return NodeCache(str(tmp_path / "cache"), share=1.0)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed, by the real function."""
    names: list[str] = []
    real = cache_files.digest_file

    def spy(path: str) -> tuple[int, str, tuple[str, ...]]:
        names.append(os.path.basename(path))
        return real(path)

    monkeypatch.setattr(cache_files, "digest_file", spy)
    return names


@contextlib.contextmanager
def running(target: object, *arguments: object) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process that was told to begin and has said so."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=target, args=(*arguments, theirs))
    process.start()
    theirs.close()
    try:
        assert ours.recv() == "holds"
        yield process, ours
    finally:
        process.kill()
        process.join()


def hold_reading(entry: Entry, pipe: Connection) -> None:
    with entry.reading():
        pipe.send("holds")
        pipe.recv()


def hold_filling(entry: Entry, pipe: Connection) -> None:
    with entry.filling():
        Path(entry.directory, ".anystorage-0123456789abcdef.part").write_bytes(b"half")
        Path(entry.directory, "half").write_bytes(b"half")
        pipe.send("holds")
        pipe.recv()


def hold_room(cache: NodeCache, entry: Entry, promised: int, filled: int, pipe: Connection) -> None:
    with entry.reading(), cache.room(entry, promised) as fits:
        assert fits
        if filled:
            put(entry, ("data", bytes(filled)))
        pipe.send("holds")
        pipe.recv()


def hold_live(root: str, run: str, pipe: Connection) -> None:
    with NodeCache(root).hold_run(run):
        pipe.send("holds")
        pipe.recv()


def fill_if_missing(entry: Entry, file: CachedFile, content: bytes, log: str) -> None:
    with entry.reading():
        with entry.filling():
            if entry.missing([file], "one"):
                with open(log, "a") as lines:
                    lines.write("fetched\n")
                Path(entry.directory, file.path).write_bytes(content)
        assert Path(entry.directory, file.path).read_bytes() == content


def link_often(entry: Entry, source: str, file: CachedFile, rounds: int) -> None:
    for _ in range(rounds):
        assert entry.link([(source, file)]) == 1


def use_without_end(root: str, sources: list[tuple[str, CachedFile]], pipe: Connection) -> None:
    cache = NodeCache(root, share=1.0)
    entry, files = cache.entry("run", "checkpoint_1", "a"), [file for _, file in sources]
    pipe.send("holds")
    steps = (
        lambda: entry.link(sources),
        lambda: missing(entry, files),
        lambda: put(entry, ("other", b"x")),
        entry.remove,
        lambda: make_room(cache, 0),
    )
    while True:
        for step in steps:
            step()
            pipe.send("step")


def test_nothing_is_made_by_asking(cache: NodeCache, tmp_path: Path) -> None:
    entry = cache.entry("run", "checkpoint_1", "a")
    entry.touch()
    assert entry.remove()
    assert os.listdir(tmp_path) == []


def test_a_linked_file_is_the_source_and_outlives_it(cache: NodeCache, tmp_path: Path) -> None:
    files = {"model.bin": b"weights", "deep/er/ü ñ.txt": b"", "d" * 200 + "/" + "f" * 200: b"x"}
    sources = saved(tmp_path / "source", files)
    entry = cache.entry("run", "checkpoint_1", "a")
    assert entry.link(sources) == 3
    assert Path(entry.directory, "model.bin").samefile(tmp_path / "source" / "model.bin")
    for source, _ in sources:
        os.unlink(source)
    assert missing(entry, [file for _, file in sources]) == []
    assert {path: Path(entry.directory, path).read_bytes() for path in files} == files


def test_a_link_as_source_is_followed(cache: NodeCache, tmp_path: Path) -> None:
    (source, file), *_ = saved(tmp_path / "source", {"model.bin": b"weights"})
    (tmp_path / "alias").symlink_to(source)
    entry = cache.entry("run", "checkpoint_1", "a")
    assert entry.link([(str(tmp_path / "alias"), file)]) == 1
    assert not Path(entry.directory, "model.bin").is_symlink()
    assert missing(entry, [file]) == []


def test_linking_twice_leaves_one_name(cache: NodeCache, tmp_path: Path) -> None:
    sources = saved(tmp_path / "source", {"model.bin": b"weights"})
    entry = cache.entry("run", "checkpoint_1", "a")
    assert entry.link(sources) == entry.link(sources) == 1
    assert os.stat(sources[0][0]).st_nlink == 2


def test_what_cannot_be_linked_is_passed_over(cache: NodeCache, tmp_path: Path) -> None:
    (gone, shrunk, good) = saved(tmp_path / "source", {"gone": b"gone", "shrunk": b"shrunk", "good": b"good"})
    os.unlink(gone[0])
    os.truncate(shrunk[0], 1)
    entry = cache.entry("run", "checkpoint_1", "a")
    assert entry.link([gone, shrunk, good]) == 1
    assert os.listdir(entry.directory) == ["good"]
    assert os.listdir(Path(entry.folder, "new")) == []


def test_another_device_is_passed_over(cache: NodeCache, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "other") as other:
        sources = saved(other, {"model.bin": b"weights"})
        entry = cache.entry("run", "checkpoint_1", "a")
        assert entry.link(sources) == 0
        assert missing(entry, [sources[0][1]]) == ["model.bin"]


def test_a_full_disk_fails_no_save(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tmpfs(tmp_path / "small", inodes=8) as small:
        sources = saved(small / "source", {"a": b"a", "b": b"b"})
        with contextlib.suppress(OSError):
            for number in range(8):
                (small / f"filler-{number}").touch()
        assert NodeCache(str(small / "cache")).entry("run", "checkpoint_1", "a").link(sources) == 0
    assert "takes no links" in caplog.text


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "a\0b", "", ".anystorage/x", "a//b"])
def test_paths_that_leave_the_entry_are_refused(cache: NodeCache, tmp_path: Path, path: str) -> None:
    (source, good), *_ = saved(tmp_path / "source", {"good": b"good"})
    bad = CachedFile(path, 4, good.digest, good.chunks)
    entry = cache.entry("run", "checkpoint_1", "a")
    with pytest.raises(ValueError, match=r"plain path|not a path|own"):
        entry.link([(source, good), (source, bad)])
    assert not os.path.exists(entry.folder)
    with entry.filling(), pytest.raises(ValueError, match=r"plain path|not a path|own"):
        entry.missing([bad], "one")
    with entry.filling(), pytest.raises(ValueError, match=r"plain path|not a path|own"):
        entry.record([bad], "one")


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(), st.text(), st.text()), min_size=2, max_size=6, unique=True))
def test_any_names_have_a_place_of_their_own_below_the_root(names: list[tuple[str, str, str]]) -> None:
    folders = [NodeCache("/root").entry(*name).folder for name in names]
    assert len(set(folders)) == len(folders)
    for folder in folders:
        assert os.path.normpath(folder) == folder
        assert folder.startswith("/root/")
        assert folder.isascii()
        assert all(len(segment) < 100 for segment in folder.split("/"))


def test_a_lone_surrogate_has_a_place_too(cache: NodeCache) -> None:
    put(cache.entry("\udcff", "\ud800", "\udcfe"), ("a", b"a"))


def test_a_flipped_bit_is_dropped_and_named(cache: NodeCache, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sources = saved(tmp_path / "source", {"good": b"good", "bad": b"weights", "short": b"longer", "gone": b"gone"})
    entry = cache.entry("run", "checkpoint_1", "a")
    put(entry, ("good", b"good"), ("bad", b"weightz"), ("short", b"long"))
    with caplog.at_level(logging.WARNING):
        assert missing(entry, [file for _, file in sources]) == ["bad", "short", "gone"]
    assert os.listdir(entry.directory) == ["good"]
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2
    assert os.path.join(entry.directory, "bad") in warned[0]
    assert os.path.join(entry.directory, "short") in warned[1]


def test_what_takes_the_place_of_a_file_is_dropped(cache: NodeCache, tmp_path: Path) -> None:
    wanted = [cached(path, b"x") for path in ("link", "folder", "file/below", "dangling")]
    entry = cache.entry("run", "checkpoint_1", "a")
    (tmp_path / "outside").write_bytes(b"x")
    put(entry, ("folder/inside", b"x"), ("file", b"x"))
    os.symlink(tmp_path / "outside", Path(entry.directory, "link"))
    os.symlink(tmp_path / "nothing", Path(entry.directory, "dangling"))
    assert missing(entry, wanted) == [file.path for file in wanted]
    assert os.listdir(entry.directory) == []
    assert (tmp_path / "outside").read_bytes() == b"x"


def test_a_file_is_hashed_once_in_a_session_and_again_in_the_next(cache: NodeCache, hashed: list[str]) -> None:
    files = [cached("a", b"a"), cached("b", b"b")]
    entry = cache.entry("run", "checkpoint_1", "a")
    put(entry, ("a", b"a"), ("b", b"b"))
    let_settle(entry)
    for session, total in (("one", 2), ("one", 2), ("two", 4), ("two", 4), ("one", 6)):
        assert missing(entry, files, session) == []
        assert len(hashed) == total


def test_a_file_that_may_still_change_unseen_is_hashed_each_time(
    cache: NodeCache, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_index, "_SETTLED_AFTER", 10**18)
    entry = cache.entry("run", "checkpoint_1", "a")
    put(entry, ("a", b"a"))
    with entry.filling():
        entry.record([cached("a", b"a")], "one")
    for total in (1, 2):
        assert missing(entry, [cached("a", b"a")]) == []
        assert len(hashed) == total


def test_what_a_download_verified_is_not_hashed(cache: NodeCache, hashed: list[str]) -> None:
    file = cached("a", b"a")
    entry = cache.entry("run", "checkpoint_1", "a")
    put(entry, ("a", b"a"))
    let_settle(entry)
    with entry.filling():
        entry.record([file], "one")
    assert missing(entry, [file]) == []
    assert hashed == []
    assert missing(entry, [file], "two") == []
    assert hashed == ["a"]


def test_links_are_not_taken_for_verified(cache: NodeCache, tmp_path: Path, hashed: list[str]) -> None:
    sources = saved(tmp_path / "source", {"a": b"a"})
    entry = cache.entry("run", "checkpoint_1", "a")
    entry.link(sources)
    let_settle(entry)
    assert missing(entry, [sources[0][1]]) == []
    assert hashed == ["a"]


@pytest.mark.parametrize("settle", [True, False])
def test_a_later_write_into_a_file_is_found_in_the_same_session(
    cache: NodeCache, tmp_path: Path, *, settle: bool
) -> None:
    sources = saved(tmp_path / "source", {"a": b"before"})
    files = [sources[0][1]]
    entry = cache.entry("run", "checkpoint_1", "a")
    entry.link(sources)
    if settle:
        let_settle(entry)
    assert missing(entry, files) == []
    target = os.path.join(entry.directory, "a")
    status = os.stat(target)
    with open(target, "r+b") as file:
        file.write(b"behind")
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert missing(entry, files) == ["a"]
    assert Path(sources[0][0]).read_bytes() == b"before"


def test_a_write_into_the_source_before_it_was_opened_is_found(cache: NodeCache, tmp_path: Path) -> None:
    sources = saved(tmp_path / "source", {"a": b"before"})
    entry = cache.entry("run", "checkpoint_1", "a")
    entry.link(sources)
    Path(sources[0][0]).write_bytes(b"behind")  # keeps the inode
    assert missing(entry, [sources[0][1]]) == ["a"]
    assert Path(sources[0][0]).read_bytes() == b"behind"


@settings(deadline=None)
@given(damage=st.binary(max_size=40))
def test_a_torn_index_only_costs_hashing(tmp_path_factory: pytest.TempPathFactory, damage: bytes) -> None:
    entry = NodeCache(str(tmp_path_factory.mktemp("cache"))).entry("run", "checkpoint_1", "a")
    put(entry, ("a", b"a"))
    Path(entry.folder, "index.json").write_bytes(damage)
    assert missing(entry, [cached("a", b"a"), cached("b", b"b")]) == ["b"]


@pytest.mark.parametrize("content", [b"[]", b"3", b'{"a": 3}', b'{"a": ["x", [1, 2], null]}', b'{"a": ["x", null, 1]}'])
def test_an_index_of_another_shape_only_costs_hashing(cache: NodeCache, content: bytes) -> None:
    entry = cache.entry("run", "checkpoint_1", "a")
    put(entry, ("a", b"a"))
    Path(entry.folder, "index.json").write_bytes(content)
    assert missing(entry, [cached("a", b"a")]) == []


def test_a_killed_filler_blocks_nobody_and_leaves_nothing(cache: NodeCache) -> None:
    entry = cache.entry("run", "checkpoint_1", "a")
    whole = cached("half", b"half and half")
    with running(hold_filling, entry) as (process, _):
        assert not entry.remove()
        process.kill()
        process.join()
        assert missing(entry, [whole]) == ["half"]
        assert os.listdir(entry.directory) == []


@pytest.mark.parametrize("steps", [1, 3, 11, 40])
def test_a_process_killed_at_any_moment_blocks_nobody(cache: NodeCache, tmp_path: Path, steps: int) -> None:
    sources = saved(tmp_path / "source", {f"{number}": bytes([number]) * 100 for number in range(20)})
    root, entry = str(tmp_path / "cache"), cache.entry("run", "checkpoint_1", "a")
    with running(use_without_end, root, sources) as (process, pipe):
        for _ in range(steps):
            assert pipe.recv() == "step"
        process.kill()
        process.join()
    assert entry.link(sources) == len(sources)
    assert missing(entry, [file for _, file in sources]) == []
    assert os.listdir(Path(entry.folder, "new")) == []
    cache.drop_run("run")
    assert make_room(cache, 0)
    assert sorted(os.listdir(root)) == ["promised", "trash"]
    assert os.listdir(Path(root, "trash")) == []


def test_one_process_fills_and_the_others_find_it(cache: NodeCache, tmp_path: Path) -> None:
    content = os.urandom(MIB)
    entry, log = cache.entry("run", "checkpoint_1", "a"), tmp_path / "log"
    arguments = (entry, cached("a", content), content, str(log))
    processes = [SPAWN.Process(target=fill_if_missing, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert log.read_text() == "fetched\n"


def test_who_wants_to_fill_waits_for_who_does(cache: NodeCache) -> None:
    entry, entered = cache.entry("run", "checkpoint_1", "a"), threading.Event()

    def fill() -> None:
        with entry.filling():
            entered.set()

    waiting = threading.Thread(target=fill)
    with entry.filling():
        waiting.start()
        wait_for_waiter(entry.directory)
        assert not entered.is_set()
    waiting.join()
    assert entered.is_set()


def test_a_reader_does_not_keep_others_from_filling(cache: NodeCache) -> None:
    entry = cache.entry("run", "checkpoint_1", "a")
    with running(hold_reading, entry):
        put(entry, ("a", b"a"))
        assert missing(entry, [cached("a", b"a")]) == []


def test_ranks_that_link_and_one_that_fills_at_once(cache: NodeCache, tmp_path: Path) -> None:
    sources = saved(tmp_path / "source", {f"rank-{rank}": os.urandom(100) for rank in range(3)})
    entry = cache.entry("run", "checkpoint_1", "a")
    processes = [SPAWN.Process(target=link_often, args=(entry, source, file, 30)) for source, file in sources]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        assert set(missing(entry, [file for _, file in sources])) <= {"rank-0", "rank-1", "rank-2"}
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert missing(entry, [file for _, file in sources]) == []
    assert os.listdir(Path(entry.folder, "new")) == []


def test_removal_races_with_use(cache: NodeCache) -> None:
    """Whoever holds an entry has its folder under him, however often it is removed."""
    entry, stop = cache.entry("run", "checkpoint_1", "a"), threading.Event()

    def remove() -> None:
        while not stop.is_set():
            entry.remove()
            cache.drop_run("run")

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for number in range(200):
            with entry.filling():
                Path(entry.directory, "file").write_text(str(number))
                assert Path(entry.directory, "file").read_text() == str(number)
    finally:
        stop.set()
        remover.join()


def test_an_entry_in_use_stays(cache: NodeCache) -> None:
    entry = cache.entry("run", "checkpoint_1", "a")
    put(entry, ("a", b"a"))
    with running(hold_reading, entry) as (process, _):
        assert not entry.remove()
        cache.drop_run("run")
        assert os.listdir(entry.directory) == ["a"]
        process.kill()
        process.join()
        cache.drop_run("run")
    assert not os.path.exists(os.path.dirname(entry.folder))


def test_the_root_is_this_users_alone(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    root.mkdir(mode=0o755)
    root.chmod(0o777)
    put(NodeCache(str(root)).entry("run", "checkpoint_1", "a"), ("a", b"a"))
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_a_root_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    foreign = [tmp_path / "link"]
    if os.geteuid() == 0:
        (tmp_path / "theirs").mkdir()
        os.chown(tmp_path / "theirs", 12345, 12345)
        foreign.append(tmp_path / "theirs")
    for root in foreign:
        cache = NodeCache(str(root))
        with pytest.raises(PermissionError, match="not a folder of this user"):
            put(cache.entry("run", "checkpoint_1", "a"))
        with pytest.raises(PermissionError, match="not a folder of this user"):
            make_room(cache, 0)
        with pytest.raises(PermissionError, match="not a folder of this user"), cache.hold_run("run"):
            pass


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        NodeCache("/nowhere", share=share)


# Eviction, on a small disk of its own: 64 MiB, of which entries may take half, in entries of 8 MiB.


@pytest.fixture
def small(tmp_path: Path) -> Iterator[NodeCache]:
    with tmpfs(tmp_path / "small", size="64m") as disk:
        yield NodeCache(str(disk / "cache"), share=0.5)


def fill_entries(cache: NodeCache, run: str, *names: str) -> list[Entry]:
    """Entries of 8 MiB, each made and used later than the one before it."""
    entries = [cache.entry(run, name, "a") for name in names]
    for entry in entries:
        put(entry, ("data", bytes(8 * MIB)))
        age(entry, entries.index(entry) - 100)
    return entries


def age(entry: Entry, seconds: float, *marks: str) -> None:
    when = time.time() + seconds
    for mark in marks or ("made", "used"):
        os.utime(Path(entry.folder, mark), (when, when))


def there(entries: list[Entry]) -> str:
    return "".join("x" if os.path.exists(entry.folder) else "-" for entry in entries)


def test_the_least_recently_used_go_first_and_no_more_than_must(small: NodeCache) -> None:
    entries = fill_entries(small, "run", "1", "2", "3", "4")
    entries[0].touch()
    assert make_room(small, 0)
    assert there(entries) == "xxxx"
    assert make_room(small, MIB)
    assert there(entries) == "x-xx"
    assert make_room(small, 16 * MIB)
    assert there(entries) == "x--x"


def test_all_that_may_go_goes_and_it_still_does_not_fit(small: NodeCache) -> None:
    entries = fill_entries(small, "run", "1", "2")
    assert not make_room(small, 40 * MIB)
    assert there(entries) == "--"
    assert sorted(os.listdir(os.path.dirname(os.path.dirname(entries[0].folder)))) == ["promised", "trash"]


def test_free_space_counts_as_well_as_the_share(small: NodeCache, tmp_path: Path) -> None:
    entries = fill_entries(small, "run", "1", "2")
    (tmp_path / "small" / "others").write_bytes(bytes(40 * MIB))
    assert make_room(small, 5 * MIB)
    assert there(entries) == "-x"
    assert not make_room(small, 22 * MIB)  # it would fit, with less than a twentieth left
    assert there(entries) == "--"


def test_an_entry_in_use_is_not_evicted(small: NodeCache) -> None:
    entries = fill_entries(small, "run", "1", "2", "3")
    with running(hold_reading, entries[0]):
        age(entries[0], -1000)
        assert make_room(small, 24 * MIB)
        assert there(entries) == "x--"
    with entries[0].filling():
        assert not make_room(small, 32 * MIB)


def test_the_two_newest_of_a_live_run_are_not_evicted(small: NodeCache, tmp_path: Path) -> None:
    live = fill_entries(small, "live", "1", "2", "3")
    dead = fill_entries(small, "dead", "1")
    for entry in live:
        age(entry, -1000, "used")
    live[0].touch()
    dead[0].touch()
    with running(hold_live, str(tmp_path / "small" / "cache"), "live"):
        assert not make_room(small, 32 * MIB)
        assert there(live + dead) == "-xx-"
    assert make_room(small, 32 * MIB)
    assert there(live) == "---"


def test_what_was_saved_is_newer_than_what_was_only_fetched(small: NodeCache, tmp_path: Path) -> None:
    sources = saved(tmp_path / "small" / "source", {"data": bytes(8 * MIB)})
    newest = small.entry("live", "5", "a")
    assert newest.link(sources) == 1
    os.unlink(sources[0][0])
    age(newest, -1000, "used", "made", "saved")
    fetched = fill_entries(small, "live", "1", "2")
    with small.hold_run("live"):
        assert not make_room(small, 32 * MIB)
    assert there([newest, *fetched]) == "x-x"


def test_a_run_that_is_dropped_takes_no_other_with_it(small: NodeCache) -> None:
    one, other = fill_entries(small, "run", "1", "2"), fill_entries(small, "run-1", "1")
    small.drop_run("run")
    assert there(one + other) == "--x"


def test_what_a_killed_eviction_left_is_swept(small: NodeCache, tmp_path: Path) -> None:
    (entry,) = fill_entries(small, "run", "1")
    trash = tmp_path / "small" / "cache" / "trash"
    trash.mkdir()
    os.rename(entry.folder, trash / "left")
    assert make_room(small, 30 * MIB)
    assert os.listdir(trash) == []


def test_evictions_at_once_take_no_more_than_one(small: NodeCache) -> None:
    entries, all_promised = fill_entries(small, "run", "1", "2", "3", "4"), threading.Barrier(4, timeout=60)

    def ask(name: str) -> None:
        with small.room(small.entry("run", name, "a"), 2 * MIB):
            all_promised.wait()

    threads = [threading.Thread(target=ask, args=(name,)) for name in "5678"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert there(entries) == "-xxx"


@pytest.mark.parametrize("filled", [0, 10, 20])
def test_room_that_another_process_was_promised_is_no_room(small: NodeCache, filled: int) -> None:
    """Whatever part of it is filled already: 32 MiB are the share, 20 the promise."""
    entry = small.entry("run", "1", "a")
    with running(hold_room, small, entry, 20 * MIB, filled * MIB) as (process, _):
        assert make_room(small, 12 * MIB - 2 * PAGES)
        with small.room(small.entry("run", "2", "a"), 10 * MIB) as fits:
            assert fits
            assert not make_room(small, 4 * MIB)
        process.kill()
        process.join()
    assert make_room(small, 30 * MIB), "the promise outlived its process"
    assert os.listdir(Path(os.path.dirname(os.path.dirname(entry.folder)), "promised")) == []


def test_processes_that_fill_at_once_stay_within_the_share(small: NodeCache) -> None:
    """Each asks before any has written a byte."""
    entries = [small.entry("run", str(number), "a") for number in range(4)]
    with contextlib.ExitStack() as stack:
        fits = [stack.enter_context(small.room(entry, 10 * MIB)) for entry in entries]
        for entry in (entry for entry, fit in zip(entries, fits, strict=True) if fit):
            stack.enter_context(entry.reading())
            put(entry, ("data", bytes(10 * MIB)))
    assert fits == [True, True, True, False]
    assert make_room(small, 0)
    assert there(entries) == "xxx-"


def test_a_file_whose_owner_kept_it_is_the_cache_s_own_once_it_was_opened(cache: NodeCache, tmp_path: Path) -> None:
    entry, content = cache.entry("run", "checkpoint_1", "a"), os.urandom(3 * MIB)
    sources = saved(tmp_path / "kept", {"model": content, "gone": content})
    assert entry.link(sources) == 2
    os.unlink(tmp_path / "kept" / "gone")
    alone = os.stat(os.path.join(entry.directory, "gone")).st_ino
    assert missing(entry, [file for _, file in sources]) == []
    with (tmp_path / "kept" / "model").open("r+b") as file:
        file.write(b"trained on")
    for name in ("model", "gone"):
        assert Path(entry.directory, name).read_bytes() == content
    assert os.stat(os.path.join(entry.directory, "gone")).st_ino == alone, "it was copied for nothing"
    assert sorted(os.listdir(entry.directory)) == ["gone", "model"]
