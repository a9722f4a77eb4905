"""Azure's credentials: where they come from, and the variables that obstore reads.

An ``abfss://container@account.dfs.core.windows.net/folder`` names account and container in its host. obstore talks to
the account's Blob endpoint, which serves accounts with and without a hierarchical namespace.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from urllib.parse import parse_qs

from ray_anystorage.credentials.aws_profile import file_problem
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.credentials.source import PLATFORM_VARIABLES, Source, dmi, foreign, platform_identity
from ray_anystorage.environment import BucketAddress

_ACCOUNT, _ENDPOINT, _TYPE = "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ENDPOINT", "AZURE_CREDENTIAL_TYPE"
_KEY, _SAS, _CONNECTION = "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"
_PRINCIPAL = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
_WORKLOAD = ("AZURE_FEDERATED_TOKEN_FILE", "AZURE_TENANT_ID", "AZURE_CLIENT_ID")
_MANAGED = ("IDENTITY_ENDPOINT", "MSI_ENDPOINT")
_CHASSIS = "7783-7084-3265-9085-8269-3286-77"  # of every machine in Azure, by which cloud-init knows them too

# What obstore calls each secret, and the way of signing that goes with it.
OBSTORE_NAMES = {
    _KEY: "account_key",
    _SAS: "sas_key",
    "AZURE_TENANT_ID": "tenant_id",
    "AZURE_CLIENT_ID": "client_id",
    "AZURE_CLIENT_SECRET": "client_secret",
    _TYPE: "credential_type",
}
_TYPES = {_KEY: "access_key", _SAS: "sas_token", "AZURE_CLIENT_SECRET": "client_secret"}


def account_of(address: BucketAddress) -> str:
    """The storage account."""
    return address.bucket.partition("@")[2].partition(".")[0]


def container_of(address: BucketAddress) -> str:
    """The container."""
    return address.bucket.partition("@")[0]


def blob_endpoint(address: BucketAddress) -> str:
    """The URL of the account's Blob service; of an emulator, with the account in it."""
    host = address.bucket.partition("@")[2]
    return address.endpoint or f"https://{host.replace('.dfs.', '.blob.', 1)}"


def azure_variables(address: BucketAddress, secret_names: Iterable[str]) -> dict[str, str]:
    """What is harmless to print and every process needs.

    A process may have an identity of its own beside what it is given, which obstore would take before a SAS: so the way
    of signing is said.
    """
    variables = {_ACCOUNT: account_of(address)}
    if address.endpoint:
        variables[_ENDPOINT] = address.endpoint
    kind = next((kind for name, kind in _TYPES.items() if name in secret_names), None)
    return variables | ({_TYPE: kind} if kind else {})


def azure_sources(address: BucketAddress, environ: Mapping[str, str], dmi_root: str) -> tuple[Source | None, ...]:
    """Everything on this node that could open the container, also what is broken, the preferred first."""
    return (
        _workload_identity(address, environ),
        platform_identity(address, environ),
        _managed_identity(address, environ, dmi_root),
        _static(address, environ, _SAS, environ.get(_SAS)),
        _static(address, environ, _KEY, environ.get(_KEY)),
        _connection_string(address, environ),
        _service_principal(address, environ),
    )


def azure_looked_for() -> str:
    """What :func:`azure_sources` looks at, for the error that nothing was found."""
    return (
        f"a workload identity ({', '.join(_WORKLOAD)}), {' or '.join(PLATFORM_VARIABLES)}, the managed identity of an "
        f"Azure machine ({' or '.join(_MANAGED)}), {_SAS}, {_KEY}, {_CONNECTION}, a service principal "
        f"({', '.join(_PRINCIPAL)})"
    )


def _workload_identity(address: BucketAddress, environ: Mapping[str, str]) -> Source | None:
    if not environ.get(_WORKLOAD[0]):
        return None
    missing = [name for name in _WORKLOAD if not environ.get(name)]
    problem = f"{missing[0]} is not set" if missing else file_problem(_WORKLOAD[0], environ[_WORKLOAD[0]])
    description = f"the workload identity with the token file {environ[_WORKLOAD[0]]}"
    return Source("web identity", "ambient", description, problem=foreign(address) or problem)


def _managed_identity(address: BucketAddress, environ: Mapping[str, str], dmi_root: str) -> Source | None:
    if not any(environ.get(name) for name in _MANAGED) and dmi(dmi_root, "chassis_asset_tag") != _CHASSIS:
        return None
    return Source("instance", "ambient", "the managed identity of the Azure machine", problem=foreign(address))


def _connection_string(address: BucketAddress, environ: Mapping[str, str]) -> Source | None:
    if not environ.get(_CONNECTION):
        return None
    # A value may end in '=' itself: base64.
    parts = dict(part.split("=", 1) for part in environ[_CONNECTION].split(";") if "=" in part)
    said = {_SAS: parts.get("SharedAccessSignature"), _KEY: parts.get("AccountKey")}
    name, value = next(((name, value) for name, value in said.items() if value), (_KEY, None))
    if value is None:
        problem = f"{_CONNECTION} holds neither AccountKey nor SharedAccessSignature"
        return Source("static keys", "env", f"connection string ({_CONNECTION})", problem=problem)
    account = {_ACCOUNT: parts["AccountName"]} if "AccountName" in parts else {}
    return _static(address, account, name, value, said_by=_CONNECTION)


def _static(
    address: BucketAddress, environ: Mapping[str, str], name: str, value: str | None, *, said_by: str = ""
) -> Source | None:
    if not value:
        return None
    value, said_by = value.strip().lstrip("?"), said_by or name
    what, problem = ("SAS", _sas_problem(value)) if name == _SAS else ("account key", _key_problem(value))
    other = environ.get(_ACCOUNT)
    if other and other != account_of(address):
        problem = f"it is of the account {other!r}, and the folder is in {account_of(address)!r}"
    return Source("static keys", "env", f"{what} ({said_by})", secrets=Secrets({name: value}), problem=problem)


def _sas_problem(sas: str) -> str:
    fields = parse_qs(sas)
    if "sig" not in fields:
        return "it has no signature (sig=…)"
    try:
        expiry = datetime.fromisoformat(fields["se"][0].replace("Z", "+00:00"))
    except (KeyError, ValueError):  # a policy that is stored with the container may say when it ends
        return ""
    expiry = expiry if expiry.tzinfo else expiry.replace(tzinfo=timezone.utc)
    return f"it expired at {expiry.isoformat()}" if expiry <= datetime.now(timezone.utc) else ""


def _key_problem(key: str) -> str:
    try:
        base64.b64decode(key, validate=True)
    except binascii.Error:
        return "it is not in base64: look for one that is cut off or quoted"
    return ""


def _service_principal(address: BucketAddress, environ: Mapping[str, str]) -> Source | None:
    if not environ.get("AZURE_CLIENT_SECRET"):
        return None
    values = {name: environ[name] for name in _PRINCIPAL if environ.get(name)}
    missing = [name for name in _PRINCIPAL if name not in values]
    problem = f"{missing[0]} is not set" if missing else foreign(address)
    return Source(
        "service principal", "env", "service principal (AZURE_CLIENT_SECRET)", secrets=Secrets(values), problem=problem
    )
