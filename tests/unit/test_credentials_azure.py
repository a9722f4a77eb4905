"""Azure's sources of credentials, the order among them, what travels, and every message."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path

import pytest

from ray_anystorage.credentials.azure import account_of, blob_endpoint, container_of
from ray_anystorage.credentials.choose import choose
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import CredentialsError, CredentialsNotFoundError, StaticKeysError

FOLDER = BucketAddress("abfss", "box@acc.dfs.core.windows.net", "runs")
EMULATOR = BucketAddress("abfss", "box@acc.dfs.core.windows.net", "runs", endpoint="http://127.0.0.1:10000/acc")
KEY = base64.b64encode(b"planted account key").decode()
SIGNATURE = "plantedSignature%3D"
SAS = f"sp=rwdl&se=2999-01-01T00%3A00%3A00Z&sv=2020-12-06&sr=c&sig={SIGNATURE}"
PRINCIPAL = {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_CLIENT_SECRET": "planted-client-secret"}
PLANTED = (KEY, SIGNATURE, "planted-client-secret")
HARMLESS = {"AZURE_STORAGE_ACCOUNT_NAME": "acc"}


def chosen(mode: str, *environs: dict[str, str], address: BucketAddress = FOLDER, dmi_root: str = "/nowhere") -> Grant:
    return choose(mode, address, {name: value for environ in environs for name, value in environ.items()},
                  dmi_root=dmi_root)  # fmt: skip


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [
        ("acc.dfs.core.windows.net", "https://acc.blob.core.windows.net"),
        ("acc.dfs.core.chinacloudapi.cn", "https://acc.blob.core.chinacloudapi.cn"),
        ("acc.blob.core.windows.net", "https://acc.blob.core.windows.net"),
    ],
)
def test_the_uri_names_account_and_container(host: str, endpoint: str) -> None:
    address = BucketAddress("abfss", f"box@{host}", "x")
    assert (account_of(address), container_of(address), blob_endpoint(address)) == ("acc", "box", endpoint)


@pytest.mark.parametrize(
    ("environ", "secrets", "kind", "source"),
    [
        ({"AZURE_STORAGE_ACCOUNT_KEY": KEY}, {"AZURE_STORAGE_ACCOUNT_KEY": KEY}, "access_key", "account key"),
        ({"AZURE_STORAGE_SAS_TOKEN": f"?{SAS}"}, {"AZURE_STORAGE_SAS_TOKEN": SAS}, "sas_token", "SAS"),
        (
            {"AZURE_STORAGE_SAS_TOKEN": SAS, "AZURE_STORAGE_ACCOUNT_KEY": KEY},
            {"AZURE_STORAGE_SAS_TOKEN": SAS},
            "sas_token",
            "SAS",
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=https;AccountName=acc;AccountKey={KEY}"},
            {"AZURE_STORAGE_ACCOUNT_KEY": KEY},
            "access_key",
            "account key (AZURE_STORAGE_CONNECTION_STRING)",
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint=https://acc.x;SharedAccessSignature={SAS}"},
            {"AZURE_STORAGE_SAS_TOKEN": SAS},
            "sas_token",
            "SAS (AZURE_STORAGE_CONNECTION_STRING)",
        ),
        (PRINCIPAL, PRINCIPAL, "client_secret", "service principal"),
    ],
)
def test_static_credentials_travel_when_asked_for_by_name_and_never_else(
    environ: dict[str, str], secrets: dict[str, str], kind: str, source: str
) -> None:
    grant = chosen("env", environ)
    assert grant.secrets.reveal() == secrets
    assert dict(grant.env_vars) == HARMLESS | {"AZURE_CREDENTIAL_TYPE": kind}
    assert grant.source.startswith(source)
    with pytest.raises(StaticKeysError, match=r'credentials="env".*managed or workload identity') as raised:
        chosen("auto", environ)
    for text in (repr(grant), grant.reason, str(raised.value)):
        assert not [secret for secret in PLANTED if secret in text]
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(grant)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"AZURE_STORAGE_ACCOUNT_KEY": "planted account key!"}, "not in base64"),
        ({"AZURE_STORAGE_SAS_TOKEN": "sp=rwdl&se=2999-01-01"}, "no signature"),
        ({"AZURE_STORAGE_SAS_TOKEN": f"se=2001-01-01&sig={SIGNATURE}"}, "expired at 2001-01-01"),
        ({"AZURE_STORAGE_ACCOUNT_KEY": KEY, "AZURE_STORAGE_ACCOUNT_NAME": "other"}, "of the account 'other'.*'acc'"),
        ({"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=other;AccountKey={KEY}"}, "of the account 'other'.*'acc'"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"}, "neither AccountKey nor SharedAccess"),
        ({"AZURE_CLIENT_SECRET": "planted-client-secret", "AZURE_CLIENT_ID": "c"}, "AZURE_TENANT_ID is not set"),
    ],
)
@pytest.mark.parametrize("mode", ["env", "auto"])
def test_what_cannot_serve_is_said(mode: str, environ: dict[str, str], says: str) -> None:
    with pytest.raises(CredentialsError, match=says) as raised:
        chosen(mode, environ)
    assert not [secret for secret in (*PLANTED, "planted account key") if secret in str(raised.value)]


def test_a_sas_whose_end_is_stored_with_the_container_is_believed() -> None:
    assert chosen("env", {"AZURE_STORAGE_SAS_TOKEN": f"si=policy&sig={SIGNATURE}"}).mode == "env"


def test_an_identity_of_the_nodes_is_preferred_and_nothing_of_it_travels(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("planted-token")
    workload = {"AZURE_FEDERATED_TOKEN_FILE": str(token), "AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c"}
    (tmp_path / "chassis_asset_tag").write_text("7783-7084-3265-9085-8269-3286-77\n")
    signs: list[tuple[dict[str, str], str, str]] = [
        (workload, "/nowhere", "the workload identity with the token file"),
        ({"ANYSCALE_ARTIFACT_STORAGE": "abfss://box@acc.dfs.core.windows.net/x"}, "/nowhere", "the identity of the"),
        ({"IDENTITY_ENDPOINT": "http://169.254.130.1"}, "/nowhere", "the managed identity of the Azure machine"),
        ({}, str(tmp_path), "the managed identity of the Azure machine"),
    ]
    for environ, dmi_root, source in signs:
        grant = chosen("auto", environ, {"AZURE_STORAGE_ACCOUNT_KEY": KEY}, dmi_root=dmi_root)
        assert (grant.mode, grant.secrets.names, dict(grant.env_vars)) == ("ambient", (), HARMLESS)
        assert grant.source.startswith(source)
        assert "account key (AZURE_STORAGE_ACCOUNT_KEY) not used" in grant.reason
        with pytest.raises(StaticKeysError, match="means nothing to the store at"):
            chosen("auto", environ, {"AZURE_STORAGE_ACCOUNT_KEY": KEY}, address=EMULATOR, dmi_root=dmi_root)
    token.unlink()
    with pytest.raises(CredentialsNotFoundError, match="cannot be read on this node"):
        chosen("auto", workload)


def test_a_callable_is_refused_since_no_agent_serves_azure() -> None:
    with pytest.raises(CredentialsError, match=r"what to do: set AZURE_STORAGE_SAS_TOKEN"):
        choose(lambda: {"sas_token": SIGNATURE}, FOLDER, {})


def test_what_was_looked_for_is_said() -> None:
    for mode in ("auto", "env", "reference"):
        with pytest.raises(CredentialsNotFoundError) as raised:
            chosen(mode)
        for name in ("AZURE_FEDERATED_TOKEN_FILE", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET", "AWS"):
            assert (name in str(raised.value)) is (name != "AWS")
    believed = chosen("ambient", address=EMULATOR)
    assert dict(believed.env_vars) == HARMLESS | {"AZURE_STORAGE_ENDPOINT": EMULATOR.endpoint}
