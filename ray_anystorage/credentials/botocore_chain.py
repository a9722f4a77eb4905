"""Which sources a botocore session asks for credentials."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from botocore.credentials import CredentialProvider, CredentialResolver

NODE_IDENTITY = ("container-role", "iam-role")  # botocore's names for asking the node who it is
WEB_IDENTITY = "assume-role-with-web-identity"
_CHAIN = "credential_provider"


def ask_only(session: Any, source: CredentialProvider | str) -> None:
    """Make the session ask this source alone; a name is of one that it would ask among others."""
    if isinstance(source, str):
        source = session.get_component(_CHAIN).get_provider(source)
    session.register_component(_CHAIN, CredentialResolver([source]))


def ask_not(session: Any, names: Iterable[str]) -> None:
    """Make the session ask all that it would, but those."""
    for name in names:
        session.get_component(_CHAIN).remove(name)
