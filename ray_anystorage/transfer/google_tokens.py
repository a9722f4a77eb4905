"""Google credentials that obstore does not know (workload identity, impersonation), through google-auth."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from ray_anystorage.errors import CredentialsError

_KNOWN_TO_OBSTORE = ("service_account", "authorized_user")
_AWS_TOKEN = "urn:ietf:params:aws:token-type:aws4_request"  # noqa: S105 - a name
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"

Tokens = Callable[[], dict[str, Any]]


def token_provider(path: str) -> Tokens | None:
    """What obstore is to ask for tokens, where it cannot read a credentials file itself; ``None`` where it can.

    Raises
    ------
    CredentialsError
        google-auth is not installed, or does not take the file.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
            known = content.get("type") in _KNOWN_TO_OBSTORE
    except (OSError, ValueError, AttributeError):  # obstore names what is wrong with it
        return None
    return None if known else _through_google_auth(path, content)


def _through_google_auth(path: str, content: dict[str, Any]) -> Tokens:
    try:
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request
    except ImportError as error:
        raise CredentialsError(
            f"{path} holds credentials of type {content.get('type')}, for which every node needs google-auth\n"
            "  what to do: pip install 'ray_anystorage[gcs]'"
        ) from error
    try:
        credentials = _credentials(path, content)
    except (GoogleAuthError, ValueError) as error:
        raise CredentialsError(f"{path}: google-auth does not take it: {error}") from error
    request = Request()

    def tokens() -> dict[str, Any]:
        credentials.refresh(request)
        expiry: datetime = credentials.expiry  # in UTC, without saying so
        return {"token": credentials.token, "expires_at": expiry.replace(tzinfo=timezone.utc)}

    return tokens


def _credentials(path: str, content: dict[str, Any]) -> Any:
    import google.auth
    from google.auth import aws, identity_pool, pluggable

    if content.get("type") != "external_account":
        return google.auth.load_credentials_from_file(path, scopes=[_SCOPE])[0]
    # The same for these would ask Google's resource manager for the project, which is of no use here.
    kind = identity_pool
    if content.get("subject_token_type") == _AWS_TOKEN:
        kind = aws
    elif "executable" in content.get("credential_source", ()):
        kind = pluggable
    return kind.Credentials.from_info(content, scopes=[_SCOPE])
