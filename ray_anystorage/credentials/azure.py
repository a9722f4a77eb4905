"""Azure's credentials: where they come from, and the variables that obstore reads.

An ``abfss://container@account.dfs.core.windows.net/folder`` names account and container in its host. obstore talks to
the account's Blob endpoint, which serves accounts with and without a hierarchical namespace.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from urllib.parse import parse_qs

from ray_anystorage.credentials.agent_address import AZURE_VARIABLE, address_in
from ray_anystorage.credentials.aws_profile import file_problem
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.credentials.source import PLATFORM_VARIABLES, Source, dmi, foreign, platform_identity
from ray_anystorage.environment import BucketAddress

_ACCOUNT, _ENDPOINT, _TYPE = "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ENDPOINT", "AZURE_CREDENTIAL_TYPE"
_KEY, _SAS, _CONNECTION = "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"
_PRINCIPAL = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
_WORKLOAD = ("AZURE_FEDERATED_TOKEN_FILE", "AZURE_TENANT_ID", "AZURE_CLIENT_ID")
_AUTHORITY = "AZURE_AUTHORITY_HOST"
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
        _agent(environ),
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
        f"a broker's agent ({AZURE_VARIABLE}), "
        f"a workload identity ({', '.join(_WORKLOAD)}), {' or '.join(PLATFORM_VARIABLES)}, the managed identity of an "
        f"Azure machine ({' or '.join(_MANAGED)}), {_SAS}, {_KEY}, {_CONNECTION}, a service principal "
        f"({', '.join(_PRINCIPAL)})"
    )


def _agent(environ: Mapping[str, str]) -> Source | None:
    agent = address_in(environ, "azure")
    if agent is None:
        return None
    # No node has it by itself, so what leads there travels on, to the runs that start here.
    references, path = tuple(agent.variables("azure").items()), environ[AZURE_VARIABLE]
    description = f"what a broker's agent keeps in {path}"
    return Source("agent", "ambient", description, references, problem=file_problem(AZURE_VARIABLE, path))


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
    what, problem = ("SAS", sas_problem(value)) if name == _SAS else ("account key", key_problem(value))
    other = environ.get(_ACCOUNT)
    if other and other != account_of(address):
        problem = f"it is of the account {other!r}, and the folder is in {account_of(address)!r}"
    return Source("static keys", "env", f"{what} ({said_by})", secrets=Secrets({name: value}), problem=problem)


def sas_end(sas: str) -> float | None:
    """When a SAS ends, in seconds since the epoch; ``None`` where it does not say so."""
    try:
        end = datetime.fromisoformat(parse_qs(sas)["se"][0].replace("Z", "+00:00"))
    except (KeyError, ValueError):  # a policy that is stored with the container may say when it ends
        return None
    return (end if end.tzinfo else end.replace(tzinfo=timezone.utc)).timestamp()


def sas_problem(sas: str) -> str:
    """Why a SAS cannot serve; empty when nothing is known to be wrong with it."""
    if "sig" not in parse_qs(sas):
        return "it has no signature (sig=…)"
    end = sas_end(sas)
    if end is None or end > time.time():
        return ""
    return f"it expired at {datetime.fromtimestamp(end, timezone.utc).isoformat()}"


def key_problem(key: str) -> str:
    """The same of an account key."""
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
    authority = ((_AUTHORITY, environ[_AUTHORITY]),) if environ.get(_AUTHORITY) else ()
    description = "service principal (AZURE_CLIENT_SECRET)"
    return Source("service principal", "env", description, authority, Secrets(values), problem=problem)
