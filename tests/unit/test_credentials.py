"""Every source of credentials, the order among them, what travels, and every message."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from ray_anystorage.credentials.agent_address import address_in
from ray_anystorage.credentials.broker import own_broker, serve_own
from ray_anystorage.credentials.choose import choose, choose_here, merge_runtime_env
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.sources import Source, find_sources
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import (
    ConfigClashError,
    CredentialsError,
    CredentialsNotFoundError,
    RequestError,
)

SECRET = "planted/Secret+Value"
TOKEN = "plantedSessionToken"
KEY_ID = "AKPLANTEDKEYID"
STATIC = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
KEYS = f"aws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n"
ROLE = "arn:aws:iam::123456789012:role/train"

AWS = BucketAddress("s3", "data", "runs", region="eu-west-1")
MINIO = BucketAddress("s3", "data", "runs", region="eu-west-1", endpoint="http://minio.local:9000")
GCS = BucketAddress("gs", "data", "runs")


@pytest.fixture
def nowhere(tmp_path: Path) -> str:
    """A DMI directory of no cloud."""
    return str(tmp_path / "no-dmi")


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write_file(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write_file


def dmi(tmp_path: Path, **files: str) -> str:
    root = tmp_path / "dmi"
    root.mkdir()
    for name, text in files.items():
        (root / name).write_text(text + "\n")
    return str(root)


def only(sources: tuple[Source, ...]) -> Source:
    assert len(sources) == 1, sources
    return sources[0]


# --- sources: the nodes' own identity -------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        {"sys_vendor": "Amazon EC2"},
        {"sys_vendor": "Xen", "product_uuid": "EC2E1916-9099-7CAF-FD21-012345ABCDEF"},
        {"board_asset_tag": "i-0123456789abcdef0"},
    ],
)
def test_an_ec2_machine_is_an_identity(tmp_path: Path, files: dict[str, str]) -> None:
    source = only(find_sources(AWS, {}, dmi_root=dmi(tmp_path, **files)))
    assert (source.kind, source.mode, source.usable) == ("instance", "ambient", True)
    assert "EC2" in source.description


@pytest.mark.parametrize("files", [{}, {"sys_vendor": "LENOVO", "board_asset_tag": "Not Available"}])
def test_another_machine_is_none(tmp_path: Path, files: dict[str, str]) -> None:
    assert find_sources(AWS, {}, dmi_root=dmi(tmp_path, **files)) == ()
    assert find_sources(GCS, {}, dmi_root=str(tmp_path / "dmi")) == ()


def test_ec2_with_its_metadata_service_disabled_is_none(tmp_path: Path) -> None:
    root = dmi(tmp_path, sys_vendor="Amazon EC2")
    assert find_sources(AWS, {"AWS_EC2_METADATA_DISABLED": "True"}, dmi_root=root) == ()


def test_an_identity_counts_for_its_own_providers_stores_only(tmp_path: Path) -> None:
    root = dmi(tmp_path, sys_vendor="Amazon EC2")
    assert find_sources(GCS, {}, dmi_root=root) == ()
    assert not only(find_sources(MINIO, {}, dmi_root=root)).usable
    vpc = BucketAddress("s3", "data", "", endpoint="https://bucket.vpce-1a2b.s3.eu-west-1.vpce.amazonaws.com")
    assert only(find_sources(vpc, {}, dmi_root=root)).usable
    lookalike = BucketAddress("s3", "data", "", endpoint="https://amazonaws.com.example.org")
    assert not only(find_sources(lookalike, {}, dmi_root=root)).usable


def test_a_google_machine_is_an_identity_for_gcs(tmp_path: Path) -> None:
    root = dmi(tmp_path, product_name="Google Compute Engine", sys_vendor="Google")
    assert only(find_sources(GCS, {}, dmi_root=root)).kind == "instance"
    assert find_sources(AWS, {}, dmi_root=root) == ()


@pytest.mark.parametrize("variable", ["ANYSCALE_ARTIFACT_STORAGE", "ANYSCALE_CLOUD_STORAGE_BUCKET"])
def test_the_platforms_nodes_have_an_identity(variable: str, nowhere: str) -> None:
    source = only(find_sources(AWS, {variable: "s3://platform/org/cld"}, dmi_root=nowhere))
    assert (source.kind, source.mode, source.usable) == ("platform", "ambient", True)
    assert variable in source.description
    assert find_sources(GCS, {variable: "s3://platform/org/cld"}, dmi_root=nowhere) == ()
    assert only(find_sources(GCS, {variable: "gs://platform/org/cld"}, dmi_root=nowhere)).usable


def test_the_platforms_bucket_may_have_no_scheme(nowhere: str) -> None:
    assert only(find_sources(AWS, {"ANYSCALE_CLOUD_STORAGE_BUCKET": "platform"}, dmi_root=nowhere)).usable


def test_other_variables_of_the_platform_say_nothing_about_the_nodes(nowhere: str) -> None:
    assert find_sources(AWS, {"ANYSCALE_CLI_TOKEN": SECRET, "ANYSCALE_HOST": "https://x"}, dmi_root=nowhere) == ()


@pytest.mark.parametrize(
    ("variables", "served_at", "serves_minio"),
    [
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/planted"}, "169.254.170.2", False),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials"}, "169.254.170.23", False),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:7171/c?planted"}, "127.0.0.1:7171", True),
    ],
)
def test_container_credentials(variables: dict[str, str], served_at: str, serves_minio: bool, nowhere: str) -> None:
    source = only(find_sources(AWS, variables, dmi_root=nowhere))
    assert (source.kind, source.mode, source.usable) == ("container", "ambient", True)
    assert source.description.endswith(f"at {served_at}")
    assert "planted" not in repr(source)
    assert only(find_sources(MINIO, variables, dmi_root=nowhere)).usable is serves_minio


def test_container_credentials_need_their_token_file(nowhere: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "token")
    variables = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:7171/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": missing,
    }
    assert missing in only(find_sources(AWS, variables, dmi_root=nowhere)).problem


# --- sources: profiles ----------------------------------------------------------------------------


def profile_source(environ: dict[str, str], address: BucketAddress = AWS) -> Source:
    return only(find_sources(address, environ, dmi_root="/nonexistent"))


def test_the_default_profile_at_home(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = write(".aws/credentials", f"[default]\n{KEYS}")
    source = profile_source({"HOME": str(tmp_path)})
    assert (source.kind, source.mode, source.problem) == ("profile", "reference", "")
    assert dict(source.references) == {"AWS_PROFILE": "default", "AWS_SHARED_CREDENTIALS_FILE": path}
    assert source.secrets.reveal() == STATIC
    assert SECRET not in repr(source)


def test_a_named_profile_in_a_config_file(write) -> None:  # type: ignore[no-untyped-def]
    path = write(
        "config", f"[default]\nregion = x\n[profile team]\nregion = us-west-2\n{KEYS}aws_session_token = {TOKEN}\n"
    )
    source = profile_source({"AWS_CONFIG_FILE": path, "AWS_PROFILE": "team"})
    assert dict(source.references) == {"AWS_PROFILE": "team", "AWS_CONFIG_FILE": path}
    assert source.region == "us-west-2"
    assert source.secrets.reveal() == {**STATIC, "AWS_SESSION_TOKEN": TOKEN}


def test_a_quoted_profile_name_and_nested_settings(write) -> None:  # type: ignore[no-untyped-def]
    path = write("config", f'[profile "my team"]\n{KEYS}s3 =\n  max_concurrent_requests = 5\n')
    assert profile_source({"AWS_CONFIG_FILE": path, "AWS_PROFILE": "my team"}).usable


def test_the_credentials_file_wins_over_the_config_file(write) -> None:  # type: ignore[no-untyped-def]
    config = write("config", "[profile team]\naws_access_key_id = other\naws_secret_access_key = other\nregion = r\n")
    credentials = write("credentials", f"[team]\n{KEYS}")
    source = profile_source(
        {"AWS_CONFIG_FILE": config, "AWS_SHARED_CREDENTIALS_FILE": credentials, "AWS_PROFILE": "team"}
    )
    assert source.secrets.reveal() == STATIC
    assert source.region == "r"
    assert dict(source.references)["AWS_CONFIG_FILE"] == config


def test_aws_default_profile_comes_first_and_both_names_travel(write) -> None:  # type: ignore[no-untyped-def]
    path = write("credentials", f"[first]\n{KEYS}[second]\n{KEYS}")
    names = {"AWS_DEFAULT_PROFILE": "first", "AWS_PROFILE": "second"}
    source = profile_source({"AWS_SHARED_CREDENTIALS_FILE": path, **names})
    assert dict(source.references)["AWS_PROFILE"] == dict(source.references)["AWS_DEFAULT_PROFILE"] == "first"


@pytest.mark.parametrize("path", ["~/keys", "keys"])
def test_a_path_travels_absolute(
    write,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = write("keys", f"[default]\n{KEYS}")
    monkeypatch.chdir(tmp_path)
    source = profile_source({"HOME": str(tmp_path), "AWS_SHARED_CREDENTIALS_FILE": path})
    assert dict(source.references)["AWS_SHARED_CREDENTIALS_FILE"] == written


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("credential_process = /bin/keys", "credential_process"),
        ("sso_session = corp\nsso_account_id = 1\nsso_role_name = r", "SSO login"),
        ("sso_start_url = https://corp.awsapps.com/start", "SSO login"),
    ],
)
def test_profiles_that_hold_something_other_than_keys(write, text: str, kind: str) -> None:  # type: ignore[no-untyped-def]
    path = write("config", f"[profile team]\n{text}\n")
    source = profile_source({"AWS_CONFIG_FILE": path, "AWS_PROFILE": "team"})
    assert source.usable
    assert kind in source.description
    assert source.secrets.names == ()


def test_a_profile_with_a_web_identity_role_needs_its_token_file(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    token = tmp_path / "token"
    path = write("config", f"[profile team]\nrole_arn = {ROLE}\nweb_identity_token_file = {token}\n")
    environ = {"AWS_CONFIG_FILE": path, "AWS_PROFILE": "team"}
    assert str(token) in profile_source(environ).problem
    token.write_text(TOKEN)
    assert profile_source(environ).usable


@pytest.mark.parametrize("origin", ["source_profile = base", "credential_source = Ec2InstanceMetadata"])
def test_a_chained_role_is_refused_because_pyarrow_cannot(write, origin: str) -> None:  # type: ignore[no-untyped-def]
    path = write("config", f"[profile team]\nrole_arn = {ROLE}\n{origin}\n[profile base]\n{KEYS}")
    problem = profile_source({"AWS_CONFIG_FILE": path, "AWS_PROFILE": "team"}).problem
    assert "pyarrow" in problem
    assert "export-credentials --profile team" in problem


@pytest.mark.parametrize(
    "sections",
    [
        f"[profile team]\nrole_arn = {ROLE}\nsource_profile = base\nmfa_serial = m\n[profile base]\n{KEYS}",
        f"[profile team]\nrole_arn = {ROLE}\nsource_profile = base\n"
        f"[profile base]\nrole_arn = {ROLE}\nsource_profile = team\nmfa_serial = m\n",
    ],
)
def test_a_role_that_wants_a_code_is_served_by_nobody(write, sections: str, nowhere: str) -> None:  # type: ignore[no-untyped-def]
    environ = {"AWS_CONFIG_FILE": write("config", sections), "AWS_PROFILE": "team"}
    for mode in ("auto", "broker"):
        with pytest.raises(CredentialsError, match="MFA device"):
            choose(mode, AWS, environ, dmi_root=nowhere)


def test_a_source_profile_with_keys_is_asked_for_no_code(write) -> None:  # type: ignore[no-untyped-def]
    text = f"[profile team]\nrole_arn = {ROLE}\nsource_profile = base\n"
    path = write("config", f"{text}[profile base]\nrole_arn = {ROLE}\nmfa_serial = m\n{KEYS}")
    assert profile_source({"AWS_CONFIG_FILE": path, "AWS_PROFILE": "team"}).only_brokered


@pytest.mark.parametrize("header", ["[profile ]", "[ ]", "[profile]", "[\t]"])
def test_a_section_without_a_name_is_passed_over(write, header: str) -> None:  # type: ignore[no-untyped-def]
    path = write("config", f"{header}\nregion = x\n[profile team]\n{KEYS}")
    assert profile_source({"AWS_CONFIG_FILE": path, "AWS_PROFILE": "team"}).usable


def test_a_default_profile_without_credentials_is_no_source(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write(".aws/config", "[default]\nregion = eu-west-1\n[profile other]\nregion = x\n")
    assert find_sources(AWS, {"HOME": str(tmp_path)}, dmi_root="/nonexistent") == ()


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("[default]\nregion = x\n", "team", ("AWS_PROFILE names profile 'team'", "profiles there: default")),
        ("[profile team]\nregion = x\n", "team", ("profile 'team'", "holds no credentials")),
        ("[profile team]\naws_access_key_id = AK\n", "team", ("profile 'team'", "lacks aws_secret_access_key")),
        ("[profile team]\naws_secret_access_key = " + SECRET, "team", ("lacks aws_access_key_id",)),
        (f"[profile team]\n{SECRET}\n", "team", ("not a valid AWS config file",)),
        (f"{SECRET}\n", "team", ("not a valid AWS config file",)),
    ],
)
def test_a_named_profile_that_cannot_be_used(write, text: str, name: str, expected: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    path = write("config", text)
    source = profile_source({"AWS_CONFIG_FILE": path, "AWS_PROFILE": name})
    for part in (*expected, path):
        assert part in source.problem
    assert SECRET not in repr(source)


@pytest.mark.parametrize("variable", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
def test_a_named_file_that_is_missing(variable: str, tmp_path: Path) -> None:
    path = str(tmp_path / "absent")
    assert profile_source({variable: path}).problem == (
        f"{variable} names {path}, which cannot be read on this node: No such file or directory"
    )


# --- sources: web identity, key files, static keys -------------------------------------------------


def test_a_web_identity_role(write, nowhere: str) -> None:  # type: ignore[no-untyped-def]
    token = write("token", TOKEN)
    variables = {"AWS_WEB_IDENTITY_TOKEN_FILE": token, "AWS_ROLE_ARN": ROLE, "AWS_ROLE_SESSION_NAME": "train"}
    source = only(find_sources(AWS, variables, dmi_root=nowhere))
    assert (source.mode, source.usable, dict(source.references)) == ("reference", True, variables)
    assert TOKEN not in repr(source)
    assert not only(find_sources(MINIO, variables, dmi_root=nowhere)).usable


def test_a_web_identity_role_without_its_file_or_role(nowhere: str, tmp_path: Path) -> None:
    token = str(tmp_path / "token")
    variables = {"AWS_WEB_IDENTITY_TOKEN_FILE": token, "AWS_ROLE_ARN": ROLE}
    assert token in only(find_sources(AWS, variables, dmi_root=nowhere)).problem
    assert find_sources(AWS, {"AWS_WEB_IDENTITY_TOKEN_FILE": token}, dmi_root=nowhere) == ()
    assert find_sources(AWS, {"AWS_ROLE_ARN": ROLE}, dmi_root=nowhere) == ()


@pytest.mark.parametrize("kind", ["service_account", "authorized_user", "external_account"])
def test_a_google_key_file(write, kind: str, nowhere: str) -> None:  # type: ignore[no-untyped-def]
    path = write("key.json", json.dumps({"type": kind, "private_key": SECRET}))
    source = only(find_sources(GCS, {"GOOGLE_APPLICATION_CREDENTIALS": path}, dmi_root=nowhere))
    assert (source.kind, source.mode, source.problem) == ("key file", "reference", "")
    assert source.references == (("GOOGLE_APPLICATION_CREDENTIALS", path),)
    assert kind in source.description
    assert SECRET not in repr(source) + repr(source.secrets.reveal())


@pytest.mark.parametrize("place", ["HOME", "CLOUDSDK_CONFIG"])
def test_the_gcloud_login(write, tmp_path: Path, place: str, nowhere: str) -> None:  # type: ignore[no-untyped-def]
    folder = ".config/gcloud/" if place == "HOME" else ""
    path = write(f"{folder}application_default_credentials.json", json.dumps({"type": "authorized_user"}))
    source = only(find_sources(GCS, {place: str(tmp_path)}, dmi_root=nowhere))
    assert source.references == (("GOOGLE_APPLICATION_CREDENTIALS", path),)
    assert "gcloud" in source.description


def test_no_gcloud_login_is_no_source(tmp_path: Path, nowhere: str) -> None:
    assert find_sources(GCS, {"HOME": str(tmp_path)}, dmi_root=nowhere) == ()
    assert find_sources(GCS, {}, dmi_root=nowhere) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "cannot be read on this node: No such file"),
        (SECRET, "is not JSON"),
        (json.dumps({"type": SECRET}), "whose type is none of service_account"),
        (json.dumps([SECRET]), "whose type is none of service_account"),
        (json.dumps({"type": "external_account", "credential_source": {"file": "/absent/token"}}), "/absent/token"),
    ],
)
def test_a_google_key_file_that_cannot_be_used(
    write,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    text: str | None,
    expected: str,
    nowhere: str,
) -> None:
    path = str(tmp_path / "key.json") if text is None else write("key.json", text)
    source = only(find_sources(GCS, {"GOOGLE_APPLICATION_CREDENTIALS": path}, dmi_root=nowhere))
    assert expected in source.problem
    assert path in source.problem
    assert SECRET not in repr(source)


@pytest.mark.parametrize("token", [{}, {"AWS_SESSION_TOKEN": TOKEN}])
def test_static_keys(token: dict[str, str], nowhere: str) -> None:
    source = only(find_sources(AWS, {**STATIC, **token}, dmi_root=nowhere))
    assert (source.kind, source.mode, source.usable) == ("static keys", "env", True)
    assert source.secrets.reveal() == {**STATIC, **token}
    assert not any(value in repr(source) for value in (SECRET, KEY_ID, TOKEN))


@pytest.mark.parametrize("missing", list(STATIC))
def test_half_of_static_keys(missing: str, nowhere: str) -> None:
    half = {name: value for name, value in STATIC.items() if name != missing}
    source = only(find_sources(AWS, {**half, missing: ""}, dmi_root=nowhere))
    assert source.problem.endswith(f"{missing} is not")


# --- choosing -------------------------------------------------------------------------------------

IDENTITY = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:7171/"}


@pytest.fixture
def profile(write) -> dict[str, str]:  # type: ignore[no-untyped-def]
    return {"AWS_SHARED_CREDENTIALS_FILE": write("shared", f"[default]\n{KEYS}")}


def test_auto_prefers_an_identity_of_the_nodes(profile: dict[str, str], nowhere: str) -> None:
    grant = choose("auto", AWS, {**IDENTITY, **profile, **STATIC}, dmi_root=nowhere)
    assert grant.mode == "ambient"
    assert grant.secrets.names == ()
    assert dict(grant.env_vars) == {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1"}
    for part in ("container credentials", 'credentials="reference" would name it', 'credentials="env" would carry'):
        assert part in grant.reason


def test_auto_takes_a_reference_next(profile: dict[str, str], nowhere: str) -> None:
    grant = choose("auto", MINIO, {**profile, **STATIC}, dmi_root=nowhere)
    assert grant.mode == "reference"
    assert grant.secrets.names == ()
    assert dict(grant.env_vars) == {
        "AWS_ALLOW_HTTP": "true",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT": "http://minio.local:9000",
        "AWS_ENDPOINT_URL_S3": "http://minio.local:9000",
        "AWS_PROFILE": "default",
        "AWS_REGION": "eu-west-1",
        **profile,
    }
    assert "no identity of the nodes was found" in grant.reason
    assert "static keys" in grant.reason


def test_auto_says_why_an_identity_was_passed_over(tmp_path: Path, profile: dict[str, str]) -> None:
    grant = choose("auto", MINIO, profile, dmi_root=dmi(tmp_path, sys_vendor="Amazon EC2"))
    assert grant.mode == "reference"
    assert "instance role of the EC2 machine passed over, it means nothing to the store at http://minio" in grant.reason


def test_auto_goes_on_when_a_reference_is_broken(profile: dict[str, str], nowhere: str, tmp_path: Path) -> None:
    broken = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "absent"), "AWS_ROLE_ARN": ROLE}
    grant = choose("auto", AWS, {**profile, **broken}, dmi_root=nowhere)
    assert "profile" in grant.source
    assert str(tmp_path / "absent") in grant.reason


def test_a_profile_named_by_a_variable_comes_before_a_web_identity_role(
    profile: dict[str, str],
    write,  # type: ignore[no-untyped-def]
    nowhere: str,
) -> None:
    both = {**profile, "AWS_WEB_IDENTITY_TOKEN_FILE": write("token", TOKEN), "AWS_ROLE_ARN": ROLE}
    assert "web-identity" in choose("reference", AWS, both, dmi_root=nowhere).source
    assert "profile" in choose("reference", AWS, {**both, "AWS_PROFILE": "default"}, dmi_root=nowhere).source


def test_auto_has_static_keys_served_by_a_broker(nowhere: str) -> None:
    grant = choose("auto", AWS, {**STATIC, "HOME": "/home/me"}, dmi_root=nowhere)
    assert (grant.mode, grant.secrets.names) == ("broker", ())
    variables = dict(grant.env_vars)
    agents = address_in(variables)
    assert agents is not None
    assert variables == {
        **agents.variables("aws"),
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "eu-west-1",
    }
    assert choose("broker", AWS, STATIC, dmi_root=nowhere).env_vars == grant.env_vars, "one source, one broker"
    assert not any(value in repr(grant) + str(grant.env_vars) for value in (SECRET, KEY_ID))
    assert pickle.loads(pickle.dumps(grant.env_vars)) == grant.env_vars
    broker = own_broker(variables)
    assert broker is not None
    assert broker.lease().values.reveal() == {"AccessKeyId": KEY_ID, "SecretAccessKey": SECRET}


def test_static_keys_beside_a_broken_reference_name_it(nowhere: str, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    grant = choose("auto", AWS, {**STATIC, "AWS_SHARED_CREDENTIALS_FILE": absent}, dmi_root=nowhere)
    assert grant.mode == "broker"
    assert absent in grant.reason


def test_where_nothing_travels_static_keys_serve_as_they_are(profile: dict[str, str], nowhere: str) -> None:
    assert choose_here(AWS, STATIC, dmi_root=nowhere).mode == "env"
    assert choose_here(AWS, {**STATIC, **profile}, dmi_root=nowhere).mode == "reference"
    with pytest.raises(CredentialsNotFoundError):
        choose_here(AWS, {}, dmi_root=nowhere)


@pytest.mark.parametrize("mode", ["auto", "broker"])
def test_a_chained_role_is_served_by_a_broker(write, mode: str, nowhere: str) -> None:  # type: ignore[no-untyped-def]
    text = f"[profile team]\nrole_arn = {ROLE}\nsource_profile = base\nregion = eu-north-1\n[profile base]\n{KEYS}"
    environ = {"AWS_PROFILE": "team", "AWS_CONFIG_FILE": write("config", text)}
    grant = choose(mode, BucketAddress("s3", "data", ""), environ, dmi_root=nowhere)
    assert (grant.mode, dict(grant.env_vars)["AWS_REGION"]) == ("broker", "eu-north-1")
    assert "AWS_PROFILE" not in dict(grant.env_vars)


def test_a_callable_is_asked_by_a_broker(nowhere: str) -> None:
    def mine() -> dict[str, str]:
        raise AssertionError("nothing is asked before it is needed")

    grant = choose(mine, AWS, {**STATIC, **IDENTITY}, dmi_root=nowhere)
    assert (grant.mode, choose(mine, AWS, {}).env_vars) == ("broker", grant.env_vars)
    assert "mine" in grant.source


def test_credentials_given_as_a_mapping_are_refused_without_their_values() -> None:
    for given in (dict(STATIC), [SECRET], SECRET.encode()):
        with pytest.raises(RequestError, match=f"credentials=<{type(given).__name__}> is not a mode") as caught:
            choose(given, AWS, {})  # type: ignore[arg-type]
        assert SECRET not in str(caught.value)


def test_a_google_file_is_served_by_a_broker_where_that_is_asked_for(write, nowhere: str) -> None:  # type: ignore[no-untyped-def]
    path = write("key.json", json.dumps({"type": "service_account", "private_key": SECRET}))
    grant = choose("broker", GCS, {"GOOGLE_APPLICATION_CREDENTIALS": path}, dmi_root=nowhere)
    served = dict(grant.env_vars)["GOOGLE_APPLICATION_CREDENTIALS"]
    assert (grant.mode, served == path) == ("broker", False)
    serve_own(dict(grant.env_vars))
    assert json.loads(Path(served).read_text())["private_key"] == SECRET


def test_what_a_broker_serves_already_travels_on(nowhere: str) -> None:
    here = choose("auto", AWS, STATIC, dmi_root=nowhere)
    serve_own(dict(here.env_vars))
    for mode in ("auto", "ambient", "broker"):
        inside = choose(mode, AWS, dict(here.env_vars), dmi_root=nowhere)
        assert inside.mode == "ambient"
        assert set(address_in(dict(here.env_vars)).variables("aws").items()) <= set(inside.env_vars)  # type: ignore[union-attr]


def test_broker_without_a_source_says_what_there_is(nowhere: str) -> None:
    with pytest.raises(CredentialsNotFoundError, match='credentials="broker": no source'):
        choose("broker", AWS, {}, dmi_root=nowhere)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (
            AWS,
            (
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                "ANYSCALE_ARTIFACT_STORAGE",
                "EC2",
                "AWS_WEB_IDENTITY_TOKEN_FILE",
                "profile 'default' in /home/me/.aws/credentials and /home/me/.aws/config",
                "AWS_ACCESS_KEY_ID",
            ),
        ),
        (
            GCS,
            (
                "Google Compute Engine",
                "GOOGLE_APPLICATION_CREDENTIALS",
                "/home/me/.config/gcloud/application_default_credentials.json",
            ),
        ),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_nothing_found_lists_what_was_looked_for(
    address: BucketAddress, expected: tuple[str, ...], mode: str, nowhere: str
) -> None:
    with pytest.raises(CredentialsNotFoundError) as caught:
        choose(mode, address, {"HOME": "/home/me"}, dmi_root=nowhere)
    for part in (*expected, address.uri, f'credentials="{mode}"', "what to do"):
        assert part in str(caught.value)


@pytest.mark.parametrize("mode", ["auto", "reference", "env"])
def test_a_named_file_that_is_missing_is_an_error(mode: str, nowhere: str, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    with pytest.raises(CredentialsError, match=f"AWS_CONFIG_FILE names {absent}, which cannot be read") as caught:
        choose(mode, AWS, {"AWS_CONFIG_FILE": absent}, dmi_root=nowhere)
    assert "what to do" in str(caught.value)


def test_ambient_is_believed_without_a_sign(nowhere: str) -> None:
    grant = choose("ambient", MINIO, STATIC, dmi_root=nowhere)
    assert grant.mode == "ambient"
    assert grant.secrets.names == ()
    assert "no sign of it on this node" in grant.reason
    assert set(dict(grant.env_vars)) == {
        "AWS_ALLOW_HTTP",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT",
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
    }


def test_ambient_names_the_identity_that_it_found(tmp_path: Path) -> None:
    grant = choose("ambient", AWS, {}, dmi_root=dmi(tmp_path, sys_vendor="Amazon EC2"))
    assert grant.source == "the instance role of the EC2 machine"


def test_reference_does_not_take_static_keys(nowhere: str) -> None:
    with pytest.raises(CredentialsNotFoundError, match="only static keys") as caught:
        choose("reference", AWS, STATIC, dmi_root=nowhere)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("token", [{}, {"AWS_SESSION_TOKEN": TOKEN}])
def test_env_carries_static_keys(token: dict[str, str], nowhere: str) -> None:
    grant = choose("env", AWS, {**STATIC, **token, **IDENTITY}, dmi_root=nowhere)
    assert grant.mode == "env"
    assert grant.secrets.reveal() == {**STATIC, **token}
    assert dict(grant.env_vars) == {
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "eu-west-1",
    }
    assert grant.all_env_vars() == {**dict(grant.env_vars), **STATIC, **token}
    assert 'credentials="auto" would have taken container credentials' in grant.reason
    assert not any(value in repr(grant) + str(grant) for value in (SECRET, KEY_ID, TOKEN))
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(grant)


def test_env_reads_the_keys_of_a_profile(profile: dict[str, str], nowhere: str) -> None:
    grant = choose("env", AWS, profile, dmi_root=nowhere)
    assert grant.secrets.reveal() == STATIC
    assert "AWS_PROFILE" not in dict(grant.env_vars)
    assert "AWS_SHARED_CREDENTIALS_FILE" not in dict(grant.env_vars)


def test_env_prefers_the_keys_of_the_environment(write, nowhere: str) -> None:  # type: ignore[no-untyped-def]
    path = write("shared", "[default]\naws_access_key_id = other\naws_secret_access_key = other\n")
    grant = choose("env", AWS, {**STATIC, "AWS_SHARED_CREDENTIALS_FILE": path}, dmi_root=nowhere)
    assert grant.secrets.reveal() == STATIC


def test_env_without_static_keys_says_what_there_is(write, nowhere: str) -> None:  # type: ignore[no-untyped-def]
    variables = {"AWS_WEB_IDENTITY_TOKEN_FILE": write("token", TOKEN), "AWS_ROLE_ARN": ROLE}
    with pytest.raises(CredentialsNotFoundError, match=f"only role {ROLE}"):
        choose("env", AWS, variables, dmi_root=nowhere)


def test_env_is_refused_for_gcs(write, nowhere: str) -> None:  # type: ignore[no-untyped-def]
    path = write("key.json", json.dumps({"type": "service_account", "private_key": SECRET}))
    with pytest.raises(CredentialsError, match='credentials="reference"') as caught:
        choose("env", GCS, {"GOOGLE_APPLICATION_CREDENTIALS": path}, dmi_root=nowhere)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_gcs_by_reference(write, mode: str, nowhere: str) -> None:  # type: ignore[no-untyped-def]
    path = write("key.json", json.dumps({"type": "service_account", "private_key": SECRET}))
    grant = choose(mode, GCS, {"GOOGLE_APPLICATION_CREDENTIALS": path, **STATIC}, dmi_root=nowhere)
    assert grant.all_env_vars() == {"GOOGLE_APPLICATION_CREDENTIALS": path}
    assert pickle.loads(pickle.dumps(grant.env_vars)) == grant.env_vars


def test_a_gcs_endpoint_travels_under_each_clients_name(nowhere: str) -> None:
    address = BucketAddress("gs", "data", "", endpoint="http://127.0.0.1:4443")
    grant = choose("ambient", address, {}, dmi_root=nowhere)
    assert set(dict(grant.env_vars)) == {"STORAGE_EMULATOR_HOST", "CLOUD_STORAGE_EMULATOR_ENDPOINT", "GOOGLE_BASE_URL"}
    assert set(dict(grant.env_vars).values()) == {"http://127.0.0.1:4443"}


def test_another_mode_names_the_value_and_what_is_expected() -> None:
    with pytest.raises(RequestError, match=r"credentials='magic'.*'auto', 'ambient', 'reference', 'broker', 'env'"):
        choose("magic", AWS, {})


def test_another_scheme_names_the_value_and_what_is_expected() -> None:
    with pytest.raises(CredentialsError, match=r"ftp://data/x(.|\n)*use an s3://, gs:// or abfss:// folder"):
        choose("auto", BucketAddress("ftp", "data", "x"), {})


@pytest.mark.parametrize("secret", ["a$HOME", "a${X}b"])
def test_a_secret_that_ray_would_expand_is_refused(secret: str, nowhere: str) -> None:
    environ = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": secret}
    with pytest.raises(CredentialsError, match="AWS_SECRET_ACCESS_KEY holds a '\\$'") as caught:
        choose("env", AWS, environ, dmi_root=nowhere)
    assert secret not in str(caught.value)


def test_the_region_of_the_address_wins_over_the_profiles(write, nowhere: str) -> None:  # type: ignore[no-untyped-def]
    path = write("config", f"[default]\nregion = us-west-2\n{KEYS}")

    def region(address: BucketAddress) -> str | None:
        return dict(choose("reference", address, {"AWS_CONFIG_FILE": path}, dmi_root=nowhere).env_vars).get(
            "AWS_REGION"
        )

    assert region(AWS) == "eu-west-1"
    assert region(BucketAddress("s3", "data", "")) == "us-west-2"
    assert region(BucketAddress("s3", "data", "", endpoint="http://minio:9000")) == "us-west-2"


def test_another_store_without_a_region_gets_the_sdks_default_and_aws_none(nowhere: str) -> None:
    minio = choose("env", BucketAddress("s3", "d", "", endpoint="https://minio:9000"), STATIC, dmi_root=nowhere)
    assert dict(minio.env_vars)["AWS_REGION"] == dict(minio.env_vars)["AWS_DEFAULT_REGION"] == "us-east-1"
    assert "AWS_ALLOW_HTTP" not in dict(minio.env_vars)
    assert "AWS_REGION" not in dict(choose("env", BucketAddress("s3", "d", ""), STATIC, dmi_root=nowhere).env_vars)


def test_the_process_environment_is_never_read(nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**STATIC, "AWS_PROFILE": "x", "ANYSCALE_ARTIFACT_STORAGE": "s3://x/y"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CredentialsNotFoundError):
        choose("auto", AWS, {}, dmi_root=nowhere)


def test_a_directory_where_the_file_should_be_is_named(tmp_path: Path, nowhere: str) -> None:
    source = only(find_sources(AWS, {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path)}, dmi_root=nowhere))
    assert source.problem.endswith("Is a directory")


# --- merging into runtime_env ---------------------------------------------------------------------


def test_merging_keeps_what_the_user_said_and_changes_nothing_in_place() -> None:
    user = {"pip": ["x"], "env_vars": {"MINE": "1", "AWS_REGION": "eu-west-1"}}
    merged = merge_runtime_env(user, {"AWS_REGION": "eu-west-1", "AWS_PROFILE": "team"})
    assert merged == {"pip": ["x"], "env_vars": {"MINE": "1", "AWS_REGION": "eu-west-1", "AWS_PROFILE": "team"}}
    assert user == {"pip": ["x"], "env_vars": {"MINE": "1", "AWS_REGION": "eu-west-1"}}


def test_merging_with_nothing() -> None:
    assert merge_runtime_env(None, {}) == {}
    assert merge_runtime_env(None, {"A": "1"}) == {"env_vars": {"A": "1"}}
    assert merge_runtime_env({"working_dir": "."}, {}) == {"working_dir": "."}


def test_a_clash_names_the_variable_and_both_values() -> None:
    with pytest.raises(ConfigClashError, match=r"AWS_REGION='a'.*AWS_REGION='b'"):
        merge_runtime_env({"env_vars": {"AWS_REGION": "a"}}, {"AWS_REGION": "b"})


def test_a_clash_of_secrets_masks_both_values(nowhere: str) -> None:
    grant: Grant = choose("env", AWS, STATIC, dmi_root=nowhere)
    with pytest.raises(ConfigClashError, match="AWS_SECRET_ACCESS_KEY") as caught:
        merge_runtime_env(
            {"env_vars": {"AWS_SECRET_ACCESS_KEY": "their-own"}}, grant.all_env_vars(), grant.secrets.names
        )
    error = pickle.loads(pickle.dumps(caught.value))
    for text in (str(error), repr(error), repr(vars(error))):
        assert SECRET not in text
        assert "their-own" not in text
