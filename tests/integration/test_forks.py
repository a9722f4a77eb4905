"""Processes that were forked from one that uses a bucket: they read it too, or are told how to start others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.save import Part, save
from ray_anystorage.checkpoint.tree import scan
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.s3_store import S3Store
from tests.harness.ray_cluster import clean_environment
from tests.harness.run_homes import FOLDER, settings_of

SIZE = CHUNK_BYTES + 100_000

HEAD = """
import multiprocessing, sys
import ray_anystorage as anystorage

FORK = multiprocessing.get_context("fork")

def forked(action, *arguments):
    process = FORK.Process(target=said, args=(action, *arguments))
    process.start()
    process.join(30)
    if process.exitcode is None:
        process.kill()
        sys.exit(f"{action.__name__} hangs in a forked process")
    if process.exitcode:
        sys.exit(f"{action.__name__} fails in a forked process")

def said(action, *arguments):
    print(action.__name__, action(*arguments), flush=True)
"""

CHECKPOINT = (
    HEAD
    + """
uri, path = sys.argv[1:]
checkpoint = anystorage.Checkpoint(uri)
inherited = checkpoint.open(path)
assert len(inherited.read(10)) == 10

def own_checkpoint():
    with anystorage.Checkpoint(uri).open(path) as file:
        return len(file.read())

def parents_checkpoint():
    with checkpoint.open(path) as file:
        return len(file.read())

def parents_file():
    return len(inherited.read())

def directory():
    with checkpoint.as_directory() as folder, open(f"{folder}/{path}", "rb") as file:
        return len(file.read())

for action in (own_checkpoint, parents_checkpoint, parents_file, directory):
    forked(action)
print("parent", len(inherited.read()))
"""
)

STORE = (
    HEAD
    + """
from ray_anystorage.named_bucket import bucket_recipe
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.engine import upload
from ray_anystorage.transfer.files import Outgoing

store = bucket_recipe(sys.argv[1]).open()
store.write_small("a", b"of the parent")

def every_operation():
    etag = store.write_small("b", b"of the child")
    assert store.etag("b") == etag
    assert store.size("a") == 13
    buffer = bytearray(13)
    store.read_range("a", 0, memoryview(buffer))
    assert buffer == b"of the parent"
    store.copy("b", "c", etag)
    store.delete(["a", "nothing"])
    try:
        store.size("a")
    except anystorage.errors.ObjectMissingError:
        stored = upload(store, [Outgoing(sys.argv[2], "large", CHUNK_BYTES + 1)])
        return sorted(store.list("")), stored[0].sent

forked(every_operation)
print("parent", sorted(store.list("")))
"""
)

REFUSED = (
    HEAD
    + """
from ray_anystorage.transfer.memory_store import MemoryStore

store = MemoryStore()
store.write_small("a", b"1")

def refused():
    for request in (lambda: store.size("a"), lambda: store.begin("b", 1), lambda: MemoryStore().size("a")):
        try:
            request()
        except anystorage.errors.ForkedProcessError as error:
            message = str(error)
    return message

forked(refused)
"""
)


def run(script: str, *arguments: str, env: dict[str, str] | None = None) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def variables(s3_server: S3Server, bucket: str, tmp_path: Path) -> dict[str, str]:
    return {**settings_of(tmp_path, s3_server, bucket), "TMPDIR": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
def saved_in_bucket(s3_server: S3Server, bucket: str, tmp_path: Path) -> str:
    """The URI of a checkpoint with a file of two chunks."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights").write_bytes(os.urandom(SIZE))
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    address = BucketAddress("s3", bucket, f"{FOLDER}/run", s3_server.region, s3_server.endpoint)
    home = S3Store(address, Grant("env", "the test's keys", "test", (), Secrets(keys)))
    save(home, scan(str(tmp_path / "source")), Part("checkpoint_1", "a1", 0, 1))
    commit(home, "checkpoint_1", "a1")
    home.close()
    return f"{home.uri}/checkpoint_1"


def test_a_forked_process_reads_a_checkpoint_in_a_bucket(
    s3_server: S3Server, bucket: str, tmp_path: Path, saved_in_bucket: str
) -> None:
    printed = run(CHECKPOINT, saved_in_bucket, "weights", env=variables(s3_server, bucket, tmp_path))
    lines = dict(line.split() for line in printed)
    whole, rest = str(SIZE), str(SIZE - 10)
    assert lines == {
        "own_checkpoint": whole,
        "parents_checkpoint": whole,
        "parents_file": rest,
        "directory": whole,
        "parent": rest,
    }


def test_every_operation_of_an_s3_store_works_in_a_forked_process(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(os.urandom(CHUNK_BYTES + 1))
    env = variables(s3_server, bucket, tmp_path)
    printed = run(STORE, f"s3://{bucket}/{FOLDER}", str(tmp_path / "large"), env=env)
    held = [("b", 12), ("c", 12), ("large", CHUNK_BYTES + 1)]
    assert printed == [f"every_operation {(held, True)}", f"parent {held}"]


def test_a_store_that_cannot_work_in_a_forked_process_says_how_to_start_others() -> None:
    said = " ".join(run(REFUSED))
    assert said.startswith("refused ")
    for words in ("forked", '"spawn"', "forkserver"):
        assert words in said
