"""The steps of trying a GCS bucket, through obstore."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import obstore
from obstore import exceptions as gcs
from obstore.store import GCSStore

from ray_anystorage import errors
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.diagnosis.check import Finding
from ray_anystorage.environment import BucketAddress, Problem
from ray_anystorage.transfer.failures import Attempt, denied, no_answer, no_credentials, not_reachable

_STATUS = re.compile(r"status code: (\d{3})")  # only some operations have an error class for it
_CREDENTIALS_WORDS = ("service account", "credential", "metadata", "oauth", "token")
_TIMEOUT_WORDS = ("timedout", "timed out")
_CONNECTION_WORDS = ("error sending request", "connect", "dns")


class GcsProbe:
    """One bucket and its client."""

    failures: tuple[type[Exception], ...] = (gcs.BaseError, OSError, ValueError)

    def __init__(self, address: BucketAddress, grant: Grant, timeout: float) -> None:
        self._address = address
        self._grant = grant
        self._timeout = timeout
        self._store: Any = None

    def open(self) -> Finding:
        """Find the credentials and build the client."""
        variables = self._grant.all_env_vars()
        config: dict[str, Any] = {}
        if "GOOGLE_APPLICATION_CREDENTIALS" in variables:
            config["application_credentials"] = variables["GOOGLE_APPLICATION_CREDENTIALS"]
        if (
            self._address.endpoint
        ):  # an emulator: any token does, and without one obstore asks the node for its identity
            config = {"base_url": self._address.endpoint, "bearer_token": "emulator"}
        limit = f"{self._timeout / 3:.1f}s"
        self._store = GCSStore(
            self._address.bucket,
            config=config,
            client_options={"timeout": limit, "connect_timeout": limit, "allow_http": bool(self._address.endpoint)},
            retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=self._timeout)},
        )
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
        said, _, debug = str(error).partition("\n")
        status = _STATUS.search(said)
        if status:
            return self._explain_status(status[1], said, attempt)
        if isinstance(error, TimeoutError) or any(word in debug.lower() for word in _TIMEOUT_WORDS):
            return no_answer(attempt)
        if not self._address.endpoint and any(word in said.lower() for word in _CREDENTIALS_WORDS):
            return no_credentials(said, attempt)
        if any(word in said.lower() for word in _CONNECTION_WORDS):
            return not_reachable(said, attempt)
        return attempt.problem(errors.BucketError, said, "Try it again; ask the store's owner.")

    def _explain_status(self, status: str, said: str, attempt: Attempt) -> Problem:
        if "token request" in said:
            return no_credentials(said, attempt)
        if status == "401":
            remedy = (
                f"Get new credentials ({self._grant.source}): a new key, or 'gcloud auth application-default login'."
            )
            return attempt.problem(errors.ExpiredTokenError, f"the store does not accept the token; {said}", remedy)
        if status == "403":
            return denied(said, attempt)
        if status == "404" and attempt.operation in ("list", "put"):
            remedy = f"Create the bucket {self._address.bucket!r}, or correct its name."
            return attempt.problem(errors.BucketMissingError, f"the bucket does not exist; {said}", remedy)
        return attempt.problem(errors.BucketError, said, "Try it again; ask the store's owner.")

    def _attempt(self, operation: str, key: str) -> Attempt:
        folder = operation in ("credentials", "list")
        target = self._address.uri if folder else f"gs://{self._address.bucket}/{key}"
        return Attempt(self._address, self._grant, operation, target)
