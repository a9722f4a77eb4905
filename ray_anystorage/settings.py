"""The one module that reads and writes the process environment.

Order of precedence, first wins: argument, ``RAY_ANYSTORAGE_*``, ``ANYSCALE_*`` and the default mounts, the SDKs' own
variables (``AWS_REGION``, ``AWS_ENDPOINT_URL``, …).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from ray_anystorage.environment import NO_OPTIONS, TIERS, BucketOptions, Location, Tier
from ray_anystorage.errors import RequestError, SettingsError
from ray_anystorage.units import parse_size

PREFIX = "RAY_ANYSTORAGE_"
LOCAL_VARIABLE = f"{PREFIX}LOCAL_STORAGE"
DEFAULT_MOUNTS: dict[Tier, str] = {
    "local": "/mnt/local_storage",
    "cluster": "/mnt/cluster_storage",
    "user": "/mnt/user_storage",
    "shared": "/mnt/shared_storage",
}
DEFAULT_THRESHOLD = 10 * 10**9  # "files over 10 GB" do not belong on NFS, says the platform's storage guide
DEFAULT_PROBE_TIMEOUT = 5.0
DEFAULT_CALL_TIMEOUT = 60.0
DEFAULT_CACHE_SHARE = 0.2
_OF_THE_BUCKET = (
    "REGION",
    "ENDPOINT",
    "CREDENTIALS",
    "CA_FILE",
    "ADDRESSING",
    "REQUESTER_PAYS",
    "ENCRYPTION",
    "KMS_KEY",
)
_OTHERS = ("THRESHOLD", "PROBE_TIMEOUT", "CALL_TIMEOUT", "CACHE_SHARE")
_NAMES = (
    *(f"{PREFIX}{tier.upper()}_STORAGE" for tier in TIERS),
    *(f"{PREFIX}{name}" for name in (*_OF_THE_BUCKET, *_OTHERS)),
)
ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")


@dataclass(frozen=True, slots=True)
class Settings:
    """What this process was told, before anything was looked at.

    Attributes
    ----------
    locations
        The tiers that have a root, said or default, in the order of ``TIERS``.
    threshold
        Bytes.
    region, endpoint, credentials
        For the artifact store; ``None`` where nothing was said. ``credentials`` is a mode.
    options
        How the artifact store wants to be talked to.
    probe_timeout, call_timeout
        Seconds that looking at one tier, or one call on a mount, may take.
    cache_share
        The share of the local disk, from 0 to 1, that a node's cache of checkpoints may take; 0 turns it off.
    platform_artifact, platform_bucket
        ``ANYSCALE_ARTIFACT_STORAGE`` and ``ANYSCALE_CLOUD_STORAGE_BUCKET``: the folder that may be written, and the
        bucket that the platform manages.
    """

    locations: tuple[Location, ...]
    threshold: int = DEFAULT_THRESHOLD
    region: str | None = None
    endpoint: str | None = None
    credentials: str | None = None
    options: BucketOptions = NO_OPTIONS
    probe_timeout: float = DEFAULT_PROBE_TIMEOUT
    call_timeout: float = DEFAULT_CALL_TIMEOUT
    cache_share: float = DEFAULT_CACHE_SHARE
    platform_artifact: str | None = None
    platform_bucket: str | None = None


_before: dict[str, tuple[str | None, str]] = {}  # what this package set in this process: value before, and now


def process_environment() -> dict[str, str]:
    """A copy of this process's environment as it was said from outside, less what :func:`apply_to_process` set."""
    environ = dict(os.environ)
    for name, (before, own) in _before.items():
        if environ.get(name) == own:
            del environ[name]
            if before is not None:
                environ[name] = before
    return environ


def apply_to_process(env_vars: Mapping[str, str]) -> None:
    """Set variables in this process, for the SDKs that it hosts; this package does not take them for the user's."""
    outside = process_environment()
    for name, value in env_vars.items():
        _before[name] = (outside.get(name), value)
    os.environ.update(env_vars)


def declare_in_process(env_vars: Mapping[str, str]) -> None:
    """Set variables in this process as if they had been said from outside."""
    os.environ.update(env_vars)


def read_settings(
    environ: Mapping[str, str] | None = None, *, roots: Mapping[Tier, str | None] | None = None
) -> Settings:
    """Read the settings.

    Parameters
    ----------
    environ
        The variables to read; this process's where ``None``.
    roots
        Roots given as arguments, by tier; they come first.

    Raises
    ------
    SettingsError
        A ``RAY_ANYSTORAGE_*`` name is unknown (the nearest known one is named) or a value cannot be meant.
    """
    environ = process_environment() if environ is None else environ
    _refuse_unknown_names(environ)
    located = {tier: place for tier in TIERS if (place := _locate(tier, (roots or {}).get(tier), environ)) is not None}
    get = environ.get
    return Settings(
        locations=tuple(located.values()),
        threshold=_threshold(get(f"{PREFIX}THRESHOLD")),
        region=_region(environ, located.get("artifact")),
        endpoint=_endpoint(environ, located.get("artifact")),
        credentials=get(f"{PREFIX}CREDENTIALS") or None,
        options=_options(environ, located.get("artifact")),
        probe_timeout=_seconds(environ, "PROBE_TIMEOUT", DEFAULT_PROBE_TIMEOUT),
        call_timeout=_seconds(environ, "CALL_TIMEOUT", DEFAULT_CALL_TIMEOUT),
        cache_share=_share(environ, "CACHE_SHARE", DEFAULT_CACHE_SHARE),
        platform_artifact=get("ANYSCALE_ARTIFACT_STORAGE") or None,
        platform_bucket=get("ANYSCALE_CLOUD_STORAGE_BUCKET") or None,
    )


