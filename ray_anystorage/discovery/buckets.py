"""Reads the URI of a bucket folder, and guards what the platform manages in its own bucket. No network here."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

from ray_anystorage.environment import NO_OPTIONS, BucketAddress, BucketOptions, Location, Place
from ray_anystorage.errors import OutsideArtifactFolderError, RequestError
from ray_anystorage.settings import Settings

_NAMES = {"s3": "S3", "gs": "Google Cloud Storage", "abfss": "Azure Blob Storage"}
_SAME = {"gcs": "gs", "s3a": "s3", "s3n": "s3"}
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_CONTAINER = re.compile(r"[a-z0-9$-]+@[A-Za-z0-9.-]+")
_QUERY = frozenset({"region", "endpoint_override", "scheme"})
_EXPECTED = "expected s3://bucket/folder, gs://bucket/folder or abfss://container@account.dfs.core.windows.net/folder"


def parse_bucket_uri(
    uri: str,
    *,
    region: str | None = None,
    endpoint: str | None = None,
    options: BucketOptions = NO_OPTIONS,
    what: str = "artifact_storage",
) -> BucketAddress:
    """Read the URI of a bucket folder into its normal form.

    Parameters
    ----------
    uri
        ``s3://``, ``gs://`` (or ``gcs://``) or ``abfss://``. Of a query only what Ray's documentation uses with pyarrow
        is understood: ``region``, ``endpoint_override`` and ``scheme``; it comes before the other two arguments.
    region, endpoint
        For the address where the URI does not say them.
    options
        How the store wants to be talked to.
    what
        Who said the URI, for the error.

    Raises
    ------
    RequestError
        Another scheme, no bucket, a ``.`` or ``..`` in the folder, an unknown query, credentials inside the URI, or an
        option that only S3 has for another store. The message never shows what could be a credential.
    """
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower() if separator else ""
    scheme = _SAME.get(scheme, scheme)
    rest, _, query = rest.partition("?")
    bucket, _, folder = rest.partition("/")
    if scheme not in _NAMES:
        raise RequestError(f"{what}: {scheme or 'no scheme'!r} is not a kind of bucket: {_EXPECTED}")
    if scheme != "abfss" and "@" in bucket:
        raise RequestError(f"{what}: the URI holds credentials, which would be printed and stored: take them out")
    if not (_CONTAINER if scheme == "abfss" else _BUCKET).fullmatch(bucket):
        raise RequestError(f"{what}: {bucket!r} is not the name of a bucket: {_EXPECTED}")
    segments = [segment for segment in folder.split("/") if segment]
    if not {".", ".."}.isdisjoint(segments):
        raise RequestError(f"{what}: {scheme}://{rest} has a '.' or '..' in its folder, which a bucket takes literally")
    said = _parse_query(query, what)
    override = said.get("endpoint_override")
    if override and "://" not in override:
        override = f"{said.get('scheme', 'https')}://{override}"
    address = BucketAddress(
        scheme=scheme,
        bucket=bucket,
        prefix="/".join(segments),
        region=said.get("region") or region,
        endpoint=_endpoint(override or endpoint, what),
        options=options,
    )
    _check_options(address, what)
    return address


def address_in(uri: str, settings: Settings, *, what: str) -> BucketAddress:
    """:func:`parse_bucket_uri` with what the settings say about the store."""
    return parse_bucket_uri(
        uri, region=settings.region, endpoint=settings.endpoint, options=settings.options, what=what
    )


def require_inside_artifact_folder(address: BucketAddress, settings: Settings) -> None:
    """Refuse a folder in the platform's own bucket that lies outside the artifact folder.

    Raises
    ------
    OutsideArtifactFolderError
        The rest of that bucket is managed by the platform.
    """
    folder = parse_bucket_uri(settings.platform_artifact) if settings.platform_artifact else None
    managed = {(folder.scheme, folder.bucket)} if folder else set()
    if settings.platform_bucket:
        managed.add(_bucket_of(settings.platform_bucket, folder.scheme if folder else address.scheme))
    if (address.scheme, address.bucket) not in managed:
        return
    if folder and address.bucket == folder.bucket and _is_inside(address.prefix, folder.prefix):
        return
    allowed = (
        f"inside {folder.uri}" if folder else "inside the folder that ANYSCALE_ARTIFACT_STORAGE names (not set here)"
    )
    raise OutsideArtifactFolderError(
        f"{address.uri} lies in the platform's bucket but not {allowed}: the rest of that bucket is managed by the "
        "platform, which may delete what it finds there. Choose a folder inside, or a bucket of your own"
    )


def look_at_bucket(location: Location, settings: Settings) -> Place:
    """Say what a bucket folder is, going by its URI and the settings; whether it answers is for others to try.

    Raises
    ------
    RequestError
        The URI cannot be meant, or lies outside the artifact folder of the platform's bucket.
    """
    address = address_in(location.root, settings, what=location.source)
    require_inside_artifact_folder(address, settings)
    where = f"region {address.region or 'not known'}, " if address.scheme == "s3" else ""
    return Place(
        location=replace(location, root=address.uri),
        state="usable",
        kind="bucket",
        filesystem=address.scheme,
        network=True,
        description=f"{_NAMES[address.scheme]} bucket folder ({where}endpoint {address.endpoint or 'of the provider'})",
        bucket=address,
    )


def _check_options(address: BucketAddress, what: str) -> None:
    options, endpoint = address.options, address.endpoint
    only_s3 = {
        "ADDRESSING": options.addressing,
        "REQUESTER_PAYS": options.requester_pays,
        "ENCRYPTION or _KMS_KEY": options.encryption,
    }
    for name, value in only_s3.items():
        if value and address.scheme != "s3":
            raise RequestError(
                f"{what}: RAY_ANYSTORAGE_{name} is set ({value}), and {_NAMES[address.scheme]} has nothing like it: it "
                "is for s3:// alone. Unset it, or choose an s3:// folder"
            )
    if endpoint and options.addressing == "virtual" and _is_ip(endpoint):
        raise RequestError(
            f"{what}: RAY_ANYSTORAGE_ADDRESSING=virtual puts the bucket's name before the host's, and {endpoint} has "
            "an IP address there: name the host, or say path"
        )


def _parse_query(query: str, what: str) -> dict[str, str]:
    said = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(said.keys() - _QUERY)
    if unknown:
        raise RequestError(
            f"{what}: the URI's query says {', '.join(unknown)}, and only {', '.join(sorted(_QUERY))} are understood. "
            "Keys and tokens never belong into a URI, which is printed and stored"
        )
    return said


def _endpoint(endpoint: str | None, what: str) -> str | None:
    if endpoint is None:
        return None
    parts = urlsplit(endpoint)
    if parts.username is not None or parts.password is not None:
        raise RequestError(f"{what}: the endpoint's URL holds credentials, which would be printed: take them out")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError(
            f"{what}: endpoint {endpoint!r} is not a URL: expected http(s)://host[:port] (it comes from the "
            "URI itself, RAY_ANYSTORAGE_ENDPOINT, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL)"
        )
    return endpoint.rstrip("/")


def _is_ip(endpoint: str) -> bool:
    try:
        ipaddress.ip_address(urlsplit(endpoint).hostname or "")
    except ValueError:
        return False
    return True


def _bucket_of(name_or_uri: str, scheme: str) -> tuple[str, str]:
    """The platform's variable holds a bucket's name or its URI."""
    if "://" in name_or_uri:
        address = parse_bucket_uri(name_or_uri, what="ANYSCALE_CLOUD_STORAGE_BUCKET")
        return address.scheme, address.bucket
    return scheme, name_or_uri.strip("/").partition("/")[0]


def _is_inside(prefix: str, folder: str) -> bool:
    return not folder or prefix == folder or prefix.startswith(f"{folder}/")
