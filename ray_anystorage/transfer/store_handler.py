"""A bucket as pyarrow's callers see a file system, over this package's own store for it."""

from __future__ import annotations

import io
import posixpath
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs

from ray_anystorage.errors import ObjectMissingError, RequestError
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.engine import upload
from ray_anystorage.transfer.files import Outgoing
from ray_anystorage.transfer.open_store import BucketRecipe
from ray_anystorage.transfer.retry import Patience, persist
from ray_anystorage.transfer.store import Store

T = TypeVar("T")

_BLOCK = CHUNK_BYTES  # bytes that are asked for at once
_IN_MEMORY = CHUNK_BYTES  # bytes of a file that is written; more of it waits on disk


class StoreHandler(pyarrow.fs.FileSystemHandler):  # type: ignore[misc]
    """What ``pyarrow.fs.PyFileSystem`` asks. Paths begin with the bucket; no request leaves what a path names.

    Folders are what keys have in common: making one does nothing, and deleting one deletes keys.

    Parameters
    ----------
    recipe
        Of the whole bucket.
    """

    def __init__(self, recipe: BucketRecipe, patience: Patience) -> None:
        self._recipe, self._patience = recipe, patience

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreHandler) and other._recipe == self._recipe

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._recipe)

    def get_type_name(self) -> str:
        """The scheme."""
        return self._recipe.address.scheme

    def normalize_path(self, path: str) -> str:
        """Without a slash at its end."""
        return path.rstrip("/")

    def get_file_info(self, paths: Iterable[str]) -> list[pyarrow.fs.FileInfo]:
        """Type and size of each path."""
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: pyarrow.fs.FileSelector) -> list[pyarrow.fs.FileInfo]:
        """What lies below a folder, folders that keys imply included."""
        base = selector.base_dir.rstrip("/")
        sizes = self._below(base)
        if not sizes and not selector.allow_not_found:
            raise FileNotFoundError(f"{base}: no such folder")
        folders = {folder for path in sizes for folder in _folders(base, path)}
        found = [pyarrow.fs.FileInfo(folder, pyarrow.fs.FileType.Directory) for folder in sorted(folders)]
        found += [pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.File, size=size) for path, size in sizes.items()]
        return [info for info in found if selector.recursive or posixpath.dirname(info.path) == base]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing: a bucket has no folders."""

    def delete_dir(self, path: str) -> None:
        """Delete all that lies below."""
        if not self._key(path.rstrip("/")):
            self.delete_root_dir_contents()
        keys = [self._key(found) for found in self._below(path.rstrip("/"))]
        self._persist(lambda: self._store.delete(keys))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """The same: a folder without content is none."""
        self.delete_dir(path)

    def delete_root_dir_contents(self) -> None:
        """Refused."""
        raise RequestError(f"{self._recipe.uri}: a whole bucket is never emptied; name a folder of it")

    def delete_file(self, path: str) -> None:
        """Delete one object."""
        self._persist(lambda: self._store.delete([self._key(path)]))

    def move(self, src: str, dest: str) -> None:
        """Copy, then delete."""
        self.copy_file(src, dest)
        self.delete_file(src)

    def copy_file(self, src: str, dest: str) -> None:
        """Copy on the store's own side where it can."""
        source, key = self._key(src), self._key(dest)
        size = self._persist(lambda: self._store.size(source))
        if self._store.copies(size):
            self._persist(lambda: self._store.copy(source, key, None, size))
            return
        with self.open_input_stream(src) as reader, self.open_output_stream(dest, None) as writer:
            while block := reader.read(_BLOCK):
                writer.write(block)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """Read an object in order."""
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        """Read an object at any place."""
        key = self._key(path)
        size = self._persist(lambda: self._store.size(key))

        def fill(offset: int, into: memoryview) -> None:
            self._persist(lambda: self._store.read_range(key, offset, into))

        return pa.PythonFile(io.BufferedReader(_Reader(size, fill), _BLOCK), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        """Write an object; it is there, whole, once the stream is closed."""
        return pa.PythonFile(_Writer(self._store, self._key(path), self._patience), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        """Refused."""
        raise RequestError(f"{path}: nothing can be appended to an object; write it anew")

    @property
    def _store(self) -> Store:
        return self._recipe.open()

    def _info(self, path: str) -> pyarrow.fs.FileInfo:
        key = self._key(path.rstrip("/"))
        if key:
            try:
                size = self._persist(lambda: self._store.size(key))
                return pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.File, size=size)
            except ObjectMissingError:
                pass
        there = not key or self._persist(lambda: next(iter(self._store.list(key)), None)) is not None
        return pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.Directory if there else pyarrow.fs.FileType.NotFound)

    def _below(self, path: str) -> dict[str, int]:
        folder, bucket = self._key(path), self._recipe.address.bucket
        listed = self._persist(lambda: list(self._store.list(folder)))
        return {f"{bucket}/{key}": size for key, size in listed if key != folder}

    def _key(self, path: str) -> str:
        bucket, _, key = path.partition("/")
        if bucket != self._recipe.address.bucket:
            raise RequestError(
                f"{path!r} does not begin with {self._recipe.address.bucket!r}, the bucket of this file system"
            )
        return key

    def _persist(self, request: Callable[[], T]) -> T:
        return persist(request, Budget(), Cancel(), self._patience)


class _Reader(io.RawIOBase):
    """An object of known size, by ranges; ``fill`` gets an offset and a buffer."""

    def __init__(self, size: int, fill: Callable[[int, memoryview], None]) -> None:
        super().__init__()
        self._size, self._fill, self._position = size, fill, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        into = memoryview(buffer).cast("B")[: max(self._size - self._position, 0)]
        if into:
            self._fill(self._position, into)
        self._position += len(into)
        return len(into)


class _Writer:
    """Gathers what is written, in memory and then on disk, and stores it when it is closed; dropped, it does not."""

    def __init__(self, store: Store, key: str, patience: Patience) -> None:
        self._store, self._key, self._patience = store, key, patience
        self._gathered: Any = io.BytesIO()
        self.closed = False

    def tell(self) -> int:
        return int(self._gathered.tell())

    def flush(self) -> None:
        """Nothing is visible before the end."""

    def write(self, data: Any, /) -> int:
        count = int(self._gathered.write(data))
        if isinstance(self._gathered, io.BytesIO) and self.tell() > _IN_MEMORY:
            memory, self._gathered = self._gathered, tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed with this
            self._gathered.write(memory.getbuffer())
        return count

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        with self._gathered as gathered:
            if isinstance(gathered, io.BytesIO):
                content = gathered.getvalue()
                persist(lambda: self._store.write_small(self._key, content), Budget(), Cancel(), self._patience)
            else:
                gathered.flush()
                upload(self._store, [Outgoing(gathered.name, self._key, self.tell())], patience=self._patience)


def _folders(base: str, path: str) -> Iterable[str]:
    """The folders between a base and what lies below it."""
    folder = posixpath.dirname(path)
    while len(folder) > len(base):
        yield folder
        folder = posixpath.dirname(folder)
