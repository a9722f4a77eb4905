"""Stores from an address and a grant: they travel to another process without a secret, and work there."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import RequestError
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer.open_store import open_bucket
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


def in_another_process(pickled: bytes, env: dict[str, str]) -> str:
    env = {**os.environ, **env}
    done = subprocess.run([sys.executable, "-c", READ_IT], input=pickled, env=env, capture_output=True, check=False)
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


def test_a_directory_travels(tmp_path: Path) -> None:
    store = PosixStore(str(tmp_path / "mount"))
    store.write_small("greeting", b"hello")
    assert in_another_process(pickle.dumps(store), {}) == "hello 5"


def test_gcs_as_far_as_a_stand_in_goes(tiny_gcs: TinyGcs) -> None:
    store = open_bucket(BucketAddress("gs", "bucket", "run", None, tiny_gcs.endpoint), Grant("ambient", "none", "test"))
    again = pickle.loads(pickle.dumps(store))
    again.write_small("a b/ü", b"hello")
    assert tiny_gcs.objects == {"bucket/run/a b/ü": b"hello"}
    store.delete(["a b/ü"])
    assert tiny_gcs.objects == {}


def test_other_schemes_are_refused() -> None:
    with pytest.raises(RequestError, match="ftp://bucket"):
        open_bucket(BucketAddress("ftp", "bucket", ""), Grant("ambient", "none", "test"))
