"""Bucket URIs, and the guard of the platform's own bucket."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_anystorage.discovery.buckets import look_at_bucket, parse_bucket_uri
from ray_anystorage.environment import BucketAddress, BucketOptions, Place
from ray_anystorage.errors import OutsideArtifactFolderError, RequestError
from ray_anystorage.settings import read_settings


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("s3://bucket", BucketAddress("s3", "bucket", "")),
        ("s3://bucket//a///b/", BucketAddress("s3", "bucket", "a/b")),
        ("S3A://bucket/a", BucketAddress("s3", "bucket", "a")),
        ("gcs://bucket/a b/#c%20", BucketAddress("gs", "bucket", "a b/#c%20")),
        ("abfss://box@acc.dfs.core.windows.net/a", BucketAddress("abfss", "box@acc.dfs.core.windows.net", "a")),
        (
            "s3://bucket/a?region=eu-west-1&endpoint_override=localhost:9000&scheme=http",
            BucketAddress("s3", "bucket", "a", "eu-west-1", "http://localhost:9000"),
        ),
    ],
)
def test_bucket_uri_in_its_normal_form(uri: str, address: BucketAddress) -> None:
    assert parse_bucket_uri(uri) == address
    assert parse_bucket_uri(address.uri) == replace(address, region=None, endpoint=None)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://bucket/a", "'http' is not a kind of bucket"),
        ("/mnt/x", "'no scheme'"),
        ("s3://", "not the name of a bucket"),
        ("s3:///folder", "not the name of a bucket"),
        ("s3://a bucket/x", "not the name of a bucket"),
        ("s3://bucket/a/../b", "'.' or '..'"),
        ("s3://AKIA:hunter2@bucket/a", "holds credentials"),
        ("s3://bucket/a?access_key=AKIA&secret_key=hunter2", "access_key, secret_key"),
        ("abfss://account/x", "not the name of a bucket"),
    ],
)
def test_bucket_uri_that_cannot_be_meant(uri: str, says: str) -> None:
    with pytest.raises(RequestError, match=r"^somewhere: ") as caught:
        parse_bucket_uri(uri, what="somewhere")
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://h", "https://key:hunter2@host"])
def test_endpoint_that_cannot_be_meant(endpoint: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_bucket_uri("s3://bucket/a", endpoint=endpoint)
    assert "hunter2" not in str(caught.value)


def look_at_artifact(root: str, **environ: str) -> Place:
    settings = read_settings(environ, roots={"artifact": root})
    return look_at_bucket(settings.locations[-1], settings)


def test_bucket_place() -> None:
    place = look_at_artifact("s3://mine//a/", AWS_REGION="eu-west-1", AWS_ENDPOINT_URL="http://h:1/")
    assert place.usable
    assert place.root == "s3://mine/a"
    assert place.bucket == BucketAddress("s3", "mine", "a", "eu-west-1", "http://h:1")
    assert (place.kind, place.filesystem, place.network) == ("bucket", "s3", True)
    assert place.description == "S3 bucket folder (region eu-west-1, endpoint http://h:1)"
    google = look_at_artifact("gs://mine/a", AWS_REGION="eu-west-1", AWS_ENDPOINT_URL="http://h:1/")
    assert google.description == "Google Cloud Storage bucket folder (endpoint of the provider)"


@pytest.mark.parametrize("root", ["s3://plat", "s3://plat/org", "s3://plat/org/art2", "s3://plat/else/org/art"])
@pytest.mark.parametrize("bucket", ["plat", "s3://plat", "other"])
def test_rest_of_the_platforms_bucket_is_refused(root: str, bucket: str) -> None:
    platform = {"ANYSCALE_ARTIFACT_STORAGE": "s3://plat/org/art/", "ANYSCALE_CLOUD_STORAGE_BUCKET": bucket}
    with pytest.raises(OutsideArtifactFolderError) as caught:
        look_at_artifact(root, **platform)
    assert f"{root} lies" in str(caught.value)
    assert "s3://plat/org/art:" in str(caught.value)


def test_artifact_folder_and_foreign_buckets_are_allowed() -> None:
    platform = {"ANYSCALE_ARTIFACT_STORAGE": "s3://plat/org/art", "ANYSCALE_CLOUD_STORAGE_BUCKET": "plat"}
    for root in ("s3://plat/org/art", "s3://plat/org/art/team", "s3://mine", "gs://plat/x"):
        assert look_at_artifact(root, **platform).usable


def test_platforms_bucket_without_an_artifact_folder_is_refused() -> None:
    with pytest.raises(OutsideArtifactFolderError, match="ANYSCALE_ARTIFACT_STORAGE"):
        look_at_artifact("s3://plat/x", ANYSCALE_CLOUD_STORAGE_BUCKET="plat")


@pytest.mark.parametrize("options", [BucketOptions(addressing="path"), BucketOptions(requester_pays=True),
                                     BucketOptions(encryption="aws:kms")])  # fmt: skip
def test_what_only_s3_has_is_refused_for_other_stores(options: BucketOptions) -> None:
    assert parse_bucket_uri("s3://bucket/x", options=options).options == options
    for uri in ("gs://bucket/x", "abfss://box@acc.dfs.core.windows.net/x"):
        with pytest.raises(RequestError, match=r"is set .*for s3:// alone"):
            parse_bucket_uri(uri, options=options)
        assert parse_bucket_uri(uri, options=BucketOptions(ca_file="/ca.pem")).options.ca_file == "/ca.pem"


def test_an_address_has_no_bucket_before_it() -> None:
    virtual = BucketOptions(addressing="virtual")
    for endpoint in ("http://10.0.0.1:9000", "https://[::1]:9000"):
        with pytest.raises(RequestError, match="IP address"):
            parse_bucket_uri("s3://bucket/x", endpoint=endpoint, options=virtual)
    assert parse_bucket_uri("s3://bucket/x", endpoint="http://store:9000", options=virtual).options == virtual
