"""Tiers as file systems: ``anystorage://shared/data.parquet`` for fsspec, ``filesystem(tier)`` for pyarrow."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from ray_anystorage.credentials.broker import serve_own, without_gone
from ray_anystorage.credentials.grant import carried
from ray_anystorage.environment import TIERS, BucketAddress
from ray_anystorage.errors import MountMissingError, RequestError
from ray_anystorage.files.spot import spot
from ray_anystorage.settings import apply_to_process, read_settings
from ray_anystorage.transfer.open_store import BucketRecipe, MountRecipe
from ray_anystorage.transfer.s3_client import addressing

if TYPE_CHECKING:
    import pyarrow.fs

PROTOCOL = "anystorage"
DEFAULT_REGION = "us-east-1"


class AnyStorageFileSystem(DirFileSystem):  # type: ignore[misc]
    """One tier, for fsspec. Paths begin with the tier's name, as those of a bucket's file system do with the bucket's:
    what readers put ``anystorage://`` before is a URL again. It pickles as the tier's name, and holds no secret.

    The process that uses it reads the same settings as a run does (``RAY_ANYSTORAGE_*``; in a worker, those that
    ``runtime_env()`` or a run brings), finds its own credentials, and has them renewed.

    Parameters
    ----------
    tier
        ``local``, ``cluster``, ``user``, ``shared`` or ``artifact``.
    credentials
        Mode for the bucket; the environment's where ``None``, else the safest that works.

    Raises
    ------
    RequestError
        The tier has no place here, or its root is not an existing directory.
    CredentialsError
        This process has no credentials for the bucket.
    """

    protocol = PROTOCOL

    def __init__(self, tier: str, credentials: str | None = None, **storage_options: Any) -> None:
        if tier not in TIERS:
            raise RequestError(f"{PROTOCOL}://{tier}: expected one of {', '.join(TIERS)} after the slashes")
        root = spot(f"{tier}:", read_settings(), credentials=credentials)
        self.tier = tier
        if isinstance(root.recipe, MountRecipe):
            super().__init__(path=root.recipe.root, fs=_Mount(tier, root.recipe.root), **storage_options)
        else:
            inner = _bucket_filesystem(root.recipe)
            super().__init__(path=f"{root.recipe.address.bucket}/{root.key}".rstrip("/"), fs=inner, **storage_options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return str(path).removeprefix(f"{PROTOCOL}://").lstrip("/")  # a slash at the end says that a folder is meant

    def _join(self, path: Any) -> Any:
        return super()._join(self._inside(path) if isinstance(path, str) else path)

    def _relpath(self, path: Any) -> Any:
        inside = super()._relpath(path)
        return "/".join(filter(None, (self.tier, inside))) if isinstance(path, str) else inside

    def _inside(self, path: str) -> str:
        tier, _, inside = str(self._strip_protocol(path)).partition("/")
        if tier and tier != self.tier:
            raise RequestError(f"{path!r}: expected a path that begins with {self.tier}/, as this file system's do")
        return inside.lstrip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        return {"tier": path.removeprefix(f"{PROTOCOL}://").partition("/")[0]}

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path."""
        return f"{PROTOCOL}://{self._strip_protocol(name)}"

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        """Open a file; with ``x`` in the mode only one that is not there."""
        if "x" in mode and self.exists(path):  # s3fs does not look
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.unstrip_protocol(path))
        return super().open(path, mode, **options)

    def pipe_file(self, path: str, *arguments: Any, **options: Any) -> Any:
        """Write a file at once; with ``mode="create"`` only one that is not there."""
        try:
            return super().pipe_file(path, *arguments, **options)
        except OSError as error:
            if options.get("mode") == "create" and error.errno == errno.EINVAL:  # what s3fs makes of HTTP's 412
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.unstrip_protocol(path)) from error
            raise

    def invalidate_cache(self, path: str | None = None) -> None:
        """Look anew at what a bucket holds."""
        self.fs.invalidate_cache(self._join(path) if path else None)


class _Mount(LocalFileSystem):  # type: ignore[misc]
    """A directory whose folders are made as files need them, but never itself: it may be a mount that is gone."""

    def __init__(self, tier: str, root: str) -> None:
        super().__init__(auto_mkdir=True)
        self._tier, self._root = tier, root

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder and those above it."""
        self._check_root()
        super().makedirs(path, exist_ok=exist_ok)

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        """Make a folder."""
        self._check_root()
        super().mkdir(path, create_parents=create_parents, **options)

    def _check_root(self) -> None:
        if not os.path.isdir(self._root):
            raise MountMissingError(
                f"{self._root} is not mounted, or was removed",
                tier=self._tier,
                place=self._root,
                tried="make a folder in it",
                remedy=f"mount it, or set RAY_ANYSTORAGE_{self._tier.upper()}_STORAGE to another directory",
            )


def filesystem(tier: str, *, credentials: str | None = None) -> pyarrow.fs.FileSystem:
    """A tier as a ``pyarrow.fs.FileSystem``, for pyarrow, Ray Data and whatever takes one.

    Paths are relative to the tier's root. It pickles as the tier's name: the process that loads it reads the settings
    and finds the credentials there.

    Raises
    ------
    RequestError
        The tier has no place here, or its root is not an existing directory.
    CredentialsError
        This process has no credentials for the bucket.
    """
    import pyarrow.fs

    inside = DirFileSystem(path=tier, fs=AnyStorageFileSystem(tier, credentials=credentials))
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(inside))


def _bucket_filesystem(recipe: BucketRecipe) -> AsyncFileSystem:
    """What is well kept for each kind of bucket: s3fs, and obstore's own for the others."""
    variables = dict(recipe.env_vars)
    apply_to_process(without_gone(variables))
    serve_own(variables)
    if recipe.address.scheme == "s3":
        return _s3fs(recipe.address)
    return _obstore_fs(recipe)


def _s3fs(address: BucketAddress) -> AsyncFileSystem:
    from s3fs import S3FileSystem

    said, verify = address.options, {"verify": address.options.ca_file} if address.options.ca_file else {}
    extra = {"ServerSideEncryption": said.encryption, "SSEKMSKeyId": said.kms_key}
    return S3FileSystem(
        endpoint_url=address.endpoint,
        client_kwargs={"region_name": address.region or DEFAULT_REGION, **verify},
        config_kwargs={"s3": {"addressing_style": addressing(address)}},
        s3_additional_kwargs={name: value for name, value in extra.items() if value},
        requester_pays=said.requester_pays,
        use_listings_cache=False,  # others write there, too
    )


def _obstore_fs(recipe: BucketRecipe) -> AsyncFileSystem:
    from obstore.fsspec import FsspecStore

    from ray_anystorage.transfer.cloud_store import cloud_client
    from ray_anystorage.transfer.object_store import OWN_RETRIES

    grant = carried(recipe.mode, recipe.source, recipe.env_vars)
    client = cloud_client(recipe.address, grant, retries=OWN_RETRIES)

    class OneBucket(FsspecStore):  # type: ignore[misc]
        """obstore's file system on the client that is open already."""

        cachable = False

        def _construct_store(self, bucket: str) -> Any:
            return client

    return OneBucket("gs" if recipe.address.scheme == "gs" else "abfss")
