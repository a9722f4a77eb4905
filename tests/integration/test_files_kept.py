"""Files between tiers: what the commands must not delete, overwrite or mistake."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_anystorage.checkpoint.ownership import Owner
from ray_anystorage.files import moving
from ray_anystorage.files.record import Record
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer import engine
from ray_anystorage.transfer.budget import Budget
from ray_anystorage.transfer.digest import CHUNK_BYTES, chunk_count
from ray_anystorage.transfer.partial import Partial
from ray_anystorage.transfer.posix_store import PosixStore
from tests.harness.counting_proxy import counting_proxy
from tests.harness.file_commands import FILES, MiB, done, make_files, make_site, refused, run, said
from tests.harness.saved import content_of


@pytest.fixture
def site(tmp_path: Path, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_site(tmp_path, s3_server, bucket, monkeypatch)


@pytest.fixture
def after_copying(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Has something happen when the files of a disk are copied, before anybody looks again."""

    def install(happen: Callable[[], Any]) -> None:
        look_again = moving._Job.look_again
        monkeypatch.setattr(moving._Job, "look_again", lambda *given: (happen(), look_again(*given))[1])

    return install


@pytest.fixture
def around_copying(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any], Callable[[], Any]], None]:
    """Has something happen when all is listed, before it is copied, and when it is copied, before any is deleted."""
    copy = moving.copy

    def install(before: Callable[[], Any], after: Callable[[], Any]) -> None:
        monkeypatch.setattr(moving, "copy", lambda *given: (before(), copy(*given), after()))

    return install


@pytest.mark.parametrize("command", ["cp", "mv", "sync"])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("shared:data/a.bin", "shared:data/"),
        ("shared:data/a.bin", "shared:data"),
        ("shared:data/a.bin", "shared:data/a.bin"),
        ("shared:data/a.bin", "shared:linked"),
        ("shared:linked/a.bin", "shared:./data/"),
        ("shared:linked/a.bin", "/{site}/shared/data/a.bin"),
        ("shared:data", "shared:linked"),
        ("artifact:data/a.bin", "artifact:data"),
        ("artifact:data/a.bin", "s3a://{bucket}/team//data/"),
        ("artifact:data/*.bin", "artifact:data"),
    ],
)
def test_nothing_is_copied_to_itself(site: Path, bucket: str, command: str, source: str, target: str) -> None:
    (site / "shared" / "linked").symlink_to("data")
    done("cp", "shared:data/a.bin", "artifact:data/")
    before = content_of(site / "shared" / "data")
    result = run(command, source, target.format(site=site, bucket=bucket))
    assert result.exit_code == 2, result.output
    assert "to itself" in result.output or "overlap" in result.output
    assert content_of(site / "shared" / "data") == before
    done("cat", "artifact:data/a.bin")


def test_mv_keeps_a_file_that_has_two_names(site: Path) -> None:
    done("cp", "shared:data", "cluster:data")
    (site / "cluster" / "data" / "a.bin").unlink()
    os.link(site / "shared" / "data" / "a.bin", site / "cluster" / "data" / "a.bin")
    etag = PosixStore(str(site)).etag("shared/data/a.bin")
    record = Record(f"{site}/shared/data/", f"{site}/cluster/data")
    with record.held():
        record.note("a.bin", moving.Copied(str(etag), str(etag)))
    refused(1, "a.bin changed since they were listed, or", "mv", "shared:data", "cluster:data")
    assert [path.name for path in (site / "shared" / "data").iterdir()] == ["a.bin"]


@pytest.mark.parametrize("target", ["artifact:data", "cluster:data"])
def test_mv_keeps_what_changed_meanwhile(site: Path, after_copying: Any, target: str) -> None:
    after_copying(lambda: (site / "shared" / "data" / "a.bin").write_bytes(b"new"))
    refused(1, "a.bin changed or went away while they were copied", "mv", "shared:data", target)
    assert done("cat", "shared:data/a.bin") == "new"
    assert said("sync", "shared:data", target, "--dry-run")["same"] == len(FILES) - 1


