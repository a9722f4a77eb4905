"""Each way in which a bucket can fail has its own error, in time, with its remedy and without a secret."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ray_anystorage import errors
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.diagnosis.bucket import check_bucket, first_problem
from ray_anystorage.environment import BucketAddress
from ray_anystorage.testing.s3_server import S3Server
from tests.harness.bad_endpoints import answering, s3_error
from tests.harness.tiny_gcs import TinyGcs

SECRET = "wrong-secret-0123456789abcdefghijklmnop"
KEY = "AKIAIOSFODNN7EXAMPLE"
TOKEN = "session-token-0123456789abcdefghijklmnop"
_SECRET_NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
STEPS = ["credentials", "list", "put", "get", "delete"]


@pytest.fixture(autouse=True)
def _keys_of_this_process_that_must_not_count(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good key in the driver's environment must not hide a bad grant."""
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)


def env_grant(variables: Mapping[str, str]) -> Grant:
    secret = {name: value for name, value in variables.items() if name in _SECRET_NAMES}
    harmless = tuple((name, value) for name, value in variables.items() if name not in _SECRET_NAMES)
    return Grant("env", "keys in the environment", "asked for", harmless, Secrets(secret))


def reference(**variables: str) -> Grant:
    return Grant("reference", "profile 'team'", "the only source", tuple(variables.items()))


def keys(key: str, secret: str, token: str | None = None) -> Grant:
    values = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    return env_grant(values | ({"AWS_SESSION_TOKEN": token} if token else {}))


def full_rights(server: S3Server) -> Grant:
    return keys(server.access_key, server.secret_key)


def at(server: S3Server, bucket: str, prefix: str = "team/runs") -> BucketAddress:
    return BucketAddress("s3", bucket, prefix, server.region, server.endpoint)


def fails(
    address: BucketAddress, grant: Grant, error_type: type[errors.StorageError], operation: str, *words: str
) -> errors.StorageError:
    """Check the bucket, and what is wrong with it: the class, the message's parts, the time, the silence."""
    start = time.monotonic()
    checks = check_bucket(address, grant)
    elapsed = time.monotonic() - start
    assert elapsed < 10
    assert [check.ok for check in checks] == [True] * (len(checks) - 1) + [False]
    assert checks[-1].name == operation
    problem = first_problem(checks)
    assert problem is not None
    error = problem.error()
    assert type(error) is error_type
    text = str(error)
    endpoint = address.endpoint or ""
    for part in ("artifact storage", address.uri, "tried: ", operation, endpoint, "what to do: ", *words):
        assert part in text, f"{part!r} is not in {text!r}"
    for secret in (*grant.secrets.reveal().values(), SECRET, TOKEN):
        assert secret not in text
        assert secret not in repr((checks, problem, error))
    return error


@pytest.mark.parametrize("prefix", ["team/runs", ""])
def test_a_good_bucket_passes_every_step_and_nothing_stays(s3_server: S3Server, bucket: str, prefix: str) -> None:
    checks = check_bucket(at(s3_server, bucket, prefix), full_rights(s3_server))
    assert [(check.name, check.ok) for check in checks] == [(name, True) for name in STEPS]
    assert first_problem(checks) is None
    assert s3_server.keys(bucket) == []


def test_the_doctor_tries_more(s3_server: S3Server, bucket: str) -> None:
    checks = {check.name: check for check in check_bucket(at(s3_server, bucket), full_rights(s3_server), full=True)}
    assert list(checks) == [*STEPS, "latency", "conditional put", "multipart upload", "clock"]
    assert all(check.ok for check in checks.values()), checks
    assert 0 < (checks["latency"].value or 0) < 8000
    assert abs(checks["clock"].value or 0) <= 2
    assert s3_server.keys(bucket) == []
    assert "Uploads" not in s3_server.client().list_multipart_uploads(Bucket=bucket)


def test_wrong_secret(s3_server: S3Server, bucket: str) -> None:
    grant = keys(s3_server.access_key, SECRET)
    fails(at(s3_server, bucket), grant, errors.WrongSecretError, "list", s3_server.access_key[:4], "secret key")
    assert s3_server.keys(bucket) == []


def test_unknown_key(s3_server: S3Server, bucket: str) -> None:
    error = fails(at(s3_server, bucket), keys(KEY, SECRET), errors.UnknownKeyError, "list", "AKIA…MPLE")
    assert KEY not in str(error)


