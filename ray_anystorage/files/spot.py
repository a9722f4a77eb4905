"""Places that a person names: ``shared:data/``, ``artifact:models/a.bin``, a path, a URI."""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass, replace

from ray_anystorage.environment import TIERS, Tier
from ray_anystorage.errors import RequestError
from ray_anystorage.named_bucket import bucket_recipe
from ray_anystorage.settings import Settings
from ray_anystorage.transfer.open_store import BucketRecipe, MountRecipe, StoreRecipe
from ray_anystorage.transfer.store import Store

WILD = frozenset("*?[")
_SCHEMES, _ALIASES = ("s3", "gs", "abfss"), ("s3a", "s3n", "gcs")
# A question mark is a wildcard, but for the one before a query, of which only these names are understood.
_QUERY = re.compile(r"\?(?:region|endpoint_override|scheme)=")


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
        It leads out of its tier, the tier has no place here, its root is not an existing directory, or it cannot be
        meant.
    CredentialsError
        This process has no credentials for the bucket.
    """
    head, colon, rest = said.partition(":")
    if said.partition("://")[0].lower() in (*_SCHEMES, *_ALIASES) and "://" in said:
        return _at_uri(said, settings, credentials)
    if "://" in said:
        known = ", ".join((*(f"{scheme}://" for scheme in _SCHEMES), *(f"{tier}:" for tier in TIERS)))
        raise RequestError(f"{said!r}: expected a path, or one that begins with one of {known}")
    if colon and head in TIERS:
        return _in_tier(said, _tier(head), rest, settings, credentials)
    if not said:
        raise RequestError("'' names no place")
    return _on_disk(said, os.getcwd(), os.path.expanduser(said), None)


def _tier(name: str) -> Tier:
    return next(tier for tier in TIERS if tier == name)


def _in_tier(said: str, tier: Tier, rest: str, settings: Settings, credentials: str | None) -> Spot:
    variable = f"RAY_ANYSTORAGE_{tier.upper()}_STORAGE"
    root = next((location.root for location in settings.locations if location.tier == tier), None)
    if root is None:
        raise RequestError(f"{said!r}: there is no {tier} storage here: set {variable}")
    inside = posixpath.normpath(rest.lstrip("/")) if rest.strip("/") else ""
    inside = "" if inside == "." else inside
    if inside.split("/")[0] == "..":
        raise RequestError(f"{said!r} leads out of {tier} storage ({root})")
    folder = rest.endswith("/") or not inside
    if tier == "artifact":
        return _in_bucket(said, root, inside, settings, credentials, tier, folder=folder)
    if not os.path.isdir(root):  # to make it would fill the disk below a mount that is not mounted
        raise RequestError(
            f"{said!r}: the root of {tier} storage, {root}, is not an existing directory on this machine: mount or "
            f"make it, or set {variable} to one that is"
        )
    return _on_disk(said, root, inside, tier, folder=folder)


def _at_uri(said: str, settings: Settings, credentials: str | None) -> Spot:
    head, _, rest = said.partition("://")
    bucket, _, typed = rest.partition("/")
    bucket, query_of_bucket = _without_query(bucket)
    typed, query = _without_query(typed)
    folder = typed.endswith("/") or not typed
    return _in_bucket(
        said, f"{head}://{bucket}{query or query_of_bucket}", typed, settings, credentials, None, folder=folder
    )


def _in_bucket(
    said: str,
    root: str,
    typed: str,
    settings: Settings,
    credentials: str | None,
    tier: Tier | None,
    *,
    folder: bool,
) -> Spot:
    """What was typed below a root, the URI of a folder; wildcards are looked for in what was typed alone."""
    above, pattern = _split(typed.strip("/"))
    if not {".", ".."}.isdisjoint(above.split("/")):
        raise RequestError(f"{said!r} has a '.' or '..' in its folder, which a bucket takes literally: leave it out")
    named = bucket_recipe(root, credentials=credentials, what=repr(said), settings=settings)
    key = "/".join(part for part in (named.address.prefix, *above.split("/")) if part)
    whole = replace(named, address=replace(named.address, prefix=""))
    return Spot(said, whole, key, pattern, folder or not key, tier)


def _on_disk(said: str, base: str, typed: str, tier: Tier | None, *, folder: bool = False) -> Spot:
    """What was typed below a folder, or an absolute path; what is there by that very name is no pattern."""
    is_there = os.path.lexists(os.path.join(base, typed))
    above, pattern = (typed, "") if is_there else _split(typed)
    path = "/" + os.path.abspath(os.path.join(base, above)).lstrip("/")  # POSIX leaves two slashes at the beginning
    named = folder or said.endswith("/") or bool(pattern) or os.path.isdir(path)
    if named:
        return Spot(said, MountRecipe(path), "", pattern, True, tier)
    parent, name = os.path.split(path)
    return Spot(said, MountRecipe(parent), name, "", False, tier)


def _without_query(text: str) -> tuple[str, str]:
    found = _QUERY.search(text)
    return (text[: found.start()], text[found.start() :]) if found else (text, "")


def _split(path: str) -> tuple[str, str]:
    """The part without wildcards, and the rest."""
    parts = path.split("/")
    wild = next((at for at, part in enumerate(parts) if WILD & set(part)), None)
    if wild is None:
        return path, ""
    return "/".join(parts[:wild]) or path[: path.startswith("/")], "/".join(parts[wild:]).rstrip("/")
