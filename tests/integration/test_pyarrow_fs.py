"""The native file systems: they work from recipes, and their pickles hold no secret."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.fs
import pytest

from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import RequestError
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer.pyarrow_fs import (
    FileSystemRecipe,
    RecipeGcsFileSystem,
    RecipeS3FileSystem,
    StoreFileSystem,
    build,
)

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
    with pytest.raises(RequestError, match="only for s3, gs, abfss"):
        build(FileSystemRecipe(BucketAddress("ftp", "host", "folder")))


@pytest.fixture
def own(address: BucketAddress, full_rights: None) -> StoreFileSystem:
    filesystem = build(FileSystemRecipe(address, copies_folders=True))
    assert type(filesystem) is StoreFileSystem
    return filesystem


def test_a_file_system_over_our_store_pickles_and_equals_itself(own: StoreFileSystem, address: BucketAddress) -> None:
    again = pickle.loads(pickle.dumps(own))
    assert again == own
    assert again != build(FileSystemRecipe(replace(address, bucket="another"), copies_folders=True))
    assert own.type_name == "py::s3"


@pytest.mark.parametrize("size", [0, 5, 8 << 20, (8 << 20) + 1, (17 << 20) + 3])
def test_what_is_written_through_it_is_read_through_it(own: StoreFileSystem, address: BucketAddress, size: int) -> None:
    content, path = os.urandom(size), f"{address.path}/a b/ü"
    with own.open_output_stream(path) as stream:
        for start in range(0, size, 3 << 20):
            stream.write(content[start : start + (3 << 20)])
    assert own.get_file_info(path).size == size
    with own.open_input_stream(path) as stream:
        assert stream.read() == content
    with own.open_input_file(path) as file:
        assert file.size() == size
        file.seek(size // 2)
        assert file.read(100) == content[size // 2 :][:100]


def test_a_writer_that_is_dropped_stores_nothing(own: StoreFileSystem, s3_server: S3Server, bucket: str) -> None:
    stream = own.open_output_stream(f"{bucket}/dropped")
    stream.write(b"half of it")
    del stream
    gc.collect()
    assert s3_server.keys(bucket) == []


def test_folders_are_what_keys_have_in_common(own: StoreFileSystem, s3_server: S3Server, bucket: str) -> None:
    for key in ("runs/a/one", "runs/a/deep/two", "runs/ab", "other"):
        write(own, f"{bucket}/{key}", key.encode())
    kinds = {info.path.partition("/")[2]: info.type.name for info in own.get_file_info([f"{bucket}/{name}" for name in
             ("runs", "runs/a", "runs/a/one", "runs/a/", "run", "gone")])}  # fmt: skip
    assert kinds == {"runs": "Directory", "runs/a": "Directory", "runs/a/": "Directory", "runs/a/one": "File",
                     "run": "NotFound", "gone": "NotFound"}  # fmt: skip
    flat = own.get_file_info(pyarrow.fs.FileSelector(f"{bucket}/runs"))
    assert {(info.base_name, info.type.name) for info in flat} == {("a", "Directory"), ("ab", "File")}
    deep = own.get_file_info(pyarrow.fs.FileSelector(f"{bucket}/runs", recursive=True))
    assert {info.path.removeprefix(f"{bucket}/runs/") for info in deep} == {"a", "a/one", "a/deep", "a/deep/two", "ab"}
    with pytest.raises(FileNotFoundError):
        own.get_file_info(pyarrow.fs.FileSelector(f"{bucket}/gone"))
    assert own.get_file_info(pyarrow.fs.FileSelector(f"{bucket}/gone", allow_not_found=True)) == []
    with pytest.raises(FileNotFoundError):
        own.open_input_stream(f"{bucket}/gone")
    own.create_dir(f"{bucket}/made/deep")
    own.copy_file(f"{bucket}/runs/ab", f"{bucket}/copied")
    own.move(f"{bucket}/other", f"{bucket}/moved")
    own.delete_dir(f"{bucket}/runs/a")
    assert s3_server.keys(bucket) == ["copied", "moved", "runs/ab"]
    for refused in (lambda: own.delete_dir(bucket), lambda: own.delete_file("elsewhere/x")):
        with pytest.raises(RequestError):
            refused()
    own.delete_file(f"{bucket}/runs/ab")
    assert s3_server.keys(bucket) == ["copied", "moved"]


def test_folders_are_copied_there_and_back(own: StoreFileSystem, bucket: str, tmp_path: Path) -> None:
    for name in ("there/deep/x", "there/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    pyarrow.fs.copy_files(str(tmp_path / "there"), f"{bucket}/kept", destination_filesystem=own)
    pyarrow.fs.copy_files(f"{bucket}/kept", str(tmp_path / "back"), source_filesystem=own)
    assert (tmp_path / "back" / "deep" / "x").read_bytes() == b"there/deep/x"
    assert (tmp_path / "back" / "y").read_bytes() == b"there/y"


def test_deleting_through_it_may_be_taken_over(own: StoreFileSystem, s3_server: S3Server, bucket: str) -> None:
    write(own, f"{bucket}/a/b", b"x")
    asked: list[str] = []
    own.on_delete = lambda path, plainly: asked.append(path)
    own.delete_dir(f"{bucket}/a")
    assert (asked, s3_server.keys(bucket)) == ([f"{bucket}/a"], ["a/b"])
