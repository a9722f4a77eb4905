"""Files between tiers: a real S3 server and directories, by the commands that people type."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import far_store
from ray_anystorage.checkpoint.ownership import Owner
from ray_anystorage.cli.main import main
from ray_anystorage.policy.request import SPILLED
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.temporary import is_temporary
from tests.harness.file_commands import FILES, MiB, done, make_files, make_site, refused, said, site_env
from tests.harness.ray_cluster import clean_environment
from tests.harness.saved import content_of

PROGRAM = str(Path(sys.executable).parent / "ray-anystorage")


@pytest.fixture
def site(tmp_path: Path, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_site(tmp_path, s3_server, bucket, monkeypatch)


@pytest.mark.parametrize(
    ("first", "second"),
    [("artifact:data", "cluster:back"), ("cluster:data", "local:back"), ("artifact:x/data", "artifact:y")],
)
def test_a_folder_goes_from_place_to_place_and_back_whole(site: Path, first: str, second: str) -> None:
    done("cp", "shared:data", first)
    done("cp", first, second)
    done("cp", second, "shared:back")
    assert content_of(site / "shared" / "back") == content_of(site / "shared" / "data")


def test_what_was_copied_is_not_copied_again_until_a_side_changes(site: Path, s3_server: S3Server, bucket: str) -> None:
    assert len(said("sync", "shared:data", "artifact:data")["copied"]) == len(FILES)
    again = said("sync", "shared:data", "artifact:data")
    assert (again["copied"], again["same"]) == ([], len(FILES))
    (site / "shared" / "data" / "a.bin").write_bytes(os.urandom(3 * MiB))
    s3_server.client().put_object(Bucket=bucket, Key="team/data/sub/c.txt", Body=b"other")
    third = said("sync", "shared:data", "artifact:data")
    assert [one["path"] for one in third["copied"]] == ["a.bin", "sub/c.txt"]
    assert said("sync", "artifact:data", "cluster:data")["same"] == 0
    assert content_of(site / "cluster" / "data") == content_of(site / "shared" / "data")
    assert said("sync", "artifact:data", "cluster:data")["copied"] == []


def test_what_others_put_there_is_copied_unless_sizes_are_to_say(site: Path) -> None:
    for name in FILES:
        path = site / "cluster" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * FILES[name])
    assert said("sync", "shared:data", "cluster:data", "--size-only")["copied"] == []
    assert len(said("sync", "shared:data", "cluster:data")["copied"]) == len(FILES)


def test_sync_deletes_what_the_source_does_not_have_after_asking(site: Path, s3_server: S3Server, bucket: str) -> None:
    done("cp", "shared:data", "artifact:data")
    (site / "shared" / "data" / "a.bin").unlink()
    assert "would delete a.bin" in done("sync", "shared:data", "artifact:data", "--delete", "--dry-run")
    done("sync", "shared:data", "artifact:data", "--delete", answer="n\n")
    assert "team/data/a.bin" in s3_server.keys(bucket)
    done("sync", "shared:data", "artifact:data", "--delete", answer="y\n")
    assert sorted(s3_server.keys(bucket)) == sorted(f"team/data/{name}" for name in FILES if name != "a.bin")
    done("sync", "shared:data", "artifact:data")


def test_a_file_goes_to_a_name_or_into_a_folder(site: Path) -> None:
    done("cp", "shared:data/sub/c.txt", "artifact:one.txt")
    done("cp", "artifact:one.txt", "cluster:into/")
    done("cp", "artifact:one.txt", str(site / "two.txt"))
    done("cp", str(site / "two.txt"), "local:")
    content = (site / "shared" / "data" / "sub" / "c.txt").read_bytes()
    for path in ("cluster/into/one.txt", "two.txt", "local/two.txt"):
        assert (site / path).read_bytes() == content
    assert CliRunner().invoke(main, ["cat", "artifact:one.txt"]).stdout_bytes == content


def test_patterns_name_files(site: Path) -> None:
    done("cp", "shared:data/**/*.txt", "artifact:texts")
    listed = said("ls", "artifact:texts", "--recursive")["entries"]
    assert [one["path"] for one in listed] == ["e f.txt", "sub/c.txt", "sub/deep/d.txt"]
    assert [one["path"] for one in said("ls", "artifact:texts/sub/*.txt")["entries"]] == ["c.txt"]
    assert [one["path"] for one in said("ls", "artifact:texts")["entries"]] == ["e f.txt", "sub/"]
    refused(2, "there is nothing at", "ls", "artifact:texts/*.bin")


def test_du_adds_up(site: Path) -> None:
    for place in ("shared:data", str(site / "shared" / "data")):
        found = said("du", place)
        assert (found["files"], found["bytes"]) == (len(FILES), sum(FILES.values()))
        assert found["folders"]["sub"] == {"files": 3, "bytes": 17 * MiB + 5}


def test_a_dry_run_does_nothing(site: Path, s3_server: S3Server, bucket: str) -> None:
    output = done("cp", "shared:data", "artifact:data", "--dry-run")
    assert len(output.splitlines()) == len(FILES)
    done("cp", "shared:data/a.bin", "artifact:a.bin")
    assert "would delete a.bin" in done("rm", "artifact:a.bin", "--dry-run")
    assert s3_server.keys(bucket) == ["team/a.bin"]


def test_mv_deletes_what_is_there(site: Path, s3_server: S3Server, bucket: str) -> None:
    before = content_of(site / "shared" / "data")
    done("mv", "shared:data", "artifact:data")
    assert not (site / "shared" / "data").exists()
    done("mv", "artifact:data", "shared:again")
    assert content_of(site / "shared" / "again") == before
    assert s3_server.keys(bucket) == []


def test_rm_stays_in_the_tiers(site: Path, s3_server: S3Server, bucket: str) -> None:
    s3_server.client().put_object(Bucket=bucket, Key="others/file", Body=b"x")
    (site / "own.txt").write_text("mine")
    refused(2, "outside of the artifact folder", "rm", f"s3://{bucket}/others/file", "--yes")
    refused(2, "use rm", "rm", str(site / "own.txt"), "--yes")
    refused(2, "use rm", "mv", str(site / "own.txt"), "shared:own.txt")
    refused(2, "leads out of shared storage", "rm", "shared:../own.txt", "--yes")
    refused(2, "say --recursive", "rm", "shared:data", "--yes")
    done("cp", str(site / "own.txt"), f"s3://{bucket}/others/second")
    assert sorted(s3_server.keys(bucket)) == ["others/file", "others/second"]
    assert (site / "own.txt").read_text() == "mine"
    done("rm", "shared:data", "--recursive", "--yes")
    assert list((site / "shared").iterdir()) == []


@pytest.mark.parametrize(
    "command", [("rm", "shared:live/checkpoint_1", "-r", "--yes"), ("mv", "shared:live", "cluster:x")]
)
def test_nothing_of_a_run_that_is_going_on_is_deleted(site: Path, command: tuple[str, ...]) -> None:
    home = site / "shared" / "live"
    make_files(home / "checkpoint_1")
    Owner(PosixStore(str(home)), "token", "process 7 on far-away").take()
    before = content_of(home)
    refused(1, "process 7 on far-away holds", *command)
    assert content_of(home) == before
    done(*command, "--not-running")
    assert not (home / "checkpoint_1").exists()


def test_checkpoints_of_runs_on_mounts_are_for_prune(site: Path) -> None:
    done("cp", "shared:data/a.bin", f"artifact:{SPILLED}/run-1/checkpoint/a.bin")
    refused(1, "ray-anystorage prune", "rm", f"artifact:{SPILLED}", "-r", "--yes")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("shared:nothing", "there is nothing at"),
        ("user:x", "set RAY_ANYSTORAGE_USER_STORAGE"),
        ("https://host/x", "expected a path, or one that begins with"),
        ("shared:../x", "leads out of shared storage"),
        ("", "names no place"),
    ],
)
def test_what_cannot_be_meant_is_named(site: Path, place: str, words: str) -> None:
    refused(2, words, "ls", place)


def test_a_place_inside_of_the_other_is_refused(site: Path) -> None:
    refused(2, "overlap", "cp", "shared:data", "shared:data/copy")
    done("cp", "shared:data", "artifact:x")
    refused(2, "overlap", "sync", "artifact:x", "artifact:x")


def test_without_a_bucket_the_artifact_folder_is_missed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ANYSTORAGE_ARTIFACT_STORAGE")
    refused(2, "RAY_ANYSTORAGE_ARTIFACT_STORAGE", "ls", "artifact:")


LARGE = 320 * MiB
REST = CHUNK_BYTES + sum(FILES.values())  # what may come with it: the other files, and a part whose note was torn


@pytest.fixture
def far(
    site: Path, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[far_store.FarStore, dict[str, str]]]:
    """A store far away, and the environment of commands that use it."""
    (site / "shared" / "data" / "large.bin").write_bytes(os.urandom(LARGE))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # of the proxy: this process is elsewhere
    with far_store.running(s3_server.endpoint, round_trip=0.02, rate=10e6) as store:
        env = clean_environment(site_env(site, s3_server, bucket)) | {"RAY_ANYSTORAGE_ENDPOINT": store.endpoint}
        env |= {"PYTHONPATH": os.pathsep.join(sys.path)}
        yield store, {name: value for name, value in env.items() if not name.startswith("AWS_ENDPOINT")}


def kill_after(command: list[str], env: dict[str, str], enough: Any) -> None:
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not enough():
            assert process.poll() is None, "it ended before it was to be killed"
        process.send_signal(signal.SIGKILL)


def noted(site: Path) -> int:
    """Bytes of the large file that the record of the command says are there."""
    paths = site.glob("local/anystorage-*/copies/*/parts/*.parts")
    texts = [path.read_text() for path in paths if path.stat().st_size > 1000]
    lines = [line for text in texts for line in text.split("\n") if '"index"' in line and line.endswith("}")]
    return len({json.loads(line)["index"] for line in lines}) * CHUNK_BYTES


def quiet_counts(store: far_store.FarStore) -> Any:
    """What has gone by when all is handed on that was on its way at the kill."""
    counts = store.counts()
    while True:
        time.sleep(1)
        last, counts = counts, store.counts()
        if (last.bytes_up, last.bytes_down) == (counts.bytes_up, counts.bytes_down):
            return counts


def finish(command: list[str], env: dict[str, str]) -> None:
    subprocess.run(command, env=env, check=True, timeout=120, stderr=subprocess.PIPE)


def test_an_upload_that_was_killed_goes_on(site: Path, far: tuple[far_store.FarStore, dict[str, str]]) -> None:
    store, env = far
    command = [PROGRAM, "cp", "shared:data", "artifact:data"]
    kill_after(command, env, lambda: store.counts().bytes_up > 0.8 * LARGE and noted(site) > 0.1 * LARGE)
    before, there = quiet_counts(store), noted(site)
    finish(command, env)
    sent = store.counts().since(before).bytes_up
    assert sent < LARGE - there + REST, "what was sent is sent again"
    done("cp", "artifact:data", "cluster:back")
    assert content_of(site / "cluster" / "back") == content_of(site / "shared" / "data")


def test_a_download_that_was_killed_goes_on(site: Path, far: tuple[far_store.FarStore, dict[str, str]]) -> None:
    store, env = far
    done("cp", "shared:data", "artifact:data")
    command = [PROGRAM, "cp", "artifact:data", "cluster:back"]
    kill_after(command, env, lambda: store.counts().bytes_down > 0.8 * LARGE and noted(site) > 0.1 * LARGE)
    assert not (site / "cluster" / "back" / "large.bin").exists()
    before, there = quiet_counts(store), noted(site)
    finish(command, env)
    fetched = store.counts().since(before).bytes_down
    assert fetched < LARGE - there + REST, "what was fetched is fetched again"
    assert content_of(site / "cluster" / "back") == content_of(site / "shared" / "data")


def test_a_copy_between_mounts_that_ran_out_of_space_goes_on(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "shared" / "data" / "large.bin").write_bytes(os.urandom(LARGE))
    pwrite, read_pieces, room, read = os.pwrite, PosixStore.read_pieces, [LARGE // 2], [0]

    def written(descriptor: int, data: memoryview, offset: int) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    def counted(store: PosixStore, key: str, offset: int, size: int, *rest: Any) -> None:
        read[0] += size
        read_pieces(store, key, offset, size, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", written)
        refused(1, "No space left", "cp", "shared:data", "cluster:data")
    assert not (site / "cluster" / "data" / "large.bin").exists()
    there = noted(site)
    assert there > LARGE // 4
    (part,) = (path for path in (site / "cluster").rglob("*") if is_temporary(path.name))
    assert part.stat().st_blocks * 512 < 2 * LARGE // 3, "it keeps room that it does not use"
    monkeypatch.setattr(PosixStore, "read_pieces", counted)
    done("cp", "shared:data", "cluster:data")
    assert read[0] <= LARGE - there + sum(FILES.values()), "what was copied is copied again"
    assert content_of(site / "cluster" / "data") == content_of(site / "shared" / "data")
    assert not [path for path in (site / "cluster").rglob("*") if is_temporary(path.name)]


@pytest.mark.soak
def test_a_file_that_changed_after_a_kill_is_sent_anew(
    site: Path, far: tuple[far_store.FarStore, dict[str, str]]
) -> None:
    _, env = far
    command = [PROGRAM, "cp", "shared:data", "artifact:data"]
    kill_after(command, env, lambda: noted(site) > 0)
    (site / "shared" / "data" / "large.bin").write_bytes(os.urandom(LARGE))
    finish(command, env)
    done("cp", "artifact:data", "cluster:back")
    assert content_of(site / "cluster" / "back") == content_of(site / "shared" / "data")
