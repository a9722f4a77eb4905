"""What a store's failure means: each becomes a problem with its own error class, place, attempt and remedy."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from botocore import exceptions as boto

from ray_anystorage import errors
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.environment import BucketAddress, Problem
from ray_anystorage.transfer.s3_client import CaFileError

# The last is botocore's for a source that hands out keys which have expired.
S3_FAILURES: tuple[type[Exception], ...] = (boto.BotoCoreError, boto.ClientError, OSError, ValueError, RuntimeError)

_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.ConfigNotFound,
    boto.ConfigParseError,
    boto.InvalidConfigError,
    boto.TokenRetrievalError,
    boto.SSOError,
    FileNotFoundError,  # of a web-identity token
    PermissionError,
)
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "RequestExpired", "TokenRefreshRequired")
_DENIED = ("AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403")
_ELSEWHERE = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307")
_PROVIDER = re.compile(r"External \w+ credential provider: (?:\w+: )?(.*)", re.DOTALL)
_AZURE_MESSAGE = re.compile(r"<Message>([^\n<]*)")
_RIGHTS = {
    "s3": {
        "list": "s3:ListBucket",
        "put": "s3:PutObject",
        "get": "s3:GetObject",
        "delete": "s3:DeleteObject",
        "conditional put": "s3:PutObject",
        "multipart upload": "s3:PutObject and s3:AbortMultipartUpload",
    },
    "gs": {
        "list": "storage.objects.list",
        "put": "storage.objects.create",
        "get": "storage.objects.get",
        "delete": "storage.objects.delete",
    },
    "abfss": dict.fromkeys(
        ("list", "put", "get", "delete"),
        "to list, read, write and delete (role 'Storage Blob Data Contributor', or a SAS with the permissions rwdl)",
    ),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was being done with a bucket when it failed.

    ``operation`` is a word such as ``"put"``, ``target`` a URI, ``key`` the access key shortened, where it is known;
    ``session`` says that a session token goes with it.
    """

    address: BucketAddress
    grant: Grant
    operation: str
    target: str
    key: str = ""
    session: bool = False

    def problem(self, error_type: type[errors.StorageError], reason: str, remedy: str) -> Problem:
        """Put the parts together, every secret of the grant masked."""
        redact = self.grant.secrets.redact
        endpoint = self.address.endpoint or "the provider's own endpoint"
        region = f", region {self.address.region}" if self.address.region else ""
        identity = f"key {self.key}" if self.key else self.grant.source
        return Problem(
            error_type=error_type,
            reason=redact(reason),
            tier="artifact",
            place=self.address.uri,
            tried=redact(f"{self.operation} {self.target} at {endpoint}{region} with {identity} ({self.grant.mode})"),
            remedy=redact(remedy),
        )


def shorten(access_key: str) -> str:
    """Enough of an access key to recognise it: both ends, or its beginning where it is short."""
    return f"{access_key[:4]}…{access_key[-4:]}" if len(access_key) >= 12 else f"{access_key[:2]}…"


def explain_s3(error: Exception, attempt: Attempt) -> Problem:
    """The problem behind what botocore raised.

    Parameters
    ----------
    error
        One of ``S3_FAILURES``.
    """
    if isinstance(error, boto.ClientError):
        return _explain_answer(error, attempt)
    if isinstance(error, (TimeoutError, boto.ConnectTimeoutError, boto.ReadTimeoutError)):
        return no_answer(attempt)
    if isinstance(error, json.JSONDecodeError):  # its text may hold what the process printed
        return no_credentials("the credential process of the profile printed no JSON", attempt)
    if isinstance(error, _NO_CREDENTIALS):
        return no_credentials(str(error), attempt)
    if isinstance(error, CaFileError):
        remedy = "Put the file at this path on every node, or correct RAY_ANYSTORAGE_CA_FILE (or AWS_CA_BUNDLE)."
        return attempt.problem(errors.BucketError, str(error), remedy)
    if isinstance(error, boto.SSLError):
        reason = f"no secure connection: {error}"
        remedy = (
            "Check that the endpoint speaks https; for a private certificate authority, set RAY_ANYSTORAGE_CA_FILE."
        )
        return attempt.problem(errors.BucketError, reason, remedy)
    if isinstance(error, (boto.EndpointConnectionError, boto.ProxyConnectionError, ConnectionError)):
        return not_reachable(str(getattr(error, "kwargs", {}).get("error", error)), attempt)
    if isinstance(error, RuntimeError) and "expired" in str(error):
        return expired(str(error), attempt)
    if isinstance(error, ValueError):  # of an endpoint that is no URL, or a bucket name that cannot be one
        return attempt.problem(errors.BucketError, str(error), "Correct the bucket's URI or the endpoint.")
    return attempt.problem(
        errors.BucketError, f"{type(error).__name__}: {error}", "Try it again; ask the store's owner."
    )