def test_logs_that_grow_are_copied_as_far_as_they_were_listed_and_named(site: Path, around_copying: Any) -> None:
    """Of a run that is going on; more of them than objects that may be written over."""
    logs = [site / "shared" / "data" / f"log-{number:02}" for number in range(20)]
    for log in logs:
        log.write_bytes(b"a line\n")

    def grow() -> None:
        for log in logs:
            with log.open("ab") as file:
                file.write(b"another\n")

    around_copying(grow, lambda: None)
    refused(1, "log-00, log-01, log-02, log-03, log-04", "cp", "shared:data", "cluster:data")
    there = {entry["path"] for entry in said("ls", "-r", "cluster:data")["entries"]}
    assert there == set(FILES) | {log.name for log in logs}
    assert done("cat", "cluster:data/log-07") == "a line\n"
    around_copying(lambda: None, lambda: None)
    assert said("cp", "shared:data", "cluster:data")["same"] == len(FILES)
    assert done("cat", "cluster:data/log-07") == "a line\nanother\n"


@pytest.mark.parametrize("target", ["cluster:data", "artifact:data"])
def test_sockets_pipes_and_devices_are_no_files(site: Path, target: str) -> None:
    os.mkfifo(site / "shared" / "data" / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(site / "shared" / "data" / "socket"))
        assert {copied["path"] for copied in said("mv", "shared:data", target)["copied"]} == set(FILES)
        refused(2, "there is nothing at", "cp", "shared:data/pipe", target)
        refused(2, "there is nothing at", "cp", "shared:data/socket", target)
    assert {path.name for path in (site / "shared" / "data").iterdir()} == {"pipe", "socket"}


@pytest.mark.parametrize("target", ["cluster:data", "artifact:elsewhere", "s3://{other}/data"])
@pytest.mark.parametrize("command", ["cp", "mv"])
def test_an_object_that_changed_since_it_was_listed_is_not_copied_and_the_others_are(
    site: Path, s3_server: S3Server, bucket: str, around_copying: Any, command: str, target: str
) -> None:
    done("cp", "shared:data", "artifact:data")
    target = target.format(other=s3_server.make_bucket())
    size = FILES["a.bin"]  # the same as before: only its etag tells

    def change() -> None:
        for name in ("a.bin", "e f.txt"):
            s3_server.client().put_object(Bucket=bucket, Key=f"team/data/{name}", Body=bytes(FILES[name]))

    around_copying(change, lambda: None)
    refused(1, "a.bin, e f.txt changed or went away while they were copied", command, "artifact:data", target)
    there = {entry["path"] for entry in said("ls", "-r", target)["entries"]}
    assert there == set(FILES) - {"a.bin", "e f.txt"}
    assert said("du", "artifact:data/a.bin")["bytes"] == size
    around_copying(lambda: None, lambda: None)
    again = said("cp", "artifact:data", target)
    assert {"a.bin", "e f.txt"} <= {entry["path"] for entry in again["copied"]}
    assert again["same"] == len(FILES) - 2


