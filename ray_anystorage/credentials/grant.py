"""What a run is granted: the variables that every process gets, the harmless apart from the secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ray_anystorage.credentials.redact import Secrets

Mode = Literal["ambient", "reference", "broker", "env"]
Credentials = str | Callable[[], Mapping[str, Any]]  # a mode, "auto", or a callable of the user's


@dataclass(frozen=True, slots=True)
class Grant:
    """The outcome of choosing credentials for one bucket.

    Attributes
    ----------
    mode
        ``ambient``: the nodes have an identity of their own. ``reference``: names of a profile or of files travel.
        ``broker``: an agent on each node gives what the driver hands it. ``env``: secret values travel in
        ``runtime_env``.
    source
        One redacted phrase: ``"profile 'team' in /home/me/.aws/config"``.
    reason
        Why this source, and why none that ``auto`` prefers.
    env_vars
        Name and value of every variable that is harmless to print: region, endpoint, references.
    secrets
        The variables that are not.
    """

    mode: Mode
    source: str
    reason: str
    env_vars: tuple[tuple[str, str], ...] = ()
    secrets: Secrets = field(default_factory=Secrets)

    def all_env_vars(self) -> dict[str, str]:
        """Everything a process needs, secrets in the clear: hand it to a process, never print it."""
        return {**dict(self.env_vars), **self.secrets.reveal()}


def carried(mode: Mode, source: str, env_vars: tuple[tuple[str, str], ...]) -> Grant:
    """The grant as it is in a process that it travelled to, without its secrets."""
    # Secret values do not travel: in mode env they are in that process's environment, which only ambient reads.
    return Grant("ambient" if mode == "env" else mode, source, "as carried from the driver", env_vars)
