"""One source of credentials, and what every provider's sources are judged by."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from ray_anystorage.credentials.grant import Mode
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress

DMI_ROOT = "/sys/class/dmi/id"

SourceKind = Literal[
    "container",
    "platform",
    "instance",
    "profile",
    "web identity",
    "key file",
    "static keys",
    "service principal",
    "callable",
    "agent",
]

PLATFORM_VARIABLES = ("ANYSCALE_ARTIFACT_STORAGE", "ANYSCALE_CLOUD_STORAGE_BUCKET")
_DOMAINS = {
    "s3": (".amazonaws.com", ".amazonaws.com.cn", ".api.aws"),
    "gs": (".googleapis.com",),
    "abfss": (".core.windows.net", ".core.chinacloudapi.cn", ".core.usgovcloudapi.net", ".storage.azure.net"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """One source of credentials that this node shows.

    Attributes
    ----------
    kind
        What it is.
    mode
        The mode that carries it to the workers.
    description
        One phrase for people, without secrets.
    references
        The variables that travel, harmless to print.
    secrets
        The static keys behind it, where it has any: what ``credentials="env"`` would carry.
    region
        The region that a profile names.
    problem
        Why it cannot serve, with what to do; empty when it can.
    only_brokered
        True where a broker can serve it although the problem keeps it from travelling.
    """

    kind: SourceKind
    mode: Mode
    description: str
    references: tuple[tuple[str, str], ...] = ()
    secrets: Secrets = field(default_factory=Secrets, compare=False)
    region: str | None = None
    problem: str = ""
    only_brokered: bool = False

    @property
    def usable(self) -> bool:
        """True when nothing is known to be wrong with it."""
        return not self.problem


def own_endpoint(address: BucketAddress) -> bool:
    """True when the store is the provider's own, so that the provider's identities mean something to it."""
    if address.endpoint is None:
        return True
    host = f".{urlsplit(address.endpoint).hostname or ''}"
    return host.endswith(_DOMAINS[address.scheme])


def foreign(address: BucketAddress) -> str:
    """Why an identity of the provider's is no use, or nothing."""
    return "" if own_endpoint(address) else f"it means nothing to the store at {address.endpoint}"


def platform_identity(address: BucketAddress, environ: Mapping[str, str]) -> Source | None:
    """The identity that the platform gives its nodes, where its variables show it."""
    for variable in PLATFORM_VARIABLES:
        scheme, separator, _ = environ.get(variable, "").partition("://")
        if scheme and (not separator or scheme == address.scheme):
            description = f"the identity of the platform's nodes ({variable} is set)"
            return Source("platform", "ambient", description, problem=foreign(address))
    return None


def dmi(dmi_root: str, name: str) -> str:
    """What the kernel shows of the machine, or nothing."""
    try:
        with open(os.path.join(dmi_root, name), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:  # no such machine, or a file for root only: no evidence
        return ""


def usable(sources: tuple[Source, ...], mode: Mode) -> Iterator[Source]:
    """The sources that one mode could carry, the preferred first."""
    return (source for source in sources if source.mode == mode and source.usable)
