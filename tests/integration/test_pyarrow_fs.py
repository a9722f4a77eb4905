"""The native file systems: they work from recipes, and their pickles hold no secret."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow.fs
import pytest

from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import RequestError
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe, RecipeGcsFileSystem, RecipeS3FileSystem, build

AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE")

READ_BACK = """
import pickle, sys
filesystem = pickle.load(open(sys.argv[1], "rb"))
print(type(filesystem).__name__, filesystem.open_input_stream(sys.argv[2]).read().decode())
"""


@pytest.fixture
def address(s3_server: S3Server, bucket: str) -> BucketAddress:
    return BucketAddress("s3", bucket, "runs", s3_server.region, s3_server.endpoint)


@pytest.fixture
def full_rights(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AWS:
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)


def write(filesystem: pyarrow.fs.FileSystem, path: str, data: bytes) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


@pytest.mark.usefixtures("full_rights")
def test_s3_stays_what_it_is_through_pickling_without_a_secret(s3_server: S3Server, address: BucketAddress) -> None:
    filesystem = build(FileSystemRecipe(address))
    write(filesystem, f"{address.path}/file", b"content")
    pickled = pickle.dumps(filesystem)
    loaded = pickle.loads(pickled)
    assert isinstance(loaded, RecipeS3FileSystem)
    assert isinstance(loaded, pyarrow.fs.S3FileSystem)
    assert loaded == filesystem
    assert loaded.type_name == "s3"
    assert loaded.open_input_stream(f"{address.path}/file").read() == b"content"
    assert s3_server.keys(address.bucket) == ["runs/file"]
    for value in (s3_server.secret_key, s3_server.access_key):
        assert value.encode() not in pickled


@pytest.mark.usefixtures("full_rights")
def test_the_secret_shows_where_the_stock_class_is_given_it(s3_server: S3Server, address: BucketAddress) -> None:
    """The search for the secret above finds one when it is there."""
    stock = pyarrow.fs.S3FileSystem(
        access_key=s3_server.access_key, secret_key=s3_server.secret_key, region="us-east-1"
    )
    assert s3_server.secret_key.encode() in pickle.dumps(stock)


@pytest.mark.parametrize("file", ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"])
@pytest.mark.usefixtures("full_rights")
def test_another_process_finds_the_profile_that_the_recipe_names(
    s3_server: S3Server, address: BucketAddress, tmp_path: Path, file: str
) -> None:
    header = "[profile team]" if file == "AWS_CONFIG_FILE" else "[team]"
    keys = f"aws_access_key_id={s3_server.access_key}\naws_secret_access_key={s3_server.secret_key}\n"
    (tmp_path / "keys").write_text(f"[default]\naws_access_key_id=no\naws_secret_access_key=no\n{header}\n{keys}")
    env_vars = ((file, str(tmp_path / "keys")), ("AWS_PROFILE", "team"), ("AWS_EC2_METADATA_DISABLED", "true"))
    write(build(FileSystemRecipe(address)), f"{address.path}/file", b"content")
    pickled = tmp_path / "filesystem.pkl"
    # A stock file system of this process, not built by build(): that would put the profile into this process too.
    recipe = FileSystemRecipe(address, env_vars)
    pickled.write_bytes(pickle.dumps(RecipeS3FileSystem(recipe)))
    result = subprocess.run(
        [sys.executable, "-c", READ_BACK, str(pickled), f"{address.path}/file"],
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split() == ["RecipeS3FileSystem", "content"], result.stderr


def test_gcs_stays_what_it_is_through_pickling() -> None:
    filesystem = build(FileSystemRecipe(BucketAddress("gs", "bucket", "runs", None, "http://127.0.0.1:9")))
    loaded = pickle.loads(pickle.dumps(filesystem))
    assert isinstance(loaded, RecipeGcsFileSystem)
    assert isinstance(loaded, pyarrow.fs.GcsFileSystem)
    assert loaded == filesystem


def test_another_scheme_is_refused() -> None:
    with pytest.raises(RequestError, match="only for s3, gs"):
        build(FileSystemRecipe(BucketAddress("abfss", "container", "folder")))
