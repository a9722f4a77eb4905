"""Stores and their recipes: they travel to another process without a secret, and work there."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ray_anystorage.credentials.grant import Grant, Mode
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import RequestError
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer.open_store import BucketRecipe, MountRecipe, open_bucket
from ray_anystorage.transfer.posix_store import PosixStore
from tests.harness.tiny_gcs import TinyGcs

READ_IT = """
import pickle, sys
store = pickle.loads(sys.stdin.buffer.read())
buffer = bytearray(5)
store.read_range("greeting", 0, memoryview(buffer))
upload = store.begin("large", 5)
upload.part(0, 0, buffer)
upload.commit()
print(buffer.decode(), store.size("large"))
"""

OPEN_IT = """
import os, pickle, sys
recipe = pickle.loads(sys.stdin.buffer.read())
store, folder = recipe.open(), recipe.child("below").open()
assert recipe.open() is store and recipe.child("below").open() is folder is not store
store.write_small("greeting", b"hello")
folder.write_small("greeting", b"other")
sent = store.counters.bytes_sent, folder.counters.bytes_sent
child = os.fork()
if child == 0:
    os._exit(recipe.open() is store)  # only opened: what obstore runs on does not survive a fork
assert os.waitpid(child, 0)[1] == 0
again = pickle.loads(pickle.dumps(folder))
assert again.size("greeting") == 5
print(*sorted(store.list("")), *sent, again.uri, os.environ.get("MARKED"))
"""


def in_another_process(pickled: bytes, env: dict[str, str], script: str = READ_IT) -> str:
    env = {**os.environ, **env}
    done = subprocess.run([sys.executable, "-c", script], input=pickled, env=env, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@pytest.mark.parametrize("mode", ["env", "reference"])
def test_s3_travels_without_secrets(s3_server: S3Server, bucket: str, tmp_path: Path, mode: str) -> None:
    profile = tmp_path / "credentials"
    keys = {"aws_access_key_id": s3_server.access_key, "aws_secret_access_key": s3_server.secret_key}
    profile.write_text("[team]\n" + "".join(f"{name} = {value}\n" for name, value in keys.items()))
    variables = {name.upper(): value for name, value in keys.items()}
    references = {"AWS_PROFILE": "team", "AWS_SHARED_CREDENTIALS_FILE": str(profile)}
    address = BucketAddress("s3", bucket, "run", s3_server.region, s3_server.endpoint)
    if mode == "env":
        grant = Grant("env", "the test's keys", "test", (), Secrets(variables))
        worker = {**variables, "AWS_EC2_METADATA_DISABLED": "true"}
    else:
        grant = Grant("reference", "profile 'team'", "test", tuple(references.items()))
        worker = {"AWS_EC2_METADATA_DISABLED": "true"}
    store = open_bucket(address, grant)
    store.write_small("greeting", b"hello")
    pickled = pickle.dumps(store)
    assert s3_server.secret_key.encode() not in pickled
    assert s3_server.access_key.encode() not in pickled
    assert in_another_process(pickled, worker) == "hello 5"
    store.close()


@pytest.mark.parametrize("mode", ["env", "reference"])
@pytest.mark.parametrize("prefix", ["org/artifacts", ""])
def test_a_buckets_recipe_opens_anywhere(
    s3_server: S3Server, bucket: str, tmp_path: Path, mode: Mode, prefix: str
) -> None:
    keys = {"aws_access_key_id": s3_server.access_key, "aws_secret_access_key": s3_server.secret_key}
    profile = tmp_path / "credentials"
    profile.write_text("[team]\n" + "".join(f"{name} = {value}\n" for name, value in keys.items()))
    references = {"AWS_PROFILE": "team", "AWS_SHARED_CREDENTIALS_FILE": str(profile)} if mode == "reference" else {}
    worker = {name.upper(): value for name, value in keys.items()} if mode == "env" else {}
    harmless = {**references, "AWS_EC2_METADATA_DISABLED": "true", "MARKED": "yes"}
    address = BucketAddress("s3", bucket, prefix, s3_server.region, s3_server.endpoint)
    recipe = BucketRecipe(address, mode, "the test's keys", tuple(harmless.items())).child("run")
    pickled = pickle.dumps(recipe)
    assert s3_server.secret_key.encode() not in pickled
    uri = "/".join(part for part in (f"s3://{bucket}", prefix, "run") if part)
    assert recipe.uri == uri
    said = in_another_process(pickled, worker, OPEN_IT)
    assert said == f"('below/greeting', 5) ('greeting', 5) 5 5 {uri}/below yes"
    folder = "/".join(part for part in (prefix, "run") if part)
    assert s3_server.keys(bucket) == [f"{folder}/below/greeting", f"{folder}/greeting"]


def test_a_mounts_recipe_opens_anywhere(tmp_path: Path) -> None:
    recipe = MountRecipe(str(tmp_path), requests=3).child("run")
    assert recipe == MountRecipe(str(tmp_path / "run"), 3)
    assert recipe.open().limits.requests == 3
    said = in_another_process(pickle.dumps(recipe), {}, OPEN_IT)
    assert said == f"('below/greeting', 5) ('greeting', 5) 5 5 {tmp_path}/run/below None"
    assert (tmp_path / "run" / "below" / "greeting").read_bytes() == b"other"


@pytest.mark.parametrize("name", ["..", "a/../b", "/a", "", "a//b"])
def test_a_recipe_stays_in_its_folder(name: str) -> None:
    for recipe in (MountRecipe("/mnt"), BucketRecipe(BucketAddress("s3", "bucket", "x"), "ambient", "test")):
        with pytest.raises(RequestError, match="is not a key"):
            recipe.child(name)


def test_a_directory_travels(tmp_path: Path) -> None:
    store = PosixStore(str(tmp_path / "mount"))
    store.write_small("greeting", b"hello")
    assert in_another_process(pickle.dumps(store), {}) == "hello 5"


def test_gcs_as_far_as_a_stand_in_goes(tiny_gcs: TinyGcs) -> None:
    store = open_bucket(BucketAddress("gs", "bucket", "", None, tiny_gcs.endpoint), Grant("ambient", "none", "test"))
    again = pickle.loads(pickle.dumps(store.moved(BucketAddress("gs", "bucket", "run", None, tiny_gcs.endpoint))))
    again.write_small("a b/ü", b"hello")
    assert tiny_gcs.objects == {"bucket/run/a b/ü": b"hello"}
    store.delete(["run/a b/ü"])
    assert tiny_gcs.objects == {}


def test_other_schemes_are_refused() -> None:
    with pytest.raises(RequestError, match="ftp://bucket"):
        open_bucket(BucketAddress("ftp", "bucket", ""), Grant("ambient", "none", "test"))
