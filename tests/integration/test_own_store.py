"""A store of the user's own: a folder that is all the credentials reach, a private authority, KMS, who pays, hosts."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress, BucketOptions
from ray_anystorage.testing.s3_server import DOMAIN, HOST, S3Server
from ray_anystorage.transfer import s3_forked, s3_store, s3_upload
from ray_anystorage.transfer.pyarrow_fs import RecipeS3FileSystem, StoreFileSystem
from ray_anystorage.transfer.retry import Transient
from ray_anystorage.transfer.s3_store import S3Store
from tests.harness.certificates import make_authority
from tests.harness.faulty_proxy import faulty_proxy
from tests.harness.mounts import cannot
from tests.harness.own_driver import LARGE, TRAINER, TUNER, run_driver
from tests.harness.ray_cluster import RayCluster, leave_clean
from tests.harness.s3 import keys_of
from tests.harness.watching_proxy import Seen, WatchingProxy, outside, watching_proxy

FOLDER = "team a/x"  # a blank, too: it is written %20 on its way
KEY = "4f1c2d3e-0000-4444-8888-123456789abc"
ASKING = {"RAY_ANYSTORAGE_KMS_KEY": KEY, "RAY_ANYSTORAGE_REQUESTER_PAYS": "true"}
ENCRYPTED = {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": KEY}


def keys_for(s3_server: S3Server, endpoint: str, home: Path) -> dict[str, str]:
    return {
        **keys_of(s3_server),
        "RAY_ANYSTORAGE_ENDPOINT": endpoint,
        "RAY_ANYSTORAGE_REGION": s3_server.region,
        "RAY_ANYSTORAGE_PROBE_TIMEOUT": "60",  # on a busy machine too, the bucket is one that works
        "RAY_ANYSTORAGE_CREDENTIALS": "env",
        "HOME": str(home),
    }


@pytest.fixture
def narrow(s3_server: S3Server, bucket: str) -> Iterator[WatchingProxy]:
    """The store as credentials see it that reach one folder of the bucket."""
    with watching_proxy(s3_server.endpoint) as proxy:
        proxy.refuses = outside(bucket, FOLDER)
        yield proxy


@pytest.fixture
def here(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This process with the keys of the server, and nobody's settings; what the package sets is undone."""
    before = dict(os.environ)
    leave_clean(monkeypatch)
    for name, value in keys_for(s3_server, s3_server.endpoint, tmp_path).items():
        monkeypatch.setenv(name, value)
    yield monkeypatch
    os.environ.clear()
    os.environ.update(before)


def test_the_policy_of_these_tests_refuses_what_stock_pyarrow_asks(
    s3_server: S3Server, bucket: str, narrow: WatchingProxy
) -> None:
    stock = pyarrow.fs.S3FileSystem(
        access_key=s3_server.access_key,
        secret_key=s3_server.secret_key,
        endpoint_override=narrow.endpoint.removeprefix("http://"),
        scheme="http",
        region=s3_server.region,
    )
    with pytest.raises(OSError, match=r"(?i)access.?denied|forbidden"):
        stock.create_dir(f"{bucket}/{FOLDER}/mine")
    assert narrow.refused


