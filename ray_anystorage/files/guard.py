"""What may not be deleted: what lies outside of the tiers and the artifact folder, and runs that are going on."""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence

from ray_anystorage.checkpoint.ownership import owner_of
from ray_anystorage.checkpoint.small_files import patiently
from ray_anystorage.discovery.buckets import address_in
from ray_anystorage.errors import OutsideArtifactFolderError, RequestError, RunInUseError
from ray_anystorage.files.entries import Entry
from ray_anystorage.files.own import is_own
from ray_anystorage.files.spot import Spot
from ray_anystorage.policy.request import SPILLED
from ray_anystorage.settings import Settings
from ray_anystorage.transfer.open_store import MountRecipe, StoreRecipe


def check_delete(place: Spot, found: Iterable[Entry], settings: Settings, *, not_running: bool = False) -> None:
    """Raise where files may not be deleted. On disks links are followed: what counts is where a file really lies.

    Parameters
    ----------
    not_running
        Whoever holds a run there is known to be dead.

    Raises
    ------
    OutsideArtifactFolderError
        In a bucket, outside of the artifact folder.
    RequestError
        On a disk, in no tier: the system's own tools are for that. Or in this package's own folder there.
    RunInUseError
        In a run that a controller holds.
    """
    roots = _roots(place, settings)
    homes: set[tuple[str, str]] = set()
    for uri in _really(place, found):
        root = next((root for root in roots if uri.startswith(f"{root}/")), None)
        if root is None:
            raise _outside(uri, roots, is_bucket=place.is_bucket)
        if not place.is_bucket and is_own(uri, settings):
            raise RequestError(
                f"{uri} is this package's own (its cache and what it knows of copies) and is not deleted: end the "
                "runs of this node, then use rm"
            )
        homes |= {(root, folder) for folder in _above(uri.removeprefix(f"{root}/"))}
    if not not_running:
        _refuse_live(place, homes)


def delete(place: Spot, found: Sequence[Entry], settings: Settings, *, not_running: bool = False) -> None:
    """Delete files, and on a disk the folders that this leaves empty, but for a tier's own.

    What :func:`check_delete` raises it raises too: whoever asked before may have waited long since.
    """
    check_delete(place, found, settings, not_running=not_running)
    store = place.open()
    patiently(lambda: store.delete([entry.key for entry in found]))
    if isinstance(place.recipe, MountRecipe) and not place.pattern and not place.key:
        kept = {os.path.realpath(location.root) for location in settings.locations}
        for folder, _, _ in os.walk(place.recipe.root, topdown=False):
            path = os.path.realpath(folder)
            if path not in kept and not is_own(path, settings):
                with contextlib.suppress(OSError):  # something is in it
                    os.rmdir(folder)


def _roots(place: Spot, settings: Settings) -> list[str]:
    """The tiers' roots that are of the kind of a place, in their normal form."""
    if isinstance(place.recipe, MountRecipe):
        return [os.path.realpath(location.root) for location in settings.locations if location.tier != "artifact"]
    said = [location for location in settings.locations if location.tier == "artifact"]
    addresses = [address_in(location.root, settings, what=location.source) for location in said]
    return [address.uri for address in addresses if address.endpoint == place.recipe.address.endpoint]


def _really(place: Spot, found: Iterable[Entry]) -> Iterator[str]:
    """Where files lie: a link to a file is itself what is deleted, one to a folder leads to others' files."""
    if not isinstance(place.recipe, MountRecipe):
        yield from (f"{place.recipe.uri.rstrip('/')}/{entry.key}" for entry in found)
        return
    folders: dict[str, str] = {}
    for entry in found:
        folder, name = os.path.split(os.path.join(place.recipe.root, entry.key))
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        yield os.path.join(folders[folder], name)


def _outside(uri: str, inside: Sequence[str], *, is_bucket: bool) -> RequestError:
    where = ", ".join(inside) or "there is none"
    if is_bucket:
        return OutsideArtifactFolderError(f"{uri} lies outside of the artifact folder ({where}) and is not deleted")
    return RequestError(f"{uri} lies in no storage of this package ({where}) and is not deleted: use rm")


def _refuse_live(place: Spot, homes: Iterable[tuple[str, str]]) -> None:
    for root, folder in sorted(homes):
        if folder.partition("/")[0] == SPILLED:
            raise RunInUseError(
                f"{root}/{folder} is where runs on mounts put their large checkpoints, and nothing of it is deleted: "
                "ray-anystorage prune RUN removes what a run no longer has. If it is known that none needs it, say "
                "--not-running."
            )
        holder = owner_of(_folder(place.recipe, root, folder).open())
        if holder is not None and not holder.released:
            raise RunInUseError(
                f"{root}/{folder} is the home of a run that {holder.who} holds, which may be saving now, and nothing "
                "of it is deleted. If that is known to be dead, say --not-running."
            )


def _above(path: str) -> Iterator[str]:
    """The folders that a file lies in, each of which may be the home of a run."""
    folder = posixpath.dirname(path)
    while folder:
        yield folder
        folder = posixpath.dirname(folder)


def _folder(recipe: StoreRecipe, root: str, folder: str) -> StoreRecipe:
    if isinstance(recipe, MountRecipe):
        return MountRecipe(root).child(folder)
    prefix = root.partition("://")[2].partition("/")[2]
    return recipe.child("/".join(part for part in (prefix, folder) if part))