def test_missing_bucket(s3_server: S3Server) -> None:
    fails(at(s3_server, "no-such-bucket"), full_rights(s3_server), errors.BucketMissingError, "list", "Create")


def test_readonly_keys(s3_server: S3Server, bucket: str) -> None:
    grant = keys(s3_server.readonly_access_key, s3_server.readonly_secret_key)
    fails(at(s3_server, bucket), grant, errors.BucketPermissionError, "put", "s3:PutObject")
    assert s3_server.keys(bucket) == []


def test_session_tokens_work_until_they_expire(s3_server: S3Server, bucket: str) -> None:
    """The same kind of token, issued and judged by a real server."""
    address = at(s3_server, bucket)
    assert first_problem(check_bucket(address, env_grant(s3_server.session_env(lifetime=60)))) is None
    fails(address, env_grant(s3_server.session_env(lifetime=-60)), errors.ExpiredTokenError, "list", "session")
    assert s3_server.keys(bucket) == []


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "RequestExpired"])
def test_expired_token_as_aws_says_it(status: int, code: str) -> None:
    body = s3_error(code, "The provided token has expired.", **{"Token-0": TOKEN})
    with answering(status, body) as endpoint:
        address = BucketAddress("s3", "bucket", "runs", "us-east-1", endpoint)
        fails(address, keys(KEY, SECRET, TOKEN), errors.ExpiredTokenError, "list", "new session")


def _wrong_region_answers() -> Iterator[tuple[str, int, str, dict[str, str]]]:
    redirect = s3_error("PermanentRedirect", "The bucket you are attempting to access must be addressed using ...")
    malformed = s3_error("AuthorizationHeaderMalformed", "the region is wrong", Region="eu-central-1")
    header = {"x-amz-bucket-region": "eu-central-1"}
    yield "redirect", 301, redirect, header
    yield "malformed", 400, malformed, {}
    yield "redirect without a body", 301, "", header


@pytest.mark.parametrize(
    ("status", "body", "headers"), [pytest.param(*rest, id=name) for name, *rest in _wrong_region_answers()]
)
def test_wrong_region(status: int, body: str, headers: dict[str, str]) -> None:
    signatures: list[str] = []
    with answering(status, body, headers, signatures) as endpoint:
        address = BucketAddress("s3", "bucket", "runs", "us-east-1", endpoint)
        words = ("eu-central-1", "us-east-1", "RAY_ANYSTORAGE_REGION=eu-central-1")
        fails(address, keys(KEY, SECRET), errors.WrongRegionError, "list", *words)
    assert signatures
    assert all("/us-east-1/s3/" in signature for signature in signatures)  # it does not follow, as pyarrow does not


def test_another_answer_keeps_the_store_s_own_words() -> None:
    with answering(500, s3_error("InternalError", "We encountered an internal error.")) as endpoint:
        address = BucketAddress("s3", "bucket", "runs", "us-east-1", endpoint)
        fails(address, keys(KEY, SECRET), errors.BucketError, "list", "InternalError", "We encountered")


def test_an_endpoint_that_is_no_store() -> None:
    with answering(404, "<html>not here</html>", {"Content-Type": "text/html"}) as endpoint:
        address = BucketAddress("s3", "bucket", "runs", "us-east-1", endpoint)
        fails(address, keys(KEY, SECRET), errors.BucketError, "list", "does not look like S3")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_endpoint_refused(refused_endpoint: str, scheme: str) -> None:
    address = BucketAddress(scheme, "bucket", "runs", "us-east-1", refused_endpoint)
    fails(address, keys(KEY, SECRET), errors.EndpointRefusedError, "list", "host name and port")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_endpoint_whose_name_does_not_resolve(scheme: str) -> None:
    address = BucketAddress(scheme, "bucket", "runs", "us-east-1", "http://no-such-host.invalid:9000")
    fails(address, keys(KEY, SECRET), errors.EndpointRefusedError, "list", "host name and port")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_endpoint_that_never_answers(silent_endpoint: str, scheme: str) -> None:
    address = BucketAddress(scheme, "bucket", "runs", "us-east-1", silent_endpoint)
    fails(address, keys(KEY, SECRET), errors.EndpointTimeoutError, "list", "firewall")


