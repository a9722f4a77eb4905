"""The steps of trying a bucket through obstore, for stores other than S3."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import obstore
from obstore import exceptions as obs

from ray_anystorage import errors
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.diagnosis.check import Finding
from ray_anystorage.environment import BucketAddress, Problem
from ray_anystorage.transfer.cloud_store import cloud_client
from ray_anystorage.transfer.failures import (
    Attempt,
    explain_azure,
    no_answer,
    no_credentials,
    not_reachable,
    provider_failed,
)
from ray_anystorage.transfer.object_store import read_failure
from ray_anystorage.transfer.s3_client import CaFileError

_CREDENTIALS_WORDS = ("service account", "credential", "metadata", "oauth", "token")
_TIMEOUT_WORDS = ("timedout", "timed out")
_CONNECTION_WORDS = ("error sending request", "connect", "dns")


class ObstoreProbe:
    """One bucket and its client. A subclass knows what the provider's answers mean."""

    failures: tuple[type[Exception], ...] = (obs.BaseError, OSError, ValueError, CaFileError, errors.CredentialsError)

    def __init__(self, address: BucketAddress, grant: Grant, timeout: float) -> None:
        self._address = address
        self._grant = grant
        self._timeout = timeout
        self._store: Any = None

    def open(self) -> Finding:
        """Find the credentials and build the client."""
        limit = self._timeout / 3
        retries = {"max_retries": 1, "retry_timeout": timedelta(seconds=self._timeout)}
        self._store = cloud_client(self._address, self._grant, retries=retries, timeout=limit, connect_timeout=limit)
        return Finding(self._grant.source)

    def list(self) -> Finding:
        """List the beginning of the folder."""
        prefix = f"{self._address.prefix}/" if self._address.prefix else None
        next(iter(obstore.list(self._store, prefix=prefix, chunk_size=1)), None)
        return Finding(f"{self._address.uri} can be listed")

    def put(self, key: str, data: bytes) -> Finding:
        """Write an object."""
        obstore.put(self._store, key, data, use_multipart=False)
        return Finding(f"{len(data)} bytes written")

    def get(self, key: str, data: bytes) -> Finding:
        """Read it and compare."""
        back = bytes(obstore.get(self._store, key).bytes())
        if back == data:
            return Finding("the same bytes came back")
        reason = f"{len(data)} bytes were written and {len(back)} others came back"
        attempt = self._attempt("get", key)
        return Finding(
            reason, problem=attempt.problem(errors.BucketError, reason, "Do not use this store: ask its owner.")
        )

    def delete(self, key: str) -> Finding:
        """Delete it."""
        obstore.delete(self._store, key)
        return Finding("deleted")

    def extras(self, key: str) -> tuple[tuple[str, Callable[[], Finding]], ...]:
        """Nothing more."""
        return ()

    def explain(self, error: Exception, operation: str, key: str) -> Problem:
        """The problem behind an error of obstore: its kinds are few, so its words must do."""
        attempt = self._attempt(operation, key)
        if isinstance(error, CaFileError):
            remedy = "Put the file at this path on every node, or correct RAY_ANYSTORAGE_CA_FILE."
            return attempt.problem(errors.BucketError, str(error), remedy)
        if isinstance(error, errors.CredentialsError):
            return no_credentials(error.message, attempt)
        status, code, said = read_failure(error)
        debug = str(error).partition("\n")[2].lower()
        if status is not None:
            return self.explain_answer(status, code, said, attempt)
        if isinstance(error, TimeoutError) or any(word in debug for word in _TIMEOUT_WORDS):
            return no_answer(attempt)
        failure = provider_failed(said, attempt)
        if failure is not None:
            return failure
        if "token request" in said or (
            not self._address.endpoint and any(word in said.lower() for word in _CREDENTIALS_WORDS)
        ):
            return no_credentials(said, attempt)
        if any(word in said.lower() for word in _CONNECTION_WORDS):
            return not_reachable(said, attempt)
        return attempt.problem(errors.BucketError, said, "Try it again; ask the store's owner.")

    def explain_answer(self, status: int, code: str, said: str, attempt: Attempt) -> Problem:
        """The problem behind an answer of the store, or of the service that gives tokens."""
        raise NotImplementedError

    def _attempt(self, operation: str, key: str) -> Attempt:
        folder = operation in ("credentials", "list")
        target = self._address.uri if folder else f"{self._address.scheme}://{self._address.bucket}/{key}"
        return Attempt(self._address, self._grant, operation, target)


class AzureProbe(ObstoreProbe):
    """A container of Azure Blob Storage."""

    def explain_answer(self, status: int, code: str, said: str, attempt: Attempt) -> Problem:
        """The problem behind an answer of the Blob service, or of the one that gives tokens."""
        problem, brief = explain_azure(status, code, said, attempt), said.partition("\n")[0]
        if problem is None and status == 404 and attempt.operation in ("list", "put"):
            remedy = f"Create the container {self._address.bucket.partition('@')[0]!r}, or correct its name."
            problem = attempt.problem(errors.BucketMissingError, f"the container does not exist; {brief}", remedy)
        return problem or attempt.problem(errors.BucketError, brief, "Try it again; ask the store's owner.")