def _explain_answer(error: boto.ClientError, attempt: Attempt) -> Problem:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    said = f"the store answers {code or status}: {error.response.get('Error', {}).get('Message') or 'no message'}"
    source = attempt.grant.source
    session = attempt.session or "AWS_SESSION_TOKEN" in attempt.grant.secrets.names
    if code in _EXPIRED or (session and code in ("InvalidAccessKeyId", "InvalidClientTokenId")):
        # A store that keeps no record of its sessions does not know the key of one that has ended.
        return expired(said, attempt)
    if error.operation_name.startswith(("AssumeRole", "GetRoleCredentials")):
        return no_credentials(f"{error.operation_name} failed, {said}", attempt)
    if code == "SignatureDoesNotMatch":
        remedy = f"Correct the secret key ({source}): look for one that is cut off, quoted or of another key."
        return attempt.problem(errors.WrongSecretError, f"the secret key is wrong; {said}", remedy)
    if code in ("InvalidAccessKeyId", "InvalidClientTokenId"):
        remedy = f"Correct the access key ({source}), or the endpoint: another store may know it."
        return attempt.problem(errors.UnknownKeyError, f"the store does not know the access key; {said}", remedy)
    if code == "NoSuchBucket":
        remedy = f"Create the bucket {attempt.address.bucket!r}, or correct its name or the endpoint."
        return attempt.problem(errors.BucketMissingError, f"the bucket does not exist; {said}", remedy)
    right_region = _region_said(error)
    if code == "PermanentRedirect" or (code in _ELSEWHERE and right_region):
        return wrong_region(right_region, said, attempt)
    if code in _DENIED:
        return denied(said, attempt)
    if code == "RequestTimeTooSkewed":
        return attempt.problem(errors.BucketError, said, "Set this node's clock: it is too far from the store's.")
    if code == "KeyTooLongError":
        remedy = "Shorten the file's path, or the run's folder: the two together may have 1,024 bytes in a bucket."
        return attempt.problem(errors.BucketError, said, remedy)
    nameless = status == 404 and not code.isalpha() and attempt.operation == "list"
    if nameless and attempt.address.endpoint:  # S3 gives its reason a name
        remedy = "Check the endpoint's host, port and path: what answers there does not look like S3."
        return attempt.problem(errors.BucketError, said, remedy)
    return attempt.problem(errors.BucketError, said, "Look the code up in the store's documentation; ask its owner.")


def _region_said(error: boto.ClientError) -> str | None:
    headers: dict[str, Any] = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
    return str(region) if region else None


def wrong_region(right: str | None, said: str, attempt: Attempt) -> Problem:
    """The bucket lives in another region; ``right`` is its name where the store told it."""
    where = f"in region {right}" if right else "in another region"
    used = attempt.address.region or "no region"
    remedy = f"Set RAY_ANYSTORAGE_REGION={right or '<the region of the bucket>'}."
    return attempt.problem(errors.WrongRegionError, f"the bucket is {where}, {used} was used; {said}", remedy)


