"""From an address and a grant to a store."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ray_anystorage.credentials.grant import Grant
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import RequestError
from ray_anystorage.transfer.object_store import NO_RETRIES, OWN_RETRIES, ObjectStore

_CONNECT_TIMEOUT, _READ_TIMEOUT, _REQUEST_TIMEOUT = (timedelta(seconds=seconds) for seconds in (10, 30, 120))


class GcsStore(ObjectStore):
    """A folder of a GCS bucket; pickles as its address and the harmless variables of its grant."""

    def __init__(self, address: BucketAddress, grant: Grant) -> None:
        self._recipe = address, grant.mode, grant.source, grant.env_vars
        super().__init__(
            _gcs_client(address, grant, NO_RETRIES),
            streaming=_gcs_client(address, grant, OWN_RETRIES),
            uri=address.uri,
            prefix=address.prefix,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen_gcs, self._recipe


def open_bucket(address: BucketAddress, grant: Grant) -> ObjectStore:
    """The store of a bucket's folder.

    Raises
    ------
    RequestError
        The scheme is neither ``s3`` nor ``gs``.
    botocore.exceptions.BotoCoreError
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
    return GcsStore(address, Grant(mode, source, "as pickled", env_vars))
