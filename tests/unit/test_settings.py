"""Precedence, and settings that cannot be meant."""

from __future__ import annotations

import pytest

from ray_anystorage.environment import TIERS, BucketOptions, Location, Tier
from ray_anystorage.errors import InvalidSizeError, RequestError, SettingsError
from ray_anystorage.settings import DEFAULT_MOUNTS, Settings, read_settings

ARTIFACT = "RAY_ANYSTORAGE_ARTIFACT_STORAGE"


def location(settings: Settings, tier: Tier) -> Location | None:
    return next((found for found in settings.locations if found.tier == tier), None)


def test_nothing_said_gives_the_platforms_defaults() -> None:
    settings = read_settings({})
    assert [found.tier for found in settings.locations] == list(TIERS[:-1])
    for found in settings.locations:
        assert found == Location(found.tier, DEFAULT_MOUNTS[found.tier], "default mount", False)
    assert (settings.threshold, settings.probe_timeout, settings.call_timeout) == (10 * 10**9, 5.0, 60.0)
    assert settings.cache_share == 0.2
    assert (settings.region, settings.endpoint, settings.credentials) == (None, None, None)


@pytest.mark.parametrize("tier", TIERS[:-1])
def test_root_of_a_mount_argument_then_variable_then_default(tier: Tier) -> None:
    variable = f"RAY_ANYSTORAGE_{tier.upper()}_STORAGE"
    said = Location(tier, "/said", variable, True)
    assert location(read_settings({variable: "/said//"}), tier) == said
    both = read_settings({variable: "/said"}, roots={tier: "/given/x/.."})
    assert location(both, tier) == Location(tier, "/given", f"argument {tier}_storage", True)
    assert location(read_settings({variable: "/said"}, roots={tier: None}), tier) == said
    default = location(read_settings({variable: ""}), tier)
    assert default is not None
    assert default.root == DEFAULT_MOUNTS[tier]


def test_artifact_argument_then_variable_then_platform() -> None:
    environ = {"ANYSCALE_ARTIFACT_STORAGE": "s3://plat/art/"}
    assert location(read_settings(environ), "artifact") == Location(
        "artifact", "s3://plat/art", "ANYSCALE_ARTIFACT_STORAGE", False
    )
    environ[ARTIFACT] = "s3://site/x"
    assert location(read_settings(environ), "artifact") == Location("artifact", "s3://site/x", ARTIFACT, True)
    given = location(read_settings(environ, roots={"artifact": "gs://given"}), "artifact")
    assert given == Location("artifact", "gs://given", "argument artifact_storage", True)


def test_region_own_then_platform_then_sdk() -> None:
    environ = {"AWS_DEFAULT_REGION": "d"}
    assert read_settings(environ).region == "d"
    environ["AWS_REGION"] = "c"
    assert read_settings(environ).region == "c"
    environ |= {"ANYSCALE_CLOUD_STORAGE_BUCKET_REGION": "b", "ANYSCALE_ARTIFACT_STORAGE": "s3://plat/art"}
    assert read_settings(environ).region == "b"
    environ["RAY_ANYSTORAGE_REGION"] = "a"
    assert read_settings(environ).region == "a"


def test_platforms_region_says_nothing_about_another_bucket() -> None:
    environ = {
        "ANYSCALE_CLOUD_STORAGE_BUCKET": "plat",
        "ANYSCALE_CLOUD_STORAGE_BUCKET_REGION": "us-west-2",
        "ANYSCALE_ARTIFACT_STORAGE": "s3://plat/art",
        "AWS_REGION": "eu-west-1",
    }
    assert read_settings(environ, roots={"artifact": "s3://plat/art/team"}).region == "us-west-2"
    assert read_settings(environ, roots={"artifact": "s3://mine/x"}).region == "eu-west-1"


def test_endpoint_own_then_sdk() -> None:
    environ = {"AWS_ENDPOINT_URL": "http://c"}
    assert read_settings(environ).endpoint == "http://c"
    environ["AWS_ENDPOINT_URL_S3"] = "http://b"
    assert read_settings(environ).endpoint == "http://b"
    environ["RAY_ANYSTORAGE_ENDPOINT"] = "http://a"
    assert read_settings(environ).endpoint == "http://a"


def test_variables_of_the_aws_sdk_say_nothing_about_other_stores() -> None:
    environ = {"AWS_ENDPOINT_URL": "http://c", "AWS_REGION": "eu-west-1", ARTIFACT: "gs://mine/x"}
    settings = read_settings(environ)
    assert (settings.region, settings.endpoint) == (None, None)
    assert read_settings({**environ, "RAY_ANYSTORAGE_ENDPOINT": "http://a"}).endpoint == "http://a"