def test_objects_that_changed_hold_up_no_other_and_nothing_is_fetched_twice(
    site: Path, s3_server: S3Server, bucket: str, around_copying: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {f"{number:02}.bin": os.urandom(1000) for number in range(20)}
    large = {"kept.bin": os.urandom(5 * CHUNK_BYTES), "replaced.bin": os.urandom(3 * CHUNK_BYTES)}
    for name, content in {**few, **large}.items():
        (site / "shared" / "data" / name).write_bytes(content)
    done("cp", "shared:data", "artifact:data")

    def change() -> None:
        for name, content in {**few, "replaced.bin": large["replaced.bin"]}.items():
            s3_server.client().put_object(Bucket=bucket, Key=f"team/data/{name}", Body=content[::-1])

    around_copying(change, lambda: None)
    with counting_proxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("RAY_ANYSTORAGE_ENDPOINT", proxy.endpoint)
        refused(1, "00.bin, 01.bin, 02.bin, 03.bin, 04.bin", "cp", "artifact:data", "cluster:data")
        fetched = {key.rpartition("/")[2]: size for key, size in proxy.fetched[""].items()}
    assert fetched["kept.bin"] == len(large["kept.bin"])
    assert all(fetched.get(name, 0) <= len(content) for name, content in {**few, **large}.items())
    copied = {path for path, content in content_of(site / "cluster" / "data").items() if content is not None}
    assert copied == {*FILES, "kept.bin"}, "nothing is under way either"
    around_copying(lambda: None, lambda: None)
    monkeypatch.setenv("RAY_ANYSTORAGE_ENDPOINT", s3_server.endpoint)
    again = said("cp", "artifact:data", "cluster:data")
    assert {entry["path"] for entry in again["copied"]} == {*few, "replaced.bin"}
    assert (site / "cluster" / "data" / "replaced.bin").read_bytes() == large["replaced.bin"][::-1]


def test_a_large_object_that_changes_while_it_is_fetched_leaves_nothing(
    site: Path, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, note, noted = os.urandom(12 * CHUNK_BYTES), Partial.note, threading.Event()
    (site / "shared" / "data" / "large.bin").write_bytes(content)
    done("cp", "shared:data/large.bin", "artifact:data/")

    def change(*given: Any) -> None:
        note(*given)
        if not noted.is_set():
            noted.set()
            s3_server.client().put_object(Bucket=bucket, Key="team/data/large.bin", Body=b"new")

    monkeypatch.setattr(Partial, "note", change)
    monkeypatch.setattr(engine, "_budget", lambda *_: Budget(requests=1, first_requests=1))
    refused(1, "large.bin changed or went away while they were copied", "cp", "artifact:data", "cluster:data")
    assert noted.is_set()
    assert not list((site / "cluster").rglob("*.part"))
    monkeypatch.setattr(Partial, "note", note)
    done("cp", "artifact:data", "cluster:data")
    assert content_of(site / "cluster" / "data") == {"large.bin": b"new"}


def test_a_large_file_that_is_cut_off_while_it_is_sent_leaves_nothing(
    site: Path, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, note, noted = site / "shared" / "data" / "large.bin", Partial.note, threading.Event()
    large.write_bytes(os.urandom(12 * CHUNK_BYTES))

    def change(*given: Any) -> None:
        note(*given)
        if not noted.is_set():
            noted.set()
            os.truncate(large, CHUNK_BYTES)

    monkeypatch.setattr(Partial, "note", change)
    monkeypatch.setattr(engine, "_budget", lambda *_: Budget(requests=1, first_requests=1))
    refused(1, "large.bin changed or went away while they were copied", "cp", "shared:data", "artifact:data")
    assert noted.is_set()
    assert not s3_server.client().list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert not list((site / "local").rglob("*.parts"))
    assert {entry["path"] for entry in said("ls", "-r", "artifact:data")["entries"]} == set(FILES)
    monkeypatch.setattr(Partial, "note", note)
    done("cp", "shared:data", "artifact:data")
    assert said("du", "artifact:data/large.bin")["bytes"] == CHUNK_BYTES


@pytest.mark.parametrize("target", ["cluster:data", "artifact:data"])
def test_a_mount_that_goes_away_costs_nothing_of_what_was_copied(
    site: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    shared, note, noted = site / "shared", Partial.note, [0]
    (shared / "data" / "large.bin").write_bytes(os.urandom(12 * CHUNK_BYTES))

    def unmount(*given: Any) -> None:
        note(*given)
        noted[0] += 1
        if noted[0] == 2:
            shared.rename(site / "away")
            shared.mkdir()

    monkeypatch.setattr(Partial, "note", unmount)
    monkeypatch.setattr(engine, "_budget", lambda *_: Budget(requests=1, first_requests=1))
    refused(1, "it was unmounted, or replaced, while files of it were copied", "cp", "shared:data", target)
    shared.rmdir()
    (site / "away").rename(shared)
    before, noted[0] = noted[0], 100
    done("cp", "shared:data", target)
    chunks = sum(chunk_count(size) for size in (*FILES.values(), 12 * CHUNK_BYTES) if size > CHUNK_BYTES)
    assert before >= 2
    assert noted[0] - 100 == chunks - before
    assert said("cp", "shared:data", target)["same"] == len(FILES) + 1


def test_a_file_that_goes_away_after_it_was_copied_is_named(site: Path, after_copying: Any) -> None:
    """It may have been written into before."""
    after_copying(lambda: (site / "shared" / "data" / "a.bin").unlink(missing_ok=True))
    refused(1, "a.bin changed or went away while they were copied", "cp", "shared:data", "cluster:data")
    assert said("cp", "shared:data", "cluster:data")["same"] == len(FILES) - 1


def test_a_mount_that_goes_away_after_all_was_copied_takes_no_note_of_that_along(
    site: Path, after_copying: Any
) -> None:
    shared, away, times = site / "shared", site / "away", iter([True])

    def unmount() -> None:
        if next(times, False):
            shared.rename(away)
            (shared / "data").mkdir(parents=True)

    after_copying(unmount)
    refused(1, "it was unmounted, or replaced, while files of it were copied", "cp", "shared:data", "cluster:data")
    (shared / "data").rmdir()
    shared.rmdir()
    away.rename(shared)
    assert said("cp", "shared:data", "cluster:data")["same"] == len(FILES)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("shared:data", "cluster:data"),
        ("shared:data", "artifact:elsewhere"),
        ("artifact:data", "cluster:data"),
        ("artifact:data", "artifact:elsewhere"),
        ("artifact:data", "s3://{other}/data"),
    ],
)
def test_files_that_go_away_after_they_were_listed_hold_up_no_other(
    site: Path, s3_server: S3Server, bucket: str, around_copying: Any, source: str, target: str
) -> None:
    """As the checkpoints of a run that is going on do."""
    target = target.format(other=s3_server.make_bucket())
    done("cp", "shared:data", "artifact:data")

    def remove() -> None:
        for name in ("a.bin", "e f.txt"):
            (site / "shared" / "data" / name).unlink()
            s3_server.client().delete_object(Bucket=bucket, Key=f"team/data/{name}")

    around_copying(remove, lambda: None)
    refused(1, "a.bin, e f.txt changed or went away while they were copied", "cp", source, target)
    there = {entry["path"] for entry in said("ls", "-r", target)["entries"]}
    assert there == set(FILES) - {"a.bin", "e f.txt"}
    around_copying(lambda: None, lambda: None)
    assert said("cp", source, target)["copied"] == []


def test_an_object_that_changes_after_it_was_copied_is_not_deleted(
    site: Path, s3_server: S3Server, bucket: str, around_copying: Any
) -> None:
    done("cp", "shared:data", "artifact:data")
    new = bytes(FILES["a.bin"])
    around_copying(lambda: None, lambda: s3_server.client().put_object(Bucket=bucket, Key="team/data/a.bin", Body=new))
    refused(1, "a.bin changed since they were listed, or", "mv", "artifact:data", "cluster:data")
    assert [one["path"] for one in said("ls", "-r", "artifact:data")["entries"]] == ["a.bin"]


def test_mv_looks_directly_before_it_deletes(site: Path, around_copying: Any) -> None:
    def change() -> None:
        (site / "shared" / "data" / "a.bin").write_bytes(b"new")
        (site / "cluster" / "data" / "sub" / "c.txt").unlink()

    around_copying(lambda: None, change)
    refused(1, "a.bin, sub/c.txt changed since they were listed, or", "mv", "shared:data", "cluster:data")
    left = [path for path in (site / "shared" / "data").rglob("*") if path.is_file()]
    assert sorted(path.name for path in left) == ["a.bin", "c.txt"]


def test_an_object_and_a_folder_of_one_name_are_told_apart(site: Path, s3_server: S3Server, bucket: str) -> None:
    for key in ("model", "model/a", "only/a"):
        s3_server.client().put_object(Bucket=bucket, Key=f"team/{key}", Body=key.encode())
    for command in (("ls",), ("cat",), ("rm", "--yes"), ("rm", "-r", "--yes")):
        refused(2, "add a slash at the end", command[0], "artifact:model", *command[1:])
    refused(2, "add a slash at the end", "cp", "artifact:model", "cluster:x")
    refused(2, "add a slash at the end", "cp", "shared:data/a.bin", "artifact:model")
    refused(2, "both a file and a folder", "cp", "artifact:", "cluster:x")
    assert [one["path"] for one in said("ls", "artifact:model/")["entries"]] == ["a"]
    done("cp", "shared:data/sub/c.txt", "artifact:only")
    refused(2, "is a file, and the files of a folder cannot go there", "cp", "shared:data", "artifact:only/a")
    done("rm", "artifact:model/", "-r", "--yes")
    assert sorted(s3_server.keys(bucket)) == ["team/model", "team/only/a", "team/only/c.txt"]
    done("rm", "artifact:model", "--yes")


def test_links_lead_the_guard_to_where_files_are(site: Path) -> None:
    outside, live = site / "outside", site / "cluster" / "live"
    make_files(outside)
    make_files(live / "checkpoint_1")
    Owner(PosixStore(str(live)), "token", "process 7 on far-away").take()
    (site / "shared" / "outside").symlink_to(outside)
    (site / "shared" / "run").symlink_to(live)
    (site / "roots").symlink_to(site / "shared")
    refused(2, "use rm", "rm", "shared:outside", "-r", "--yes")
    refused(2, "use rm", "mv", "shared:outside/a.bin", "cluster:")
    refused(1, "process 7 on far-away holds", "rm", "shared:run/checkpoint_1", "-r", "--yes")
    assert len(content_of(outside)) == len(content_of(site / "shared" / "data"))
    done("rm", str(site / "roots" / "data"), "-r", "--yes")
    assert not (site / "shared" / "data").exists()


def test_the_root_of_a_tier_is_never_made(site: Path) -> None:
    (site / "cluster").rmdir()
    for command in (("ls", "cluster:"), ("cp", "shared:data", "cluster:x"), ("cp", "shared:data", "cluster:")):
        refused(2, f"{site}/cluster, is not an existing directory", *command)
    assert not (site / "cluster").exists()


@pytest.mark.parametrize("root", ["s3://{}/team?region=us-east-1", "s3a://{}/team/", "S3://{}//team?region=us-east-1"])
def test_roots_of_other_forms(
    site: Path, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setenv("RAY_ANYSTORAGE_ARTIFACT_STORAGE", root.format(bucket))
    done("cp", "shared:data/a.bin", "artifact:x/a.bin")
    assert s3_server.keys(bucket) == ["team/x/a.bin"]
    for place in ("artifact:x/?.bin", f"s3a://{bucket}/team/x/?.bin", f"s3://{bucket}/team/x?region=us-east-1"):
        assert [one["path"] for one in said("ls", place)["entries"]] == ["a.bin"]
    done("rm", f"s3n://{bucket}/team/x/a.*?region=us-east-1", "--yes")
    assert s3_server.keys(bucket) == []


def test_a_name_comes_before_a_pattern_and_no_pattern_is_written_to(site: Path, bucket: str) -> None:
    for name in ("a[1].txt", "a1.txt"):
        (site / "shared" / "data" / name).write_text(name)
    for target in ("artifact:w", "cluster:w"):
        done("cp", "shared:data/a[1].txt", f"{target}/")
        done("cp", "shared:data/a1.txt", f"{target}/")
        assert done("cat", f"{target}/a[1].txt") == "a[1].txt"
        done("rm", f"{target}/a[1].txt", "--yes")
        assert done("cat", f"{target}/a[1].txt") == "a1.txt"
        refused(2, "is a pattern", "cp", "shared:data/a.bin", f"{target}/*")


def test_failures_are_lines(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(2, "is not a pattern", "ls", "shared:data/[z-a]")
    (site / "shared" / "file").write_text("x")
    result = run("cp", "artifact:none", "shared:x")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    refused(1, "Not a directory", "cp", "shared:data", "shared:file/below")
    result = run("cp", "shared:data", "shared:file/below", "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["type"]) == (1, "NotADirectoryError")


def test_folders_that_cannot_be_read_are_left_out_of_lists_alone(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(site / "local" / "mine")
    (site / "local" / "lost+found").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = run("ls", "local:")
    assert result.exit_code == 0
    assert "mine/" in result.stdout
    assert "lost+found is left out: Permission denied" in result.stderr
    refused(1, "Permission denied", "cp", "local:", "cluster:x")
    done("cp", "shared:data", "local:")


def test_own_folders_are_no_files_of_the_tier(site: Path) -> None:
    done("cp", "shared:data", "local:mine")
    own = next((site / "local").glob("anystorage-*"))
    assert content_of(own)
    assert [one["path"] for one in said("ls", "local:")["entries"]] == ["mine/"]
    assert {one["path"].split("/")[0] for one in said("ls", str(site), "-r")["entries"]} == {"shared", "local"}
    refused(2, "this package's own", "rm", f"local:{own.name}", "-r", "--yes")
    done("rm", "local:", "-r", "--yes")
    assert content_of(own)
    assert not (site / "local" / "mine").exists()


def test_sync_deletes_for_whole_folders_alone_and_says_what(site: Path) -> None:
    done("cp", "shared:data", "cluster:data")
    for source in ("shared:data/*.bin", "shared:data/a.bin"):
        refused(2, "is no whole folder", "sync", source, "cluster:data", "--delete", "--yes")
    (site / "shared" / "data" / "a.bin").unlink()
    for more in ("--dry-run", "--yes"):
        assert said("sync", "shared:data", "cluster:data", "--delete", more)["deleted"] == ["a.bin"]


def test_one_copy_of_two_places_at_a_time(site: Path) -> None:
    with Record(f"{site}/shared/data/", f"{site}/cluster/data").held():
        refused(1, "is going on", "cp", "shared:data", "cluster:data")
        done("cp", "shared:data", "cluster:data", "--dry-run")
    done("cp", "shared:data", "cluster:data")


def test_a_run_that_began_while_a_question_waited_is_kept(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner(PosixStore(str(site / "shared" / "data")), "token", "process 7 on far-away")
    monkeypatch.setattr("click.confirm", lambda *_: owner.take() or True)
    refused(1, "process 7 on far-away holds", "rm", "shared:data", "-r")
    assert set(FILES) <= set(content_of(site / "shared" / "data"))


@pytest.mark.parametrize("size", [1, 40 * MiB])
def test_parts_of_a_file_that_changed_are_discarded(site: Path, s3_server: S3Server, bucket: str, size: int) -> None:
    (site / "shared" / "data" / "large.bin").write_bytes(os.urandom(size))
    client, key = s3_server.client(), "team/data/large.bin"
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    temporary = site / "cluster" / "back" / ".anystorage-0123456789abcdef.part"
    temporary.parent.mkdir()
    temporary.write_bytes(b"x")
    for source, target, token in (
        (f"{site}/shared/data", f"s3://{bucket}/team/data", upload),
        (f"s3://{bucket}/team/data", f"{site}/cluster/back", str(temporary)),
    ):
        Partial(f"{Record(f'{source}/', target).folder}/parts", {key: "old"}).begin(key, token)
    done("cp", "shared:data", "artifact:data")
    done("cp", "artifact:data", "cluster:back")
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert content_of(site / "cluster" / "back") == content_of(site / "shared" / "data")
    assert not temporary.exists()


def test_a_download_is_durable_before_it_has_its_name(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("mv", "shared:data/a.bin", "artifact:x/")
    synced: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_synced(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def replace_synced(source: str, target: str) -> None:
        if target.endswith("a.bin"):
            assert source in synced
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_synced)
    monkeypatch.setattr(os, "replace", replace_synced)
    done("mv", "artifact:x/a.bin", "cluster:new/folder/")
    assert {str(site / "cluster" / "new" / "folder"), str(site / "cluster" / "new"), str(site / "cluster")} <= set(
        synced
    )


def test_cat_ends_quietly_when_its_reader_does(site: Path) -> None:
    program = f"{sys.executable} -c 'from ray_anystorage.cli.main import main; main()' cat shared:data/sub/b.bin"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} | head -c 1 > /dev/null"], env=env, capture_output=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, b"")
