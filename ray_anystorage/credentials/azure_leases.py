"""What of Azure's a broker can serve: a SAS, an account key, and the tokens of a service principal.

The secret of a service principal stays in this process: the nodes get the tokens that it is changed for.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any
from urllib.parse import urlencode

from ray_anystorage.credentials.azure import key_problem, sas_end, sas_problem
from ray_anystorage.credentials.lease import Lease
from ray_anystorage.credentials.redact import Secrets, redact
from ray_anystorage.errors import CredentialsError

# What each is called in a user's answer or in the environment, and by obstore.
AZURE_FORMS = {"sas_token": "sas_token", "access_key": "access_key", "account_key": "access_key", "token": "token"}
_VARIABLES = {"AZURE_STORAGE_SAS_TOKEN": "sas_token", "AZURE_STORAGE_ACCOUNT_KEY": "access_key"}
_PROBLEMS = {"sas_token": sas_problem, "access_key": key_problem}

_AUTHORITY = "https://login.microsoftonline.com"
_SCOPE = "https://storage.azure.com/.default"
_TIMEOUT = 20.0  # seconds


def azure_lease(form: str, value: str, expires_at: float | None, description: str) -> Lease:
    """A lease of one value.

    Parameters
    ----------
    form
        One of ``AZURE_FORMS``.
    expires_at
        Seconds since the epoch, where the source says it; a SAS ends when it says so itself, if that is sooner.

    Raises
    ------
    CredentialsError
        The value cannot serve, or has ended.
    """
    name, value = AZURE_FORMS[form], value.strip().lstrip("?")
    problem = _PROBLEMS[name](value) if name in _PROBLEMS else ""
    if problem:
        raise CredentialsError(f"{description} gives a {form} that cannot be used: {problem}")
    ends = [end for end in (expires_at, sas_end(value) if name == "sas_token" else None) if end is not None]
    lease = Lease("azure", Secrets({name: value}), min(ends, default=None))
    if lease.seconds_left() <= 0:
        raise CredentialsError(f"{description} gives a {form} that expired {-lease.seconds_left():.0f} s ago")
    return lease


class AzureKeys:
    """A SAS or an account key that was there when the run was planned."""

    def __init__(self, variables: Secrets, description: str) -> None:
        self.description = description
        self.identity = ("azure keys", _digest(variables))
        self._variables = variables

    def lease(self) -> Lease:
        """The same each time, until it ends."""
        ((variable, value),) = self._variables.reveal().items()
        return azure_lease(_VARIABLES[variable], value, None, self.description)


class AzurePrincipal:
    """A service principal, whose secret Microsoft's token service changes for tokens of about an hour.

    Parameters
    ----------
    variables
        The tenant, the client and its secret.
    authority
        The token service's URL; that of Azure's public cloud where empty.
    """

    def __init__(self, variables: Secrets, authority: str, description: str) -> None:
        authority = authority.rstrip("/") or _AUTHORITY
        self._authority = authority if "://" in authority else f"https://{authority}"
        self.description = description
        self.identity = ("azure principal", self._authority, _digest(variables))
        self._variables = variables
        self._known: Lease | None = None
        self._again = 0.0

    def lease(self) -> Lease:
        """The token that there is, until half of its time is over; then another."""
        if self._known is None or time.time() >= self._again:
            self._known = self._asked()
            self._again = time.time() + self._known.seconds_left() / 2
        return self._known

    def _asked(self) -> Lease:
        answer = self._answer()
        token, lifetime = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not isinstance(lifetime, int):
            said = f"{answer.get('error', 'no token')}: {answer.get('error_description', 'no reason')}".splitlines()[0]
            said = redact(said, [self._variables.reveal()["AZURE_CLIENT_SECRET"]])
            raise CredentialsError(f"{self.description} gets no token: {said}")
        return azure_lease("token", token, time.time() + lifetime, self.description)

    def _answer(self) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError

        try:
            answer = json.loads(self._post())
        except BotoCoreError as error:
            raise CredentialsError(f"{self.description}: {self._authority} is not reached: {error}") from error
        except ValueError:  # its text may hold a token
            raise CredentialsError(f"{self.description}: {self._authority} answers no JSON") from None
        return answer if isinstance(answer, dict) else {}

    def _post(self) -> bytes:
        from botocore.awsrequest import AWSRequest
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        values = self._variables.reveal()
        url = f"{self._authority}/{values['AZURE_TENANT_ID']}/oauth2/v2.0/token"
        form = {"grant_type": "client_credentials", "scope": _SCOPE}
        form |= {"client_id": values["AZURE_CLIENT_ID"], "client_secret": values["AZURE_CLIENT_SECRET"]}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        session = URLLib3Session(proxies=get_environ_proxies(url), timeout=_TIMEOUT)
        try:
            request = AWSRequest(method="POST", url=url, data=urlencode(form), headers=headers)
            return bytes(session.send(request.prepare()).content)
        finally:
            session.close()


def _digest(values: Secrets) -> str:
    """In place of the values: identities are the keys of a plain dictionary."""
    return hashlib.sha256(repr(sorted(values.reveal().items())).encode()).hexdigest()
