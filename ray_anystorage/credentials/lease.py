"""What a source of credentials gives at one moment, and the forms in which the processes of a run read it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

from ray_anystorage.credentials.redact import Secrets

# Seconds. Keys that never expire are given for this long, so that clients ask again and notice other ones. From 15
# minutes before the end on botocore asks again, so with less it would ask for every request.
UNLIMITED_FOR = 20 * 60.0

GOOGLE_FILE = "google.json"
AZURE_FILE = "azure.json"

Kind = Literal["aws", "google", "azure"]


@dataclass(frozen=True, slots=True)
class Lease:
    """Secret values and when they end. It neither prints them nor can be pickled; :meth:`to_message` is how it is sent.

    Attributes
    ----------
    kind
        ``aws``: ``AccessKeyId``, ``SecretAccessKey`` and perhaps ``Token``. ``google``: ``document``, the JSON text of
        a service-account or authorized-user file. ``azure``: one of ``sas_token``, ``access_key`` (the account's) and
        ``token``, as obstore names them.
    values
        Those, by name.
    expires_at
        Seconds since the epoch; ``None`` for values that do not end by themselves.
    """

    kind: Kind
    values: Secrets = field(compare=False)
    expires_at: float | None = None

    def seconds_left(self) -> float:
        """Until the end; infinite where there is none."""
        return float("inf") if self.expires_at is None else self.expires_at - time.time()

    def document(self) -> bytes:
        """What the container-credentials protocol answers; empty for the others, which have no such protocol."""
        if self.kind != "aws":
            return b""
        end = self.expires_at or time.time() + UNLIMITED_FOR
        values = self.values.reveal()
        answer = {**values, "Token": values.get("Token", ""), "Expiration": _instant(end)}
        return json.dumps(answer).encode()

    def files(self) -> dict[str, bytes]:
        """Name and content of the files that clients read."""
        values = self.values.reveal()
        if self.kind == "google":
            return {GOOGLE_FILE: values["document"].encode()}
        if self.kind == "azure":
            return {AZURE_FILE: json.dumps({**values, "expires_at": self.expires_at}).encode()}
        return {}

    def botocore_metadata(self) -> dict[str, str]:
        """The same as botocore's refreshable credentials take it."""
        answer = json.loads(self.document())
        names = {"access_key": "AccessKeyId", "secret_key": "SecretAccessKey", "token": "Token"}
        return {"expiry_time": answer["Expiration"], **{ours: answer[theirs] for ours, theirs in names.items()}}

    def to_message(self) -> dict[str, Any]:
        """Everything, secrets in the clear: the argument or the result of a call between our own processes."""
        return {"kind": self.kind, "values": self.values.reveal(), "expires_at": self.expires_at}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Lease:
        """What :meth:`to_message` gave."""
        return cls(message["kind"], Secrets(message["values"]), message["expires_at"])


def _instant(seconds: float) -> str:
    # Rounded down: a client must not use the values for longer than they hold.
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
