"""A botocore S3 client for one bucket, with the credentials of a grant and of nothing else.

What the workers will get is what is used here: this process's own variables count in ``ambient`` mode alone, so that a
key in the driver's environment cannot hide that none was handed on. The process environment is not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleWithWebIdentityProvider,
    ContainerProvider,
    CredentialProvider,
    Credentials,
    RefreshableCredentials,
)
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, NoCredentialsError

from ray_anystorage.credentials.agent_address import address_in
from ray_anystorage.credentials.botocore_chain import NODE_IDENTITY, ask_not, ask_only
from ray_anystorage.credentials.broker import Broker, own_broker
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.environment import BucketAddress, BucketOptions
from ray_anystorage.errors import CredentialsError

_ATTEMPTS = 2
_CONTAINER_VARIABLES = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
_MAKING_OBJECTS = ("PutObject", "CreateMultipartUpload", "CopyObject")
_SESSION_VARIABLES = {
    "profile": "AWS_PROFILE",
    "credentials_file": "AWS_SHARED_CREDENTIALS_FILE",
    "config_file": "AWS_CONFIG_FILE",
    "ca_bundle": "AWS_CA_BUNDLE",
}


def s3_client(address: BucketAddress, grant: Grant, *, connect_timeout: float, read_timeout: float) -> Any:
    """Build a client that signs as the grant says and never follows a bucket into another region.

    Parameters
    ----------
    connect_timeout, read_timeout
        Seconds, for each of two attempts.

    Raises
    ------
    botocore.exceptions.BotoCoreError
        The grant's credentials cannot be had.
    """
    return client_of(s3_session(address, grant, connect_timeout=connect_timeout, read_timeout=read_timeout), address)


def s3_session(address: BucketAddress, grant: Grant, *, connect_timeout: float, read_timeout: float) -> Any:
    """The session behind :func:`s3_client`: time limits, region and the grant's credentials."""
    variables = grant.all_env_vars()
    session = botocore.session.Session()
    session.set_default_client_config(
        Config(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        )
    )
    # pyarrow, which the run will use, knows no endpoint from a profile.
    session.set_config_variable("ignore_configured_endpoint_urls", True)
    # Stores that are compatible with S3 up to 2024 refuse the checksum trailers that botocore sends since.
    session.set_config_variable("request_checksum_calculation", "when_required")
    session.set_config_variable("response_checksum_validation", "when_required")
    region = address.region or variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    if region:
        session.set_config_variable("region", region)
    for name, variable in _SESSION_VARIABLES.items():
        if variable in variables:
            session.set_config_variable(name, variables[variable])
    own = own_broker(variables)
    if own is not None:
        give(session, _of_broker(own))
    elif grant.mode != "ambient" or address_in(variables) is not None:
        _use_only(session, variables)
    return session


class CaFileError(BotoCoreError):  # type: ignore[misc]
    """The file of certificate authorities cannot be read in this process."""

    fmt = "the CA file {path} cannot be read on this node: {reason}"


def read_ca_file(address: BucketAddress) -> bytes | None:
    """The certificate authorities to trust, as PEM; ``None`` for the system's.

    Raises
    ------
    CaFileError
        The file cannot be read.
    """
    path = address.options.ca_file
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CaFileError(path=path, reason=error.strerror) from error


def client_of(session: Any, address: BucketAddress) -> Any:
    """The S3 client of a session, which asks as the address's options say."""
    read_ca_file(address)  # botocore would only say that the path is invalid
    style = (
        Config(s3={"addressing_style": addressing(address)}) if address.endpoint or address.options.addressing else None
    )
    region = None if session.get_config_variable("region") or not address.endpoint else "us-east-1"
    client = session.create_client(
        "s3", region_name=region, endpoint_url=address.endpoint, config=style, verify=address.options.ca_file
    )
    client.meta.events.register("before-call.s3", _stay_in_region)
    client.meta.events.register("before-call.s3", partial(_add_headers, address.options))
    return client


