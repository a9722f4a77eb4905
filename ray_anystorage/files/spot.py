"""Places that a person names: ``shared:data/``, ``artifact:models/a.bin``, a path, a URI."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass, replace

from ray_anystorage.environment import TIERS, Tier
from ray_anystorage.errors import RequestError
from ray_anystorage.origin import bucket_recipe
from ray_anystorage.settings import Settings
from ray_anystorage.transfer.open_store import BucketRecipe, MountRecipe, StoreRecipe
from ray_anystorage.transfer.store import Store

WILD = frozenset("*?[")
_SCHEMES = ("s3://", "gs://", "abfss://")


@dataclass(frozen=True, slots=True)
class Spot:
    """One place.

    Attributes
    ----------
    said
        As it was named.
    recipe
        How to open the folder that ``key`` is relative to.
    key
        Of a file or a folder below it; empty for the folder itself.
    pattern
        Of files below, where wildcards were used; relative to ``key``.
    folder
        Whether it was named as a folder: with a slash at its end, or a whole tier.
    tier
        That it was named by.
    """

    said: str
    recipe: StoreRecipe
    key: str = ""
    pattern: str = ""
    folder: bool = False
    tier: Tier | None = None

    @property
    def is_bucket(self) -> bool:
        """Whether it lies in a bucket."""
        return isinstance(self.recipe, BucketRecipe)

    @property
    def uri(self) -> str:
        """The whole path or URI, without the pattern."""
        return f"{self.recipe.uri.rstrip('/')}/{self.key}" if self.key else self.recipe.uri

    def open(self) -> Store:
        """The store that ``key`` is relative to."""
        return self.recipe.open()

    def child(self, name: str) -> Spot:
        """A file or folder below it."""
        return replace(self, key=posixpath.join(self.key, name), pattern="", folder=name.endswith("/"))


def spot(said: str, settings: Settings, *, credentials: str | None = None) -> Spot:
    """The place that a person named.

    Parameters
    ----------
    said
        ``TIER:path`` (``local``, ``cluster``, ``user``, ``shared``, ``artifact``), a path, or the URI of a bucket's
        folder or object. ``*``, ``?`` and ``[…]`` stand for names, ``**`` for folders too.
    settings
        That say where the tiers are.

    Raises
    ------
    RequestError
        It leads out of its tier, the tier has no place here, or it cannot be meant.
    CredentialsError
        This process has no credentials for the bucket.
    """
    head, colon, rest = said.partition(":")
    if said.startswith(_SCHEMES):
        return _in_bucket(said, said, settings, credentials, None)
    if "://" in said:
        known = ", ".join((*_SCHEMES, *(f"{tier}:" for tier in TIERS)))
        raise RequestError(f"{said!r}: expected a path, or one that begins with one of {known}")
    if colon and head in TIERS:
        return _in_tier(said, _tier(head), rest, settings, credentials)
    if not said:
        raise RequestError("'' names no place")
    return _on_disk(said, os.path.abspath(os.path.expanduser(said)), None)


def _tier(name: str) -> Tier:
    return next(tier for tier in TIERS if tier == name)


def _in_tier(said: str, tier: Tier, rest: str, settings: Settings, credentials: str | None) -> Spot:
    root = next((location.root for location in settings.locations if location.tier == tier), None)
    if root is None:
        raise RequestError(f"{said!r}: there is no {tier} storage here: set RAY_ANYSTORAGE_{tier.upper()}_STORAGE")
    inside = posixpath.normpath(rest.lstrip("/")) if rest.strip("/") else ""
    if inside.split("/")[0] == "..":
        raise RequestError(f"{said!r} leads out of {tier} storage ({root})")
    slash = "/" if rest.endswith("/") or not inside else ""
    if tier == "artifact":
        return _in_bucket(said, f"{root}/{inside}{slash}".rstrip("/") + slash, settings, credentials, tier)
    return _on_disk(said, os.path.join(root, inside), tier, folder=bool(slash))


def _in_bucket(said: str, uri: str, settings: Settings, credentials: str | None, tier: Tier | None) -> Spot:
    above, pattern = _split(uri)
    named = bucket_recipe(above.rstrip("/"), credentials=credentials, what=repr(said), settings=settings)
    key = named.address.prefix
    whole = replace(named, address=replace(named.address, prefix=""))
    return Spot(said, whole, key, pattern, uri.endswith("/") or not key, tier)


def _on_disk(said: str, path: str, tier: Tier | None, *, folder: bool = False) -> Spot:
    above, pattern = _split(path)
    named = folder or said.endswith("/") or bool(pattern) or os.path.isdir(above)
    if named:
        return Spot(said, MountRecipe(above.rstrip("/") or "/"), "", pattern, True, tier)
    parent, name = os.path.split(above)
    return Spot(said, MountRecipe(parent), name, "", False, tier)


def _split(path: str) -> tuple[str, str]:
    """The part without wildcards, and the rest."""
    parts = path.split("/")
    wild = next((at for at, part in enumerate(parts) if WILD & set(part)), None)
    return (path, "") if wild is None else ("/".join(parts[:wild]), "/".join(parts[wild:]))
