"""Sources that a broker of this process serves, as the variables that lead every other process to its agents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ray_anystorage.credentials.azure_leases import AzureKeys, AzurePrincipal
from ray_anystorage.credentials.broker import broker_of
from ray_anystorage.credentials.lease import Kind
from ray_anystorage.credentials.providers import (
    BotocoreSource,
    Callback,
    GoogleFile,
    Provider,
    StaticKeys,
    UserSource,
)
from ray_anystorage.credentials.source import Source
from ray_anystorage.environment import BucketAddress

_KINDS: dict[str, Kind] = {"s3": "aws", "gs": "google", "abfss": "azure"}
_ORDER = {"env": 0, "reference": 1, "ambient": 2}  # keys in the environment come first, as in every SDK


def brokered(address: BucketAddress, sources: Iterable[Source]) -> Source | None:
    """The first of the sources that a broker can serve, with its variables as references; ``None`` for none.

    Raises
    ------
    CredentialsAgentError
        This node has no memory file system.
    """
    for source in sorted(sources, key=lambda source: _ORDER[source.mode]):
        provider = _provider(address, source) if source.usable or source.only_brokered else None
        if provider is not None:
            return _led_to(provider, address, source)
    return None


def brokered_callable(address: BucketAddress, function: UserSource) -> Source:
    """The same for a callable of the user's."""
    provider = Callback(function)
    return _led_to(provider, address, Source("callable", "env", provider.description))


def _led_to(provider: Provider, address: BucketAddress, source: Source) -> Source:
    kind = _KINDS[address.scheme]
    broker = broker_of(provider, kind)
    return replace(source, references=tuple(broker.address.variables(kind).items()), problem="")


def _provider(address: BucketAddress, source: Source) -> Provider | None:
    references = dict(source.references)
    if address.scheme == "gs":
        path = references.get("GOOGLE_APPLICATION_CREDENTIALS")
        return GoogleFile(path, source.description) if source.kind == "key file" and path else None
    if address.scheme == "abfss":
        return _azure(source, references)
    if source.kind == "static keys":
        return StaticKeys(source.secrets, source.description)
    return BotocoreSource(references, source.description)


def _azure(source: Source, references: dict[str, str]) -> Provider | None:
    if source.kind == "static keys":
        return AzureKeys(source.secrets, source.description)
    if source.kind == "service principal":
        return AzurePrincipal(source.secrets, references.get("AZURE_AUTHORITY_HOST", ""), source.description)
    return None  # identities of the nodes, which they have without us