@pytest.mark.soak
@pytest.mark.needs_ray
def test_train_runs_with_rights_to_one_folder_behind_a_private_authority_and_encrypted(
    ray_cluster: RayCluster, s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    ca_file, tls = make_authority(tmp_path)
    folder, home = f"s3://{bucket}/{FOLDER}", f"{bucket}/{FOLDER}/mine"
    with watching_proxy(s3_server.endpoint, tls=tls) as proxy:
        proxy.refuses = outside(bucket, FOLDER)
        env = keys_for(s3_server, proxy.endpoint, tmp_path)
        first, _ = run_driver(ray_cluster, TRAINER, env | {"RAY_ANYSTORAGE_CA_FILE": str(ca_file)}, folder, "3", home)
        plain = len(proxy.seen)
        resumed, _ = run_driver(ray_cluster, TRAINER, env | {"AWS_CA_BUNDLE": str(ca_file)} | ASKING, folder, "4", "")
    assert first[:3] == [3, 0, LARGE]
    assert first[3] > 3, "s3fs saw nothing in the worker"
    assert resumed == [4, 3, LARGE, None]
    assert [str(seen) for seen in proxy.refused] == []
    assert {"delete", "part", "PUT", "GET"} <= {seen.name for seen in proxy.seen[:plain]}
    assert all_asked_for(proxy.seen[plain:])
    keys = s3_server.keys(bucket)
    assert all(key.startswith(f"{FOLDER}/mine/") for key in keys)
    assert len([key for key in keys if key.endswith("large.bin")]) == 1, "older checkpoints were not deleted"
    for key in (f"{FOLDER}/mine/checkpoint_manager_snapshot.json", *(key for key in keys if key.endswith("large.bin"))):
        head = s3_server.client().head_object(Bucket=bucket, Key=key)
        assert (head.get("ServerSideEncryption"), head.get("SSEKMSKeyId")) == ("aws:kms", KEY), key


@pytest.mark.soak
@pytest.mark.needs_ray
def test_a_tune_run_with_rights_to_one_folder_that_encrypts_and_pays(
    ray_cluster: RayCluster, s3_server: S3Server, bucket: str, narrow: WatchingProxy, tmp_path: Path
) -> None:
    env = keys_for(s3_server, narrow.endpoint, tmp_path) | ASKING
    assert run_driver(ray_cluster, TUNER, env, f"s3://{bucket}/{FOLDER}")[0] == [1]
    assert [str(seen) for seen in narrow.refused] == []
    assert all_asked_for(narrow.seen)


def encrypting_store(s3_server: S3Server, bucket: str, endpoint: str) -> S3Store:
    options = BucketOptions(requester_pays=True, encryption="aws:kms", kms_key=KEY)
    address = BucketAddress("s3", bucket, FOLDER, s3_server.region, endpoint, options)
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    return S3Store(address, Grant("env", "test", "test", (), Secrets(keys)))


def all_asked_for(seen: list[Seen]) -> bool:
    """Every request says who pays, and every one that makes an object how to encrypt it."""
    unpaid = [str(one) for one in seen if one.headers.get("x-amz-request-payer") != "requester"]
    made = [one for one in seen if one.method != "GET" and one.name in ("PUT", "uploads", "copy")]
    open_ones = [str(one) for one in made if not ENCRYPTED.items() <= one.headers.items()]
    assert (unpaid, open_ones) == ([], [])
    return {"PUT"} <= {one.name for one in made}


def test_copies_large_objects_and_forked_processes_ask_the_same(
    s3_server: S3Server, bucket: str, narrow: WatchingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "COPY_PART_BYTES", 6 << 20)
    monkeypatch.setattr(s3_upload, "COPY_PART_BYTES", 6 << 20)
    store, content = encrypting_store(s3_server, bucket, narrow.endpoint), os.urandom(LARGE)
    store.write_small("small", b"small")
    upload = store.begin("large", len(content))
    upload.part(0, 0, content)
    tag = upload.commit()
    assert store.etag("large") == tag
    store.copy("small", "small copy", store.etag("small"), 5)
    with pytest.raises(errors.BucketError, match="NotImplemented"):  # this server has no part copies with a key
        store.copy("large", "large copy", tag, len(content))
    with monkeypatch.context() as forked:
        forked.setattr(s3_forked, "obstore_is_lost", lambda: True)
        store.write_small("forked", b"small")
    back = bytearray(len(content))
    store.read_range("large", 0, memoryview(back))
    assert back == content
    assert dict(store.list("")).keys() == {"small", "small copy", "large", "forked"}
    store.delete(["small", "forked"])
    store.close()
    assert all_asked_for(narrow.seen)
    assert {"copy", "part copy", "uploads", "delete"} <= {seen.name for seen in narrow.seen}
    assert narrow.refused == []


def test_an_encrypted_object_whose_completion_got_no_answer_is_known_again(s3_server: S3Server, bucket: str) -> None:
    with faulty_proxy(s3_server.endpoint) as proxy:
        store = encrypting_store(s3_server, bucket, proxy.endpoint)
        upload = store.begin("large", LARGE)
        upload.part(0, 0, bytes(LARGE))
        completions = itertools.count()
        proxy.rule = lambda method, path: (
            ("truncate" if next(completions) == 0 else "404") if method == "POST" and "uploadId" in path else None
        )
        with pytest.raises(Transient):
            upload.commit()
        assert upload.commit() == store.etag("large")
        store.close()


def test_an_authority_that_is_not_trusted_or_not_there_stops_the_run_before_it_starts(
    s3_server: S3Server, bucket: str, tmp_path: Path, here: pytest.MonkeyPatch
) -> None:
    ca_file, tls = make_authority(tmp_path)
    with watching_proxy(s3_server.endpoint, tls=tls) as proxy:
        here.setenv("RAY_ANYSTORAGE_ENDPOINT", proxy.endpoint)
        with pytest.raises(errors.BucketError, match="RAY_ANYSTORAGE_CA_FILE") as raised:
            anystorage.run_config("mine", artifact_storage=f"s3://{bucket}/x", tier="artifact")
        assert "no secure connection" in str(raised.value)
        here.setenv("RAY_ANYSTORAGE_CA_FILE", str(tmp_path / "gone.pem"))
        with pytest.raises(errors.BucketError, match=r"gone\.pem cannot be read on this node"):
            anystorage.run_config("mine", artifact_storage=f"s3://{bucket}/x", tier="artifact")
        here.setenv("RAY_ANYSTORAGE_CA_FILE", str(ca_file))
        config = anystorage.run_config("mine", artifact_storage=f"s3://{bucket}/x", tier="artifact")
        assert dict(config.worker_runtime_env["env_vars"])["AWS_CA_BUNDLE"] == str(ca_file)
        assert type(config.recipe.build_filesystem()) is RecipeS3FileSystem
        assert not proxy.refused


HOSTED = """
import os, sys
from dataclasses import replace
import ray_anystorage as anystorage
from ray_anystorage.transfer.pyarrow_fs import build
config = anystorage.run_config("mine", artifact_storage=sys.argv[1], tier="artifact", credentials="env")
store = config.recipe.home.open()
os.environ.update(config.worker_runtime_env["env_vars"])
store.write_small("small", b"small")
upload = store.begin("large", 9 << 20)
upload.part(0, 0, bytes(9 << 20))
upload.commit()
store.copy("small", "copy")
native = config.recipe.build_filesystem()
own = build(replace(config.recipe.filesystem, copies_folders=True))
for filesystem in (native, own):
    with filesystem.open_output_stream(f"{config.recipe.fs_path}/mine/{type(filesystem).__name__}") as stream:
        stream.write(b"state")
print(*sorted(f"{key}:{size}" for key, size in store.list("")))
"""


def test_the_bucket_is_named_in_the_host_where_the_store_wants_that(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        cannot("only root can have a hosts file of its own for a process")
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{HOST} localhost\n{HOST} {bucket}.{DOMAIN}\n")  # the host alone leads nowhere
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    endpoint = s3_server.endpoint.replace(HOST, DOMAIN)
    env |= keys_for(s3_server, endpoint, tmp_path) | {"RAY_ANYSTORAGE_ADDRESSING": "virtual"}
    mounted = 'mount --bind "$0" /etc/hosts && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted, str(hosts), sys.executable, "-c", HOSTED, f"s3://{bucket}/x"],
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    written = ["RecipeS3FileSystem:5", "StoreFileSystem:5", "copy:5", "large:9437184", "small:5"]
    assert done.stdout.split() == written


def test_every_setting_of_the_store_reaches_the_workers_and_their_file_system(
    bucket: str, here: pytest.MonkeyPatch
) -> None:
    here.setenv("RAY_ANYSTORAGE_KMS_KEY", KEY)
    config = anystorage.run_config("mine", artifact_storage=f"s3://{bucket}/x", tier="artifact", credentials="env")
    carried = config.worker_runtime_env["env_vars"]
    assert carried["RAY_ANYSTORAGE_KMS_KEY"] == KEY
    assert carried["RAY_ANYSTORAGE_ARTIFACT_STORAGE"] == f"s3://{bucket}/x"
    assert type(config.recipe.build_filesystem()) is StoreFileSystem