def denied(said: str, attempt: Attempt) -> Problem:
    """The credentials are good and this operation is not allowed."""
    right = _RIGHTS[attempt.address.scheme].get(attempt.operation, attempt.operation)
    remedy = f"Allow {right} for {attempt.address.uri}/* to these credentials ({attempt.grant.source}), or use others."
    reason = f"the credentials do not allow to {attempt.operation}; {said}"
    return attempt.problem(errors.BucketPermissionError, reason, remedy)


def expired(said: str, attempt: Attempt) -> Problem:
    """The session of the credentials is over."""
    remedy = f"Get a new session ({attempt.grant.source}) and start again; long runs need a source that renews itself."
    return attempt.problem(errors.ExpiredTokenError, f"the session token has expired, or is not valid; {said}", remedy)


def no_credentials(said: str, attempt: Attempt) -> Problem:
    """The grant's source gives nothing."""
    remedy = f"Repair the source ({attempt.grant.source}), or choose another with RAY_ANYSTORAGE_CREDENTIALS."
    if attempt.grant.mode == "reference":
        remedy = (
            f"Repair the source ({attempt.grant.source}), which every node must have; where the driver alone has it, "
            'say credentials="broker" (or RAY_ANYSTORAGE_CREDENTIALS=broker), which serves it to the others.'
        )
    return attempt.problem(errors.BucketCredentialsError, f"no credentials can be had: {said}", remedy)


def no_answer(attempt: Attempt) -> Problem:
    """Time ran out."""
    remedy = "Check the endpoint, and that a firewall, proxy or security group lets this node reach it."
    return attempt.problem(errors.EndpointTimeoutError, "the endpoint does not answer in time", remedy)


def not_reachable(said: str, attempt: Attempt) -> Problem:
    """Nothing listens, or the name does not resolve."""
    names = "RAY_ANYSTORAGE_ENDPOINT" + (" or AWS_ENDPOINT_URL" if attempt.address.scheme == "s3" else "")
    remedy = f"Check the endpoint's host name and port ({names}), and that the store is running."
    return attempt.problem(errors.EndpointRefusedError, f"no connection to the endpoint: {said}", remedy)


def provider_failed(said: str, attempt: Attempt) -> Problem | None:
    """The problem where obstore asked one of our providers in vain; ``None`` where it says something else."""
    failure = _PROVIDER.search(said)
    return no_credentials(failure[1], attempt) if failure else None


def explain_azure(status: int | None, code: str, said: str, attempt: Attempt) -> Problem | None:
    """The problem behind an answer of Azure's Blob service; ``None`` where it says nothing that only Azure says.

    Parameters
    ----------
    status, code
        Of the answer: its HTTP status, and the ``<Code>`` in its body, which a HEAD has not.
    said
        All that obstore says of it, the answer's body included. It shows no SAS.
    """
    source, message = attempt.grant.source, _AZURE_MESSAGE.search(said)
    brief = f"the store answers {code or status}: {message[1]}" if message else said.partition("\n")[0]
    if "token request" in said:
        return no_credentials(brief, attempt)
    if code in ("ContainerNotFound", "ContainerBeingDeleted"):
        remedy = f"Create the container {attempt.address.bucket.partition('@')[0]!r}, or correct its name."
        return attempt.problem(errors.BucketMissingError, f"the container does not exist; {brief}", remedy)
    if status == 401 or "not valid in the specified time frame" in said:
        remedy = f"Get a new one ({source}): a SAS that is not over yet, or a new token; check this node's clock."
        return attempt.problem(errors.ExpiredTokenError, f"the SAS or token is over, or not valid yet; {brief}", remedy)
    if status == 403 and "Server failed to authenticate the request" in said:
        remedy = f"Correct the key or the SAS ({source}): look for one that is cut off, quoted or of another account."
        return attempt.problem(errors.WrongSecretError, f"the signature does not match; {brief}", remedy)
    return denied(brief, attempt) if status == 403 else None
