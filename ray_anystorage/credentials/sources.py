"""Looking for credentials: every source that the variables and the files of one node show, without any network.

Nothing here reads the process environment: the variables come as an argument.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ray_anystorage.credentials.agent_address import address_in
from ray_anystorage.credentials.aws_profile import absolute_path, file_problem, read_profile
from ray_anystorage.credentials.azure import azure_looked_for, azure_sources
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.credentials.source import (
    DMI_ROOT,
    PLATFORM_VARIABLES,
    Source,
    dmi,
    foreign,
    own_endpoint,
    platform_identity,
    usable,
)
from ray_anystorage.environment import BucketAddress

__all__ = ["DMI_ROOT", "KEY_VARIABLES", "Source", "find_sources", "looked_for", "own_endpoint", "usable"]

_STATIC_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
KEY_VARIABLES = (*_STATIC_VARIABLES, "AWS_SECURITY_TOKEN")  # the last is an older name of the third
_WEB_IDENTITY_VARIABLES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME")
_GOOGLE_TYPES = (
    "service_account",
    "authorized_user",
    "external_account",
    "external_account_authorized_user",
    "impersonated_service_account",
)


def find_sources(address: BucketAddress, environ: Mapping[str, str], *, dmi_root: str = DMI_ROOT) -> tuple[Source, ...]:
    """Everything on this node that could open the bucket, also what is broken, the preferred first.

    Parameters
    ----------
    address
        The bucket: its scheme says whose credentials count, its endpoint whether the provider's own identities do.
    environ
        The variables to look at.
    dmi_root
        Where the kernel shows the machine's maker.
    """
    finders: tuple[Source | None, ...]
    if address.scheme == "gs":
        finders = (platform_identity(address, environ), _instance(address, environ, dmi_root), _google_file(environ))
    elif address.scheme == "abfss":
        finders = azure_sources(address, environ, dmi_root)
    else:
        finders = (
            _container(address, environ),
            platform_identity(address, environ),
            _instance(address, environ, dmi_root),
            *_aws_references(address, environ),
            _static_keys(environ),
        )
    return tuple(source for source in finders if source is not None)


def looked_for(address: BucketAddress, environ: Mapping[str, str]) -> str:
    """What :func:`find_sources` looks at, for the error that nothing was found."""
    if address.scheme == "abfss":
        return azure_looked_for()
    home = environ.get("HOME") or "~"
    platform = " or ".join(PLATFORM_VARIABLES)
    if address.scheme == "gs":
        config = environ.get("CLOUDSDK_CONFIG") or f"{home}/.config/gcloud"
        return (
            f"the identity of a Google Compute Engine machine, {platform}, GOOGLE_APPLICATION_CREDENTIALS, "
            f"{config}/application_default_credentials.json"
        )
    credentials = environ.get("AWS_SHARED_CREDENTIALS_FILE") or f"{home}/.aws/credentials"
    config = environ.get("AWS_CONFIG_FILE") or f"{home}/.aws/config"
    profile = environ.get("AWS_DEFAULT_PROFILE") or environ.get("AWS_PROFILE") or "default"
    return (
        f"AWS_CONTAINER_CREDENTIALS_FULL_URI or _RELATIVE_URI, {platform}, the identity of an EC2 machine, "
        f"AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN, profile {profile!r} in {credentials} and {config}, "
        "AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY"
    )


# --- identities of the nodes ----------------------------------------------------------------------


def _container(address: BucketAddress, environ: Mapping[str, str]) -> Source | None:
    relative, full = (environ.get(f"AWS_CONTAINER_CREDENTIALS_{kind}_URI") for kind in ("RELATIVE", "FULL"))
    if not relative and not full:
        return None
    url = urlsplit(full if not relative and full else "http://169.254.170.2")
    host = url.hostname or ""
    link_local = host.startswith(("169.254.", "fd00:ec2:"))  # the provider's own agents: ECS and EKS
    problem = foreign(address) if link_local else ""
    token_file = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    if token_file and not problem:
        problem = file_problem("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token_file)
    netloc = host if url.port is None else f"{host}:{url.port}"
    # A broker's agents: no node has them by itself, so what leads there travels on, to the runs that start here.
    agents = address_in(environ, "aws")
    references = tuple(agents.variables("aws").items()) if agents else ()
    return Source("container", "ambient", f"container credentials served at {netloc}", references, problem=problem)


def _instance(address: BucketAddress, environ: Mapping[str, str], dmi_root: str) -> Source | None:
    if address.scheme == "gs":
        if dmi(dmi_root, "product_name") not in ("Google Compute Engine", "Google"):
            return None
        description = "the service account of the Google Compute Engine machine"
    else:
        if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true" or not _on_ec2(dmi_root):
            return None
        description = "the instance role of the EC2 machine"
    return Source("instance", "ambient", description, problem=foreign(address))


def _on_ec2(dmi_root: str) -> bool:
    # Nitro machines name their maker and their instance id; Xen ones have a UUID that starts with ec2, for root only.
    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html
    return (
        dmi(dmi_root, "sys_vendor") == "Amazon EC2"
        or dmi(dmi_root, "product_uuid").lower().startswith("ec2")
        or dmi(dmi_root, "board_asset_tag").startswith("i-")
    )


# --- references -----------------------------------------------------------------------------------


def _aws_references(address: BucketAddress, environ: Mapping[str, str]) -> tuple[Source | None, Source | None]:
    profile, web_identity = _profile(environ), _web_identity(address, environ)
    named = environ.get("AWS_DEFAULT_PROFILE") or environ.get("AWS_PROFILE")
    return (profile, web_identity) if named else (web_identity, profile)


def _web_identity(address: BucketAddress, environ: Mapping[str, str]) -> Source | None:
    token_file, role = environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"), environ.get("AWS_ROLE_ARN")
    if not token_file or not role:
        return None
    path = absolute_path(token_file, environ)
    references = {name: environ[name] for name in _WEB_IDENTITY_VARIABLES if environ.get(name)}
    return Source(
        "web identity",
        "reference",
        f"role {role} with the web-identity token file {path}",
        references=tuple({**references, "AWS_WEB_IDENTITY_TOKEN_FILE": path}.items()),
        # pyarrow asks the provider's own token service whatever endpoint is configured
        problem=foreign(address) or file_problem("AWS_WEB_IDENTITY_TOKEN_FILE", path),
    )


def _profile(environ: Mapping[str, str]) -> Source | None:
    profile = read_profile(environ)
    if profile is None:
        return None
    names = dict.fromkeys(("AWS_PROFILE", *profile.named_by), profile.name)
    return Source(
        "profile",
        "reference",
        profile.description,
        references=(*names.items(), *profile.files),
        secrets=profile.keys,
        region=profile.region,
        problem=profile.problem,
        only_brokered=profile.kind == "chained role",
    )


def _google_file(environ: Mapping[str, str]) -> Source | None:
    variable = "GOOGLE_APPLICATION_CREDENTIALS"
    path, said_by = environ.get(variable), variable
    if not path:
        folder = environ.get("CLOUDSDK_CONFIG") or os.path.join(environ.get("HOME", ""), ".config", "gcloud")
        path, said_by = os.path.join(folder, "application_default_credentials.json"), "gcloud"
        if not os.path.isabs(path) or not os.path.isfile(path):
            return None
    path = absolute_path(path, environ)
    kind, problem = _read_google_file(said_by, path)
    description = f"{kind or 'credentials'} file {path} ({said_by})"
    return Source("key file", "reference", description, references=((variable, path),), problem=problem)


def _read_google_file(said_by: str, path: str) -> tuple[str, str]:
    problem = file_problem(said_by, path)
    if problem:
        return "", problem
    try:
        with open(path, encoding="utf-8") as file:
            content: Any = json.load(file)
    except ValueError:  # its message and its fields quote the file, which is secret
        return "", f"{said_by} names {path}, which is not JSON"
    kind = content.get("type") if isinstance(content, dict) else None
    if kind not in _GOOGLE_TYPES:
        return "", f"{said_by} names {path}, whose type is none of {', '.join(_GOOGLE_TYPES)}"
    origin = content.get("credential_source")
    token_file = origin.get("file") if isinstance(origin, dict) else None
    return kind, file_problem(f"credential_source in {path}", token_file) if isinstance(token_file, str) else ""


# --- static keys ----------------------------------------------------------------------------------


def _static_keys(environ: Mapping[str, str]) -> Source | None:
    values = {name: environ[name] for name in _STATIC_VARIABLES if environ.get(name)}
    missing = [name for name in _STATIC_VARIABLES[:2] if name not in values]
    if len(missing) == 2:
        return None
    found = " and ".join(name for name in _STATIC_VARIABLES if name in values)
    problem = f"{found} set, but {missing[0]} is not" if missing else ""
    return Source("static keys", "env", f"static keys ({found})", secrets=Secrets(values), problem=problem)