def test_other_settings() -> None:
    settings = read_settings(
        {
            "RAY_ANYSTORAGE_THRESHOLD": "5GiB",
            "RAY_ANYSTORAGE_CREDENTIALS": "ambient",
            "RAY_ANYSTORAGE_PROBE_TIMEOUT": "0.5",
            "RAY_ANYSTORAGE_CALL_TIMEOUT": "7",
            "RAY_ANYSTORAGE_CACHE_SHARE": "0",
            "ANYSCALE_CLOUD_STORAGE_BUCKET": "plat",
        }
    )
    assert (settings.threshold, settings.credentials) == (5 * 2**30, "ambient")
    assert (settings.probe_timeout, settings.call_timeout, settings.cache_share) == (0.5, 7.0, 0.0)
    assert settings.platform_bucket == "plat"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("RAY_ANYSTORAGE_CLUSTER_STORGE", "RAY_ANYSTORAGE_CLUSTER_STORAGE"),
        ("RAY_ANYSTORAGE_TRESHOLD", "RAY_ANYSTORAGE_THRESHOLD"),
        ("RAY_ANYSTORAGE_END_POINT", "RAY_ANYSTORAGE_ENDPOINT"),
    ],
)
def test_unknown_name_is_an_error_that_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is not a setting .*; did you mean {nearest}\\?"):
        read_settings({name: "x"})


def test_names_of_others_are_left_alone() -> None:
    assert read_settings({"RAY_ADDRESS": "x", "ANYSTORAGE_X": "y"}) == read_settings({})


@pytest.mark.parametrize("tier", TIERS[:-1])
@pytest.mark.parametrize("root", ["relative/path", "s3://bucket/x", "~/x", ""])
def test_root_that_is_no_absolute_path(tier: Tier, root: str) -> None:
    with pytest.raises(RequestError, match=rf"{tier}_storage='.*' is not an absolute path"):
        read_settings({}, roots={tier: root})


@pytest.mark.parametrize("root", ["/mnt/x", "bucket", ""])
def test_artifact_root_that_is_no_uri(root: str) -> None:
    with pytest.raises(RequestError, match="not the URI of a bucket folder"):
        read_settings({}, roots={"artifact": root})


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan", "soon"])
@pytest.mark.parametrize("name", ["PROBE_TIMEOUT", "CALL_TIMEOUT"])
def test_bad_time(name: str, seconds: str) -> None:
    with pytest.raises(SettingsError, match=f"RAY_ANYSTORAGE_{name}='{seconds}' is not a time in seconds"):
        read_settings({f"RAY_ANYSTORAGE_{name}": seconds})


@pytest.mark.parametrize("share", ["-0.1", "1.01", "20%", "nan", "inf", "half"])
def test_bad_share(share: str) -> None:
    said = f"RAY_ANYSTORAGE_CACHE_SHARE='{share}' is not a share of the local disk: expected a number from 0"
    with pytest.raises(SettingsError, match=said):
        read_settings({"RAY_ANYSTORAGE_CACHE_SHARE": share})


def test_bad_threshold() -> None:
    with pytest.raises(InvalidSizeError, match="RAY_ANYSTORAGE_THRESHOLD='big'"):
        read_settings({"RAY_ANYSTORAGE_THRESHOLD": "big"})


def test_every_bad_value_is_also_a_value_error() -> None:
    assert issubclass(SettingsError, ValueError)
    assert issubclass(RequestError, ValueError)


def test_how_the_store_wants_to_be_asked() -> None:
    assert read_settings({}).options == BucketOptions()
    said = {"CA_FILE": "/etc/ca.pem", "ADDRESSING": "virtual", "REQUESTER_PAYS": "true", "ENCRYPTION": "aws:kms:dsse"}
    environ = {f"RAY_ANYSTORAGE_{name}": value for name, value in said.items()}
    wanted = BucketOptions("/etc/ca.pem", "virtual", True, "aws:kms:dsse", None)
    assert read_settings(environ | {"AWS_CA_BUNDLE": "/other"}).options == wanted
    assert read_settings({"RAY_ANYSTORAGE_KMS_KEY": "k"}).options == BucketOptions(encryption="aws:kms", kms_key="k")
    assert read_settings({"AWS_CA_BUNDLE": "/other"}).options.ca_file == "/other"
    assert read_settings({"AWS_CA_BUNDLE": "/other"}, roots={"artifact": "gs://x"}).options.ca_file is None
    assert read_settings({"RAY_ANYSTORAGE_REQUESTER_PAYS": "false"}).options.requester_pays is False


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"CA_FILE": "ca.pem"}, "'ca.pem' is not an absolute path"),
        ({"ADDRESSING": "host"}, "ADDRESSING='host': expected one of 'path', 'virtual'"),
        ({"REQUESTER_PAYS": "yes"}, "REQUESTER_PAYS='yes': expected one of 'true', 'false'"),
        ({"ENCRYPTION": "kms"}, "ENCRYPTION='kms': expected one of 'AES256', 'aws:kms', 'aws:kms:dsse'"),
        ({"ENCRYPTION": "AES256", "KMS_KEY": "k"}, "KMS_KEY='k' clashes with RAY_ANYSTORAGE_ENCRYPTION='AES256'"),
    ],
)
def test_what_a_store_cannot_be_asked(environ: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read_settings({f"RAY_ANYSTORAGE_{name}": value for name, value in environ.items()})
