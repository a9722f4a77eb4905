"""From an address and a grant to a store, and recipes of stores that travel to the processes of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache

from ray_anystorage.credentials.grant import Grant, Mode, carried
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import RequestError
from ray_anystorage.settings import apply_to_process
from ray_anystorage.transfer.object_store import ObjectStore
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.store import Store, check_key

_MOST_FOLDERS, _MOST_BUCKETS = 64, 8  # that a process keeps open; each checkpoint is a folder


@dataclass(frozen=True, slots=True)
class MountRecipe:
    """How to open a folder of a mount.

    Attributes
    ----------
    root
        An absolute path; it need not exist.
    requests
        Readers or writers at once.
    """

    root: str
    requests: int = 4

    @property
    def uri(self) -> str:
        """The folder's path."""
        return self.root

    def open(self) -> Store:
        """The store, one for all of this process that have the same recipe: it is not for closing."""
        return _open_mount(self, os.getpid())

    def child(self, name: str) -> MountRecipe:
        """The recipe of a folder below; ``RequestError`` for a name that leads elsewhere."""
        return replace(self, root=os.path.join(self.root, check_key(name)))


@dataclass(frozen=True, slots=True)
class BucketRecipe:
    """How to open a folder of a bucket, from any process of a run.

    Attributes
    ----------
    address
        The folder.
    mode, source
        Of the grant. In mode ``env`` the opening process has the secret values in its environment.
    env_vars
        The harmless variables of the grant.
    """

    address: BucketAddress
    mode: Mode
    source: str
    env_vars: tuple[tuple[str, str], ...] = ()

    @property
    def uri(self) -> str:
        """The folder's URI."""
        return self.address.uri

    def open(self) -> Store:
        """Apply the variables to this process and open the store, one for all of it that have the same recipe.

        The folders of a bucket share their connections, so that another one costs nothing; none of them is for closing.

        Raises
        ------
        RequestError
            The scheme is none of ``s3``, ``gs`` and ``abfss``.
        BucketCredentialsError
            This process cannot have the credentials.
        """
        return _open_folder(self, os.getpid())

    def child(self, name: str) -> BucketRecipe:
        """The recipe of a folder below; ``RequestError`` for a name that leads elsewhere."""
        prefix = "/".join(part for part in (self.address.prefix, check_key(name)) if part)
        return replace(self, address=replace(self.address, prefix=prefix))


StoreRecipe = MountRecipe | BucketRecipe


# By process: the connections of a parent are of no use to a child that was forked.
@lru_cache(maxsize=_MOST_FOLDERS)
def _open_mount(recipe: MountRecipe, _process: int) -> PosixStore:
    return PosixStore(recipe.root, requests=recipe.requests)


@lru_cache(maxsize=_MOST_FOLDERS)
def _open_folder(recipe: BucketRecipe, process: int) -> ObjectStore:
    whole = replace(recipe, address=replace(recipe.address, prefix=""))
    return _connect(whole, process).moved(recipe.address)


@lru_cache(maxsize=_MOST_BUCKETS)
def _connect(recipe: BucketRecipe, _process: int) -> ObjectStore:
    apply_to_process(dict(recipe.env_vars))
    return open_bucket(recipe.address, carried(recipe.mode, recipe.source, recipe.env_vars))


def open_bucket(address: BucketAddress, grant: Grant) -> ObjectStore:
    """The store of a bucket's folder.

    Raises
    ------
    RequestError
        The scheme is none of ``s3``, ``gs`` and ``abfss``.
    BucketCredentialsError
        The grant's credentials cannot be had.
    """
    if address.scheme == "s3":
        from ray_anystorage.transfer.s3_store import S3Store

        return S3Store(address, grant)
    if address.scheme in ("gs", "abfss"):
        from ray_anystorage.transfer.cloud_store import CloudStore

        return CloudStore(address, grant)
    raise RequestError(f"{address.uri}: no store for this scheme, only for s3, gs and abfss")
