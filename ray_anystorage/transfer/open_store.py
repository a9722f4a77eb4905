"""From an address and a grant to a store, and recipes of stores that travel to the processes of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Any

from ray_anystorage.credentials.grant import Grant, Mode, carried
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import RequestError
from ray_anystorage.settings import apply_to_process
from ray_anystorage.transfer.object_store import NO_RETRIES, OWN_RETRIES, ObjectStore
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.store import Store, check_key

_MOST_FOLDERS, _MOST_BUCKETS = 64, 8  # that a process keeps open; each checkpoint is a folder
_CONNECT_TIMEOUT, _READ_TIMEOUT, _REQUEST_TIMEOUT = (timedelta(seconds=seconds) for seconds in (10, 30, 120))


class GcsStore(ObjectStore):
    """A folder of a GCS bucket; pickles as its address and the harmless variables of its grant."""

    def __init__(self, address: BucketAddress, grant: Grant) -> None:
        self._address, self._grant = address, grant
        super().__init__(
            _gcs_client(address, grant, NO_RETRIES),
            streaming=_gcs_client(address, grant, OWN_RETRIES),
            uri=address.uri,
            prefix=address.prefix,
        )

    def moved(self, address: BucketAddress) -> GcsStore:
        """As for every object store."""
        other = super().moved(address)
        other._address = address
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen_gcs, (self._address, self._grant.mode, self._grant.source, self._grant.env_vars)


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
            The scheme is neither ``s3`` nor ``gs``.
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
        The scheme is neither ``s3`` nor ``gs``.
    BucketCredentialsError
        The grant's credentials cannot be had.
    """
    if address.scheme == "s3":
        from ray_anystorage.transfer.s3_store import S3Store

        return S3Store(address, grant)
    if address.scheme == "gs":
        return GcsStore(address, grant)
    raise RequestError(f"{address.uri}: no store for this scheme, only for s3 and gs")


def _gcs_client(address: BucketAddress, grant: Grant, retries: dict[str, Any]) -> Any:
    from obstore.store import GCSStore

    variables = grant.all_env_vars()
    config: dict[str, Any] = {}
    if address.endpoint:  # an emulator: any token does, and without one obstore asks the node for its identity
        config = {"base_url": address.endpoint, "bearer_token": "emulator"}
    elif "GOOGLE_APPLICATION_CREDENTIALS" in variables:
        config = {"application_credentials": variables["GOOGLE_APPLICATION_CREDENTIALS"]}
    options = {
        "allow_http": bool(address.endpoint),
        "connect_timeout": _CONNECT_TIMEOUT,
        "read_timeout": _READ_TIMEOUT,
        "timeout": _REQUEST_TIMEOUT,
    }
    return GCSStore(address.bucket, config=config, client_options=options, retry_config=retries)


def _reopen_gcs(address: BucketAddress, mode: Any, source: str, env_vars: tuple[tuple[str, str], ...]) -> GcsStore:
    return GcsStore(address, carried(mode, source, env_vars))
