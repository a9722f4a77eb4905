"""Azure's sources of credentials, the order among them, what travels, and every message."""

from __future__ import annotations

import base64
import json
import pickle
import stat
import time
from pathlib import Path

import pytest

from ray_anystorage.credentials.agent_address import AZURE_VARIABLE, address_in
from ray_anystorage.credentials.azure import account_of, blob_endpoint, container_of
from ray_anystorage.credentials.broker import own_broker, serve_own
from ray_anystorage.credentials.choose import choose, choose_here
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import CredentialsError, CredentialsNotFoundError
from ray_anystorage.transfer.agent_file import AgentFile

FOLDER = BucketAddress("abfss", "box@acc.dfs.core.windows.net", "runs")
EMULATOR = BucketAddress("abfss", "box@acc.dfs.core.windows.net", "runs", endpoint="http://127.0.0.1:10000/acc")
KEY = base64.b64encode(b"planted account key").decode()
SIGNATURE = "plantedSignature%3D"
SAS = f"sp=rwdl&se=2999-01-01T00%3A00%3A00Z&sv=2020-12-06&sr=c&sig={SIGNATURE}"
SAS_END = 32472144000.0
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
def test_static_credentials_travel_when_asked_for_by_name_and_are_served_else(
    environ: dict[str, str], secrets: dict[str, str], kind: str, source: str
) -> None:
    grant = chosen("env", environ)
    assert grant.secrets.reveal() == secrets
    assert dict(grant.env_vars) == HARMLESS | {"AZURE_CREDENTIAL_TYPE": kind}
    assert grant.source.startswith(source)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(grant)
    served = chosen("auto", environ)
    assert (served.mode, served.secrets.names) == ("broker", ())
    broker = own_broker(dict(served.env_vars))
    assert broker is not None
    assert dict(served.env_vars) == HARMLESS | broker.address.variables("azure")
    assert chosen("broker", environ).env_vars == served.env_vars, "one source has one broker"
    assert choose_here(FOLDER, environ).mode == "env", "nothing travels from a process that only reads"
    for text in (repr(grant), grant.reason, repr(served), served.reason, repr(vars(broker.provider))):
        assert not [secret for secret in PLANTED if secret in text]


def test_an_agent_keeps_the_secret_in_a_private_file() -> None:
    for environ, content in (
        ({"AZURE_STORAGE_SAS_TOKEN": f"?{SAS}"}, {"sas_token": SAS, "expires_at": SAS_END}),
        ({"AZURE_STORAGE_ACCOUNT_KEY": KEY}, {"access_key": KEY, "expires_at": None}),
    ):
        variables = dict(chosen("auto", environ).env_vars)
        serve_own(variables)
        path = Path(variables[AZURE_VARIABLE])
        assert (json.loads(path.read_text()), stat.S_IMODE(path.stat().st_mode)) == (content, 0o600)
        assert AgentFile(str(path))().items() >= {(name, content[name]) for name in content.keys() - {"expires_at"}}


def test_what_a_broker_serves_already_travels_on() -> None:
    here = dict(chosen("auto", {"AZURE_STORAGE_SAS_TOKEN": SAS}).env_vars)
    serve_own(here)
    address = address_in(here)
    assert address is not None
    for mode in ("auto", "ambient", "broker"):
        inside = chosen(mode, here, {"AZURE_STORAGE_ACCOUNT_KEY": KEY}, address=EMULATOR)
        assert inside.mode == "ambient"
        assert address.variables("azure").items() <= dict(inside.env_vars).items()
        assert inside.source.startswith("what a broker's agent keeps in")
    gone = here | {AZURE_VARIABLE: here[AZURE_VARIABLE].replace("azure.json", "gone.json")}
    with pytest.raises(CredentialsNotFoundError, match=f"{AZURE_VARIABLE} names .*cannot be read on this node"):
        chosen("auto", gone)


def test_a_file_that_holds_nothing_to_give_says_so(tmp_path: Path) -> None:
    path = tmp_path / "azure.json"
    with pytest.raises(CredentialsError, match=r"azure\.json cannot be read: No such file"):
        AgentFile(str(path))()
    path.write_text(json.dumps({"sas_token": SAS, "expires_at": 978307200.0}))
    with pytest.raises(CredentialsError, match="expired at 2001-01-01 00:00:00 UTC") as raised:
        AgentFile(str(path))()
    assert SIGNATURE not in str(raised.value)


def test_a_file_is_read_again_after_some_seconds_and_before_its_end(tmp_path: Path) -> None:
    path = tmp_path / "azure.json"
    for end, limit in ((None, 5.0), (time.time() + 3600, 5.0), (time.time() + 2, 2.0)):
        path.write_text(json.dumps({"access_key": KEY, "expires_at": end}))
        assert limit - 1 < AgentFile(str(path))()["expires_at"].timestamp() - time.time() <= limit


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
        foreign = chosen("auto", environ, {"AZURE_STORAGE_ACCOUNT_KEY": KEY}, address=EMULATOR, dmi_root=dmi_root)
        assert foreign.mode == "broker"
        assert "means nothing to the store at" in foreign.reason
    token.unlink()
    with pytest.raises(CredentialsNotFoundError, match="cannot be read on this node"):
        chosen("auto", workload)


def test_a_callable_is_served() -> None:
    grant = choose(lambda: {"sas_token": SAS}, FOLDER, {"AZURE_STORAGE_ACCOUNT_KEY": KEY})
    assert (grant.mode, list(dict(grant.env_vars))) == ("broker", [AZURE_VARIABLE, "AZURE_STORAGE_ACCOUNT_NAME"])
    serve_own(dict(grant.env_vars))
    assert AgentFile(dict(grant.env_vars)[AZURE_VARIABLE])()["sas_token"] == SAS


def test_there_is_nothing_that_could_be_named() -> None:
    with pytest.raises(CredentialsNotFoundError, match=r'only SAS(?s:.*)what to do: say .*"broker"') as raised:
        chosen("reference", {"AZURE_STORAGE_SAS_TOKEN": SAS})
    assert SIGNATURE not in str(raised.value)


def test_what_was_looked_for_is_said() -> None:
    for mode in ("auto", "env", "reference"):
        with pytest.raises(CredentialsNotFoundError) as raised:
            chosen(mode)
        assert AZURE_VARIABLE in str(raised.value)
        for name in ("AZURE_FEDERATED_TOKEN_FILE", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET", "AWS"):
            assert (name in str(raised.value)) is (name != "AWS")
    believed = chosen("ambient", address=EMULATOR)
    assert dict(believed.env_vars) == HARMLESS | {"AZURE_STORAGE_ENDPOINT": EMULATOR.endpoint}
