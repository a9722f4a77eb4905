"""Sources that can be asked for credentials again and again, by the process that a broker lives in."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime
from typing import Any, NoReturn, Protocol

from ray_anystorage.credentials.azure_leases import AZURE_FORMS, azure_lease
from ray_anystorage.credentials.lease import Lease
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.errors import CredentialsError

UserSource = Callable[[], Mapping[str, Any]]

_OBSTORE_FORM = ("access_key_id", "secret_access_key", ("token", "session_token"), "expires_at")
_AWS_FORM = ("AccessKeyId", "SecretAccessKey", ("Token", "SessionToken"), "Expiration")
_SERVED_GOOGLE_TYPES = ("service_account", "authorized_user")
_SOONEST, _LATEST = 0.5, 60.0  # seconds between two questions to a source


class Provider(Protocol):
    """Gives the credentials of one source as they are now."""

    @property
    def description(self) -> str:
        """One phrase for people, without secrets."""

    @property
    def identity(self) -> Hashable:
        """Equal for two providers that ask the same source."""

    def lease(self) -> Lease:
        """Ask the source; raises :class:`CredentialsError`, without secrets, where it gives nothing."""


class StaticKeys:
    """Keys that were there when the run was planned."""

    def __init__(self, variables: Secrets, description: str) -> None:
        names = {"AWS_ACCESS_KEY_ID": "AccessKeyId", "AWS_SECRET_ACCESS_KEY": "SecretAccessKey"}
        names["AWS_SESSION_TOKEN"] = "Token"  # noqa: S105 - a name
        values = {names[variable]: value for variable, value in variables.reveal().items()}
        self.description = description
        # A hash, since identities are the keys of a plain dictionary.
        self.identity = ("static keys", hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest())
        self._lease = Lease("aws", Secrets(values))

    def lease(self) -> Lease:
        """The same each time."""
        return self._lease


class BotocoreSource:
    """A profile of any kind, a web-identity role, or what botocore finds by itself where no variables are given."""

    def __init__(self, variables: Mapping[str, str], description: str) -> None:
        self.description = description
        self.identity = ("botocore", *sorted(variables.items()))
        self._variables = dict(variables)
        self._renewed: Any = None  # credentials that botocore itself keeps fresh

    def lease(self) -> Lease:
        """Ask botocore, which renews what it can and reads files anew."""
        from botocore.credentials import RefreshableCredentials
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            credentials = self._renewed or self._session().get_credentials()
            frozen = credentials.get_frozen_credentials() if credentials else None
        except json.JSONDecodeError:  # it holds what the process printed
            raise CredentialsError(f"the credential process of {self.description} printed no JSON") from None
        # RuntimeError: the source's credentials have expired already. OSError: of a token file or a credential process.
        except (BotoCoreError, ClientError, RuntimeError, OSError) as error:
            raise CredentialsError(f"{self.description} gives no credentials: {error}") from error
        if frozen is None:
            raise CredentialsError(f"{self.description} holds no credentials")
        expiry = None
        if isinstance(credentials, RefreshableCredentials):
            self._renewed, expiry = credentials, credentials._expiry_time
        values = {"AccessKeyId": frozen.access_key, "SecretAccessKey": frozen.secret_key, "Token": frozen.token or ""}
        return Lease("aws", Secrets(values), expiry.timestamp() if expiry else None)

    def _session(self) -> Any:
        import botocore.session

        from ray_anystorage.credentials.botocore_chain import NODE_IDENTITY, WEB_IDENTITY, ask_not, ask_only

        session = botocore.session.Session()
        if not self._variables:
            return session
        for name, variable in (
            ("credentials_file", "AWS_SHARED_CREDENTIALS_FILE"),
            ("config_file", "AWS_CONFIG_FILE"),
        ):
            if variable in self._variables:
                session.set_config_variable(name, self._variables[variable])
        if "AWS_PROFILE" in self._variables:
            # Said like this, it leaves the keys of the environment out.
            session.set_config_variable("profile", self._variables["AWS_PROFILE"])
            ask_not(session, NODE_IDENTITY)
        else:
            ask_only(session, WEB_IDENTITY)
        return session


class GoogleFile:
    """A service-account or authorized-user file, whose content is what the nodes get."""

    def __init__(self, path: str, description: str) -> None:
        self.description = description
        self.identity = ("google file", path)
        self._path = path

    def lease(self) -> Lease:
        """Read the file."""
        try:
            with open(self._path, encoding="utf-8") as file:
                content = json.load(file)
        except OSError as error:
            raise CredentialsError(f"{self.description} cannot be read: {error.strerror}") from error
        except ValueError:  # its message quotes the file
            raise CredentialsError(f"{self.description} is not JSON") from None
        return _google_lease(content, self.description)


class Callback:
    """A callable of the user's."""

    def __init__(self, function: UserSource) -> None:
        name = getattr(function, "__qualname__", type(function).__qualname__)
        self.description = f"the callable {name}"
        self.identity = ("callable", function if isinstance(function, Hashable) else id(function))
        self._function = function

    def lease(self) -> Lease:
        """Call it and read its answer, which has obstore's names, those of the AWS token service or Google's."""
        try:
            answer = self._function()
        except Exception as error:  # its words may hold a secret, so they are left to the traceback
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}, line {frame.lineno}"
            raise CredentialsError(f"{self.description} raised {type(error).__name__} at {where}") from error
        if not isinstance(answer, Mapping):
            self._refuse(f"returned a {type(answer).__name__}")
        if "type" in answer:
            return _google_lease(dict(answer), self.description)
        if any(name in answer for name in AZURE_FORMS) and not any(name in answer for name in _OBSTORE_FORM[:2]):
            return self._azure(answer)
        form = _AWS_FORM if any(name in answer for name in _AWS_FORM[:2]) else _OBSTORE_FORM
        key_name, secret_name, token_names, expiry_name = form
        values = {"AccessKeyId": self._text(answer, key_name), "SecretAccessKey": self._text(answer, secret_name)}
        token = next((name for name in token_names if answer.get(name)), None)
        if token is not None:
            values["Token"] = self._text(answer, token)
        lease = Lease("aws", Secrets(values), self._expiry(answer, str(expiry_name)))
        if lease.seconds_left() <= 0:
            self._refuse(f"gave credentials that have expired: {expiry_name} is {-lease.seconds_left():.0f} s ago")
        return lease

    def _azure(self, answer: Mapping[str, Any]) -> Lease:
        given = [name for name in AZURE_FORMS if answer.get(name)]
        if len(given) != 1:
            self._refuse(f"returned {' and '.join(given) or 'no value'}")
        return azure_lease(given[0], self._text(answer, given[0]), self._expiry(answer, "expires_at"), self.description)

    def _text(self, answer: Mapping[str, Any], name: Any) -> str:
        value = answer.get(name)
        if not isinstance(value, str) or not value:
            what = f"a {type(value).__name__} as {name}" if name in answer else f"no {name}"
            self._refuse(f"returned {what}; there is {', '.join(sorted(map(str, answer))) or 'nothing'}")
        return value

    def _expiry(self, answer: Mapping[str, Any], name: str) -> float | None:
        value = answer.get(name)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError:
                self._refuse(f"returned a {name} that is not an ISO 8601 time")
        if isinstance(value, datetime):
            if value.tzinfo is None:
                self._refuse(f"returned {name} without a time zone: use datetime.now(timezone.utc) + …")
            return value.timestamp()
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            self._refuse(f"returned a {type(value).__name__} as {name}")
        return value

    def _refuse(self, what: str) -> NoReturn:
        raise CredentialsError(
            f"{self.description} {what}\n  expected: access_key_id, secret_access_key and, for credentials that end, "
            "token and expires_at (seconds since the epoch, a datetime with time zone, or ISO 8601); or the same as "
            "AccessKeyId, SecretAccessKey, SessionToken and Expiration, as the AWS token service names them; or the "
            "content of a Google service-account or authorized-user file; or, for Azure, one of sas_token, account_key "
            "and token, with expires_at where it ends"
        )


def _google_lease(content: Any, description: str) -> Lease:
    kind = content.get("type") if isinstance(content, dict) else None
    if kind not in _SERVED_GOOGLE_TYPES:
        raise CredentialsError(
            f"{description} gives no {' or '.join(_SERVED_GOOGLE_TYPES)}, which alone a broker can serve\n"
            '  what to do: for workload identity, whose file holds no secret, use credentials="reference"'
        )
    return Lease("google", Secrets({"document": json.dumps(content)}))


def renew_in(lease: Lease) -> float:
    """Seconds after which the source is asked again: half of what is left, and a minute at most."""
    return max(_SOONEST, min(_LATEST, lease.seconds_left() / 2))