def test_ambient_is_what_this_process_would_use(s3_server: S3Server, bucket: str) -> None:
    ambient = Grant("ambient", "the node's own identity", "it works on every node")
    assert first_problem(check_bucket(at(s3_server, bucket), ambient)) is None


def test_the_profile_that_was_granted_is_used_and_no_other_key(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    section = "[{}]\naws_access_key_id={}\naws_secret_access_key={}\n"
    file.write_text(
        section.format("team", s3_server.access_key, s3_server.secret_key) + section.format("old", KEY, SECRET)
    )
    address = at(s3_server, bucket)
    good = reference(AWS_PROFILE="team", AWS_SHARED_CREDENTIALS_FILE=str(file))
    assert first_problem(check_bucket(address, good)) is None
    bad = reference(AWS_PROFILE="old", AWS_SHARED_CREDENTIALS_FILE=str(file))
    fails(address, bad, errors.UnknownKeyError, "list", "AKIA…MPLE")


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_PROFILE": "no-such-profile"},
        {"AWS_SHARED_CREDENTIALS_FILE": "/no/such/file"},
        {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/trainer", "AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such/token"},
    ],
    ids=["profile", "file", "token file"],
)
def test_a_reference_that_leads_nowhere(
    s3_server: S3Server, bucket: str, variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    address = at(s3_server, bucket)
    error = fails(address, reference(**variables), errors.BucketCredentialsError, "credentials", 'credentials="broker"')
    assert isinstance(error, errors.CredentialsNotFoundError)


def deny(server: S3Server, bucket: str, action: str) -> None:
    resource = f"arn:aws:s3:::{bucket}/*"
    statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": [resource]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    server.client().put_bucket_policy(Bucket=bucket, Policy=policy)


def test_what_was_put_is_deleted_when_a_later_step_fails(s3_server: S3Server, bucket: str) -> None:
    deny(s3_server, bucket, "s3:GetObject")
    fails(at(s3_server, bucket), full_rights(s3_server), errors.BucketPermissionError, "get", "s3:GetObject")
    assert s3_server.keys(bucket) == []


def test_a_deletion_that_is_denied_names_the_right_and_the_object(s3_server: S3Server, bucket: str) -> None:
    deny(s3_server, bucket, "s3:DeleteObject")
    address = at(s3_server, bucket)
    error = fails(address, full_rights(s3_server), errors.BucketPermissionError, "delete", "s3:DeleteObject")
    (left,) = s3_server.keys(bucket)
    assert f"s3://{bucket}/{left}" in str(error)


def test_container_credentials_are_used(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("harmless")
    served = {
        "AccessKeyId": s3_server.access_key,
        "SecretAccessKey": s3_server.secret_key,
        "Token": "",
        "Expiration": "2099-01-01T00:00:00Z",
    }
    with answering(200, json.dumps(served)) as agent:
        variables = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": agent, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token)}
        assert first_problem(check_bucket(at(s3_server, bucket), reference(**variables))) is None


def test_gcs_passes_every_step(tiny_gcs: TinyGcs) -> None:
    checks = check_bucket(BucketAddress("gs", "bucket", "runs", None, tiny_gcs.endpoint), reference())
    assert [(check.name, check.ok) for check in checks] == [(name, True) for name in STEPS], checks
    assert tiny_gcs.seen == STEPS[1:]
    assert tiny_gcs.objects == {}


@pytest.mark.parametrize(
    ("status", "error_type", "words"),
    [
        (401, errors.ExpiredTokenError, "new credentials"),
        (403, errors.BucketPermissionError, "storage.objects.list"),
        (404, errors.BucketMissingError, "Create the bucket"),
    ],
)
def test_gcs_answers(status: int, error_type: type[errors.StorageError], words: str) -> None:
    with answering(status, "<Error><Code>Some</Code></Error>") as endpoint:
        fails(BucketAddress("gs", "bucket", "runs", None, endpoint), reference(), error_type, "list", words)


def test_gcs_credentials_file_that_is_not_there() -> None:
    grant = reference(GOOGLE_APPLICATION_CREDENTIALS="/no/such/key.json")
    fails(BucketAddress("gs", "bucket", "runs"), grant, errors.BucketCredentialsError, "credentials", "Repair")


def test_a_scheme_that_cannot_be_tried_is_refused() -> None:
    with pytest.raises(errors.RequestError, match="only s3, gs and abfss"):
        check_bucket(BucketAddress("ftp", "host", "runs"), reference())