def addressing(address: BucketAddress) -> str:
    """Where requests name the bucket: ``"path"`` or ``"virtual"``."""
    return address.options.addressing or ("path" if address.endpoint else "virtual")


def signer(session: Any) -> tuple[str, bool]:
    """The access key that the session signs with, and whether a session token goes with it; may ask the network.

    Raises
    ------
    botocore.exceptions.BotoCoreError
        There is none, or it cannot be had.
    """
    credentials = session.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    frozen = credentials.get_frozen_credentials()
    return frozen.access_key, bool(frozen.token)


def give(session: Any, credentials: Credentials) -> None:
    """Make a session sign with these credentials, in place of whatever it would find."""
    ask_only(session, _Given(credentials))


class _Given(CredentialProvider):  # type: ignore[misc]
    """Gives credentials that are there already."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> Credentials:
        return self._credentials


def _of_broker(broker: Broker) -> Credentials:
    """What this process's own broker gives, and gives again before it ends."""

    def ask() -> dict[str, str]:
        try:
            return broker.lease().botocore_metadata()
        except CredentialsError as error:
            raise CredentialRetrievalError(provider="broker", error_msg=str(error)) from error

    return RefreshableCredentials.create_from_metadata(metadata=ask(), refresh_using=ask, method="broker")


def _use_only(session: Any, variables: Mapping[str, str]) -> None:
    """Give the session the credentials that the variables say, and take every other source from it."""
    session.set_config_variable("profile", None)
    if "AWS_ACCESS_KEY_ID" in variables:
        said = (variables["AWS_ACCESS_KEY_ID"], variables.get("AWS_SECRET_ACCESS_KEY", ""))
        give(session, Credentials(*said, variables.get("AWS_SESSION_TOKEN") or None))
    elif "AWS_WEB_IDENTITY_TOKEN_FILE" in variables:
        ask_only(session, _web_identity(session, variables))
    elif any(name in variables for name in _CONTAINER_VARIABLES):
        ask_only(session, ContainerProvider(environ=dict(variables)))
    else:
        session.set_config_variable("profile", variables.get("AWS_PROFILE", "default"))
        ask_not(session, ("env", *NODE_IDENTITY))


def _web_identity(session: Any, variables: Mapping[str, str]) -> AssumeRoleWithWebIdentityProvider:
    said = {
        "role_arn": variables.get("AWS_ROLE_ARN"),
        "role_session_name": variables.get("AWS_ROLE_SESSION_NAME"),
        "web_identity_token_file": variables["AWS_WEB_IDENTITY_TOKEN_FILE"],
    }
    endpoint = variables.get("AWS_ENDPOINT_URL_STS") or variables.get("AWS_ENDPOINT_URL")

    def create_client(service: str, **arguments: Any) -> Any:
        return session.create_client(service, endpoint_url=endpoint, **arguments)

    return AssumeRoleWithWebIdentityProvider(
        load_config=lambda: {"profiles": {"grant": said}},
        client_creator=create_client,
        profile_name="grant",
        disable_env_vars=True,
    )


def _add_headers(options: BucketOptions, model: Any, params: dict[str, Any], **_: Any) -> None:
    """Say to every request who pays, and to each that makes an object how it is encrypted."""
    said: dict[str, str | None] = {}
    if options.requester_pays:
        said["x-amz-request-payer"] = "requester"
    if model.name in _MAKING_OBJECTS:
        said["x-amz-server-side-encryption"] = options.encryption
        said["x-amz-server-side-encryption-aws-kms-key-id"] = options.kms_key
    params["headers"].update({name: value for name, value in said.items() if value})


def _stay_in_region(context: dict[str, Any], **_: Any) -> None:
    # botocore would sign again for the region that the store names, which neither pyarrow nor obstore do.
    context.setdefault("s3_redirect", {})["redirected"] = True
