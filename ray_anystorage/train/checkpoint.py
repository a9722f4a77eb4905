"""A ray.train.Checkpoint that is verified when it is opened, from the node's cache, the mount or the bucket."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow.fs
import ray.train

from ray_anystorage.checkpoint.contents import Contents
from ray_anystorage.checkpoint.node import Node
from ray_anystorage.checkpoint.opened import Opened, Verify
from ray_anystorage.errors import RequestError
from ray_anystorage.home.filesystem import HomeFileSystem
from ray_anystorage.home.store import HomeStore
from ray_anystorage.origin import Origin, origin_of
from ray_anystorage.runs import Run
from ray_anystorage.train.telemetry import show_here
from ray_anystorage.transfer.open_store import BucketRecipe
from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe, build


class Checkpoint(ray.train.Checkpoint):  # type: ignore[misc]
    """A checkpoint of a Ray run, opened by path or URI; also one that stock Ray wrote, which cannot be verified.

    Parameters
    ----------
    path
        Absolute path or URI (``s3://``, ``gs://``) of the checkpoint's folder.
    filesystem
        A ``pyarrow.fs.FileSystem`` of the caller's. With one that is not local, data is read as stock Ray reads it.

    Raises
    ------
    RequestError
        The path cannot be meant.
    CredentialsError
        This process has no credentials for the bucket.
    """

    def __init__(self, path: str | os.PathLike[str], filesystem: Any = None) -> None:
        self.origin: Origin | None = None
        if filesystem is None:
            self.origin = origin_of(os.fspath(path))
            path, filesystem = _filesystem_of(self.origin)
        elif isinstance(filesystem, pyarrow.fs.LocalFileSystem):
            self.origin = origin_of(os.fspath(path))
        super().__init__(path, filesystem)

    @classmethod
    def adopt(cls, checkpoint: ray.train.Checkpoint, origin: Origin) -> None:
        """Make a checkpoint of Ray's one of these, in place: Ray's bookkeeping goes by the object's identity."""
        checkpoint.__class__ = cls
        checkpoint.origin = origin

    @classmethod
    def of_run(cls, run: Run, name: str) -> Checkpoint:
        """One of the checkpoints of a run that exists."""
        checkpoint = cls(f"{run.fs_path}/{name}", run.build_filesystem())
        checkpoint.origin = run.origin(name)
        return checkpoint

    @contextlib.contextmanager
    def as_directory(self, files: str | Sequence[str] | None = None, *, verify: Verify = "content") -> Iterator[str]:
        """A local directory with the checkpoint's files, for reading.

        Parameters
        ----------
        files
            A pattern or several (``"rank-3/*"``; ``*`` also matches ``/``): only what they name is fetched and
            verified, and more may be there. Everything where ``None``.
        verify
            ``"size"`` compares the sizes alone of what lies on a mount, and so no longer promises its content. What is
            fetched, or was kept on this node, is always compared byte by byte.

        Raises
        ------
        CheckpointCorruptedError
            It is damaged; names the files. Nobody resumes from it any more.
        CheckpointMissingError, CheckpointIncompleteError
            There is no whole checkpoint.
        ManifestTooNewError
            A later version of this package wrote it.
        RequestError
            A pattern names no file.
        """
        if self.origin is None:
            _only_whole(files)
            with super().as_directory() as directory:
                yield directory
            return
        with self.opened().directory(files, verify=verify) as directory:
            yield directory

    def to_directory(self, path: str | os.PathLike[str] | None = None) -> str:
        """Fetch everything, verified, into a directory of the caller's, or a temporary one that stays.

        Of several processes of a node that name the same directory at once, one fetches and the others wait.
        """
        if self.origin is None:
            return str(super().to_directory(path))
        target = os.path.abspath(os.path.expanduser(path or self._get_temporary_checkpoint_dir()))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(f"{target}.anystorage-lock", "ab", buffering=0) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                if os.fstat(lock.fileno()).st_size == 0:  # nobody fetched it while this process waited
                    self.opened().copy_to(target)
                    lock.write(b"done")
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(lock.name)
        return target

    def open(self, path: str) -> BinaryIO:
        """One file of the checkpoint, read where it lies by ranges, each of them verified.

        Raises
        ------
        RequestError
            There is no such file in it.
        CheckpointCorruptedError
            While reading: what was read is damaged.
        """
        if self.origin is None:
            raise RequestError(
                f"open({path!r}): this checkpoint was made with a file system of the caller's; read it there"
            )
        return self.opened().open(path)

    def contents(self) -> Contents:
        """Its files, with sizes and digests, as its manifests have them."""
        if self.origin is None:
            raise RequestError(
                "this checkpoint was made with a file system of the caller's, and has no manifests to read"
            )
        return self.opened().contents()

    def opened(self, node: Node | None = None) -> Opened:
        """The checkpoint as this process opens it."""
        if self.origin is None:
            raise RequestError("this checkpoint was made with a file system of the caller's")
        show_here()
        home = HomeStore(self.filesystem) if isinstance(self.filesystem, HomeFileSystem) else None
        return self.origin.opened(home, node)


def _filesystem_of(origin: Origin) -> tuple[str, Any]:
    home = origin.home
    if isinstance(home, BucketRecipe):
        recipe = FileSystemRecipe(address=home.address, env_vars=home.env_vars)
        return f"{home.address.path}/{origin.name}", build(recipe)
    return os.path.join(home.root, origin.name), pyarrow.fs.LocalFileSystem()


def _only_whole(files: object) -> None:
    if files is not None:
        raise RequestError(
            f"files={files!r}: this checkpoint was made with a file system of the caller's, and has no list"
        )