def _refuse_unknown_names(environ: Mapping[str, str]) -> None:
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in _NAMES:
            nearest = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.0)[0]
            raise SettingsError(
                f"{name} is not a setting of ray_anystorage; did you mean {nearest}? Known: {', '.join(sorted(_NAMES))}"
            )


def _locate(tier: Tier, argument: str | None, environ: Mapping[str, str]) -> Location | None:
    variable = f"{PREFIX}{tier.upper()}_STORAGE"
    if argument is not None:
        return Location(tier, _absolute(tier, argument, f"{tier}_storage"), f"argument {tier}_storage", True)
    if environ.get(variable):
        return Location(tier, _absolute(tier, environ[variable], variable), variable, True)
    if tier == "artifact":
        platform = environ.get("ANYSCALE_ARTIFACT_STORAGE")
        if not platform:
            return None
        return Location(
            tier, _absolute(tier, platform, "ANYSCALE_ARTIFACT_STORAGE"), "ANYSCALE_ARTIFACT_STORAGE", False
        )
    return Location(tier, DEFAULT_MOUNTS[tier], "default mount", False)


def _absolute(tier: Tier, root: str, said_by: str) -> str:
    if tier == "artifact":
        if "://" not in root:
            raise RequestError(
                f"{said_by}={root!r} is not the URI of a bucket folder: expected s3://bucket/folder, "
                "gs://bucket/folder or abfss://container@account.dfs.core.windows.net/folder"
            )
        return root.rstrip("/")
    if not root.startswith("/"):
        raise RequestError(
            f"{said_by}={root!r} is not an absolute path: expected something like {DEFAULT_MOUNTS[tier]}"
        )
    return os.path.normpath(root)


def _region(environ: Mapping[str, str], artifact: Location | None) -> str | None:
    names = [f"{PREFIX}REGION"]
    if artifact is None or _is_platforms_bucket(environ, artifact):  # it says nothing about a bucket of the user's own
        names.append("ANYSCALE_CLOUD_STORAGE_BUCKET_REGION")
    return _first(environ, *names, *(("AWS_REGION", "AWS_DEFAULT_REGION") if _is_s3(artifact) else ()))


def _endpoint(environ: Mapping[str, str], artifact: Location | None) -> str | None:
    sdk = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if _is_s3(artifact) else ()
    return _first(environ, f"{PREFIX}ENDPOINT", *sdk)


def _options(environ: Mapping[str, str], artifact: Location | None) -> BucketOptions:
    ca_file = _first(environ, f"{PREFIX}CA_FILE", *(("AWS_CA_BUNDLE",) if _is_s3(artifact) else ()))
    if ca_file and not os.path.isabs(ca_file):
        raise SettingsError(f"CA file {ca_file!r} is not an absolute path: expected one that is the same on every node")
    kms_key = environ.get(f"{PREFIX}KMS_KEY") or None
    encryption = _one_of(environ, "ENCRYPTION", ENCRYPTIONS) or ("aws:kms" if kms_key else None)
    if kms_key and encryption == "AES256":
        raise SettingsError(
            f"{PREFIX}KMS_KEY={kms_key!r} clashes with {PREFIX}ENCRYPTION='AES256', which takes no key: leave one out"
        )
    return BucketOptions(
        ca_file=ca_file,
        addressing=_one_of(environ, "ADDRESSING", ("path", "virtual")),
        requester_pays=_one_of(environ, "REQUESTER_PAYS", ("true", "false")) == "true",
        encryption=encryption,
        kms_key=kms_key,
    )


def _one_of(environ: Mapping[str, str], name: str, known: tuple[str, ...]) -> str | None:
    said = environ.get(f"{PREFIX}{name}")
    if said and said not in known:
        raise SettingsError(f"{PREFIX}{name}={said!r}: expected one of {', '.join(map(repr, known))}")
    return said or None


def _is_s3(artifact: Location | None) -> bool:
    return artifact is None or artifact.root.lower().startswith("s3")


def _is_platforms_bucket(environ: Mapping[str, str], artifact: Location) -> bool:
    names = ("ANYSCALE_ARTIFACT_STORAGE", "ANYSCALE_CLOUD_STORAGE_BUCKET")
    return _bucket(artifact.root) in {_bucket(environ[name]) for name in names if environ.get(name)}


def _bucket(name_or_uri: str) -> str:
    return name_or_uri.rpartition("://")[2].partition("/")[0]


def _first(environ: Mapping[str, str], *names: str) -> str | None:
    return next((environ[name] for name in names if environ.get(name)), None)


def _threshold(text: str | None) -> int:
    return parse_size(text, what=f"{PREFIX}THRESHOLD") if text else DEFAULT_THRESHOLD


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(f"{PREFIX}{name}")
    if not text:
        return default
    seconds = _number(text)
    if not 0 < seconds < float("inf"):
        raise SettingsError(f"{PREFIX}{name}={text!r} is not a time in seconds: expected a number above 0")
    return seconds


def _share(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(f"{PREFIX}{name}")
    if not text:
        return default
    share = _number(text)
    if not 0 <= share <= 1:
        raise SettingsError(
            f"{PREFIX}{name}={text!r} is not a share of the local disk: expected a number from 0 (no cache) to 1, such "
            f"as {default}; leave it out for {default}"
        )
    return share


def _number(text: str) -> float:
    """The number, or one that no setting takes."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
