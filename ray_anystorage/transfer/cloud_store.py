"""Folders of Google Cloud Storage and Azure Blob Storage, through obstore."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from ray_anystorage import errors
from ray_anystorage.credentials.agent_address import AZURE_VARIABLE
from ray_anystorage.credentials.azure import OBSTORE_NAMES, account_of, blob_endpoint, container_of
from ray_anystorage.credentials.broker import serve_own
from ray_anystorage.credentials.grant import Grant, Mode, carried
from ray_anystorage.environment import BucketAddress
from ray_anystorage.transfer.agent_file import AgentFile
from ray_anystorage.transfer.failures import Attempt, explain_azure, no_credentials, provider_failed
from ray_anystorage.transfer.google_tokens import token_provider
from ray_anystorage.transfer.object_store import NO_RETRIES, OWN_RETRIES, ObjectStore
from ray_anystorage.transfer.s3_client import CaFileError, read_ca_file

_CONNECT_TIMEOUT, _READ_TIMEOUT, _REQUEST_TIMEOUT = 10.0, 30.0, 120.0  # seconds


class CloudStore(ObjectStore):
    """A folder of a bucket or container; pickles as its address and the harmless variables of its grant.

    Raises
    ------
    BucketError
        The file of certificate authorities cannot be read.
    BucketCredentialsError
        A broker of this process has no credentials to give.
    """

    def __init__(self, address: BucketAddress, grant: Grant) -> None:
        self._address, self._grant = address, grant
        super().__init__(
            _client(address, grant, NO_RETRIES),
            streaming=_client(address, grant, OWN_RETRIES),
            uri=address.uri,
            prefix=address.prefix,
        )

    def moved(self, address: BucketAddress) -> CloudStore:
        """As for every object store."""
        other = super().moved(address)
        other._address = address
        return other

    def copies(self, size: int) -> bool:
        """Not on Azure, which may go on copying after its answer, and obstore does not say so."""
        return self._address.scheme != "abfss" and super().copies(size)

    def explain(
        self, operation: str, key: str, status: int | None, code: str, said: str, error: Exception
    ) -> errors.StorageError:
        """In the words of :mod:`ray_anystorage.transfer.failures` where they know the answer."""
        attempt = Attempt(self._address, self._grant, operation, f"{self.uri}/{key}")
        problem = provider_failed(said, attempt)
        if problem is None and self._address.scheme == "abfss":
            problem = explain_azure(status, code, said, attempt)
        if problem is not None:
            return problem.error()
        return super().explain(operation, key, status, code, self._grant.secrets.redact(said), error)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._address, self._grant.mode, self._grant.source, self._grant.env_vars)


def cloud_client(address: BucketAddress, grant: Grant, *, retries: dict[str, Any], **timeouts: float) -> Any:
    """An obstore store for a whole bucket or container.

    Parameters
    ----------
    retries
        obstore's ``retry_config``.
    **timeouts
        Seconds, by the names of obstore's ``client_options``.

    Raises
    ------
    CaFileError
        The file of certificate authorities cannot be read.
    CredentialsError
        A broker of this process has none to give, or a file's kind has no library here.
    """
    ca = read_ca_file(address)
    options = {
        "allow_http": (address.endpoint or "").startswith("http://"),
        **({"root_certificate": ca} if ca else {}),
        **{name: timedelta(seconds=seconds) for name, seconds in timeouts.items()},
    }
    build: Callable[..., Any] = _azure if address.scheme == "abfss" else _gcs
    return build(address, grant, client_options=options, retry_config=retries)


def _gcs(address: BucketAddress, grant: Grant, **options: Any) -> Any:
    from obstore.store import GCSStore

    variables = grant.all_env_vars()
    config: dict[str, Any] = {}
    if address.endpoint:  # an emulator: any token does, and without one obstore asks the node for its identity
        config = {"base_url": address.endpoint, "bearer_token": "emulator"}
    elif "GOOGLE_APPLICATION_CREDENTIALS" in variables:
        serve_own(variables)
        path = variables["GOOGLE_APPLICATION_CREDENTIALS"]
        tokens = token_provider(path)
        if tokens is not None:
            return GCSStore(address.bucket, credential_provider=tokens, **options)
        config = {"application_credentials": path}
    return GCSStore(address.bucket, config=config, **options)


def _azure(address: BucketAddress, grant: Grant, **options: Any) -> Any:
    from obstore.store import AzureStore

    variables = grant.all_env_vars()
    config = {name: variables[variable] for variable, name in OBSTORE_NAMES.items() if variable in variables}
    config |= {"account_name": account_of(address), "endpoint": blob_endpoint(address)}
    if AZURE_VARIABLE in variables:
        serve_own(variables)
        options["credential_provider"] = AgentFile(variables[AZURE_VARIABLE])
    return AzureStore(container_of(address), config=config, **options)


def _client(address: BucketAddress, grant: Grant, retries: dict[str, Any]) -> Any:
    try:
        return cloud_client(
            address,
            grant,
            retries=retries,
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            timeout=_REQUEST_TIMEOUT,
        )
    except CaFileError as error:
        remedy = "put the file at this path on every node, or correct RAY_ANYSTORAGE_CA_FILE"
        raise errors.BucketError(
            str(error), tier="artifact", place=address.uri, tried="open it", remedy=remedy
        ) from error
    except errors.CredentialsError as error:
        raise no_credentials(error.message, Attempt(address, grant, "open", address.uri)).error() from error


def _reopen(address: BucketAddress, mode: Mode, source: str, env_vars: tuple[tuple[str, str], ...]) -> CloudStore:
    return CloudStore(address, carried(mode, source, env_vars))
