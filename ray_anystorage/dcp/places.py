"""Where a sharded checkpoint lies: a folder that somebody named, or a checkpoint of a run."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from ray_anystorage.checkpoint.contents import Contents, StoredFile
from ray_anystorage.checkpoint.opened import Located, Opened
from ray_anystorage.checkpoint.small_files import parsed, patiently, read
from ray_anystorage.environment import TIERS
from ray_anystorage.errors import (
    CheckpointCorruptedError,
    CheckpointIncompleteError,
    CheckpointMissingError,
    CredentialsError,
    ObjectMissingError,
    RequestError,
)
from ray_anystorage.files.spot import spot
from ray_anystorage.settings import read_settings
from ray_anystorage.tier_filesystem import PROTOCOL
from ray_anystorage.transfer.open_store import StoreRecipe
from ray_anystorage.transfer.store import Store

if TYPE_CHECKING:
    from ray_anystorage.train.checkpoint import Checkpoint

T = TypeVar("T")

SUFFIX = ".distcp"  # torch's, of files with data


class Place(Protocol):
    """What a reader needs of the place of a checkpoint."""

    @property
    def uri(self) -> str:
        """For messages."""

    @property
    def verifiable(self) -> bool:
        """Whether the place itself knows digests of its files."""

    def small(self, name: str, parse: Callable[[bytes], T]) -> T:
        """What a file that tells whether it is whole says.

        Raises
        ------
        CheckpointMissingError, CheckpointIncompleteError
            It is not there.
        ManifestError
            It is not whole.
        """

    def file(self, name: str) -> Located:
        """Where a file of data lies."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a tier, a bucket or a disk; it pickles, and holds no secret."""

    recipe: StoreRecipe

    @property
    def uri(self) -> str:
        """Its path or URI."""
        return self.recipe.uri

    @property
    def verifiable(self) -> bool:
        """Never: there is no manifest."""
        return False

    @property
    def store(self) -> Store:
        """The folder, opened; one for all of this process."""
        return self.recipe.open()

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        try:
            patiently(lambda: self.store.size(name))
        except ObjectMissingError:
            return False
        return True

    def names(self) -> set[str]:
        """The files in it, not those in folders below."""
        return {name for name, _ in patiently(lambda: list(self.store.list(""))) if "/" not in name}

    def small(self, name: str, parse: Callable[[bytes], T]) -> T:
        """Read again where a bit may have flipped on its way."""
        store = self.store
        try:
            return parsed(store, name, read(store, name, patiently(lambda: store.size(name))), parse)
        except ObjectMissingError as error:
            parts = [other for other in self.names() if other.endswith(SUFFIX)]
            if parts:
                raise CheckpointIncompleteError(
                    f"{self.uri} holds {len(parts)} files of a save that did not end, and no {name}: load another one"
                ) from error
            raise CheckpointMissingError(f"there is no sharded checkpoint at {self.uri}: no {name}") from error

    def file(self, name: str) -> Located:
        """A file that the metadata names."""
        return Located(self.store, name, StoredFile(name, 0, None, None, None), _tell_nobody)


@dataclass(frozen=True, slots=True)
class InRun:
    """A checkpoint of a run, or a folder of it, read where its files lie."""

    opened: Opened
    contents: Contents
    folder: str

    @property
    def uri(self) -> str:
        """The run and the checkpoint."""
        return posixpath.join(self.opened.run, self.opened.name, self.folder).rstrip("/")

    @property
    def verifiable(self) -> bool:
        """Unless stock Ray stored it."""
        return self.contents.verifiable

    def small(self, name: str, parse: Callable[[bytes], T]) -> T:
        """Compared with the run's manifests already."""
        if not self._has(name):
            raise CheckpointMissingError(f"there is no sharded checkpoint in {self.uri}: no {name}")
        with self.file(name).open() as file:
            return parse(file.read())

    def file(self, name: str) -> Located:
        """A file that the metadata names, with the digests of the run's manifests."""
        if not self._has(name):
            raise CheckpointIncompleteError(
                f"{self.uri} lacks {name}, which its metadata names: every rank has to report the part that it saved"
            )
        return self.opened.locate(self.contents, posixpath.join(self.folder, name))

    def _has(self, name: str) -> bool:
        return self.contents.find(posixpath.join(self.folder, name)) is not None


def folder_of(place: str | os.PathLike[str]) -> Folder:
    """The folder that somebody named.

    Parameters
    ----------
    place
        ``TIER:path``, ``anystorage://TIER/path``, a path, or the URI of a bucket's folder.

    Raises
    ------
    RequestError
        It cannot be meant, or its tier has no place here.
    CredentialsError
        This process has no credentials for the bucket.
    """
    said = os.fspath(place)
    if said.startswith(f"{PROTOCOL}://"):
        tier, _, path = said.removeprefix(f"{PROTOCOL}://").partition("/")
        said = f"{tier}:{path}"
    head, colon, _ = said.partition(":")
    if colon and head not in TIERS and "/" not in head and not said.startswith(f"{head}://"):
        raise RequestError(f"{os.fspath(place)!r}: {head!r} is none of {', '.join(TIERS)}; write ./{said} for a path")
    found = spot(said, read_settings())
    if found.pattern:
        raise RequestError(f"{os.fspath(place)!r}: expected a folder, without wildcards")
    return Folder(found.recipe.child(found.key) if found.key else found.recipe)


def is_place(said: str | os.PathLike[str]) -> bool:
    """Whether something names a folder that this process can use."""
    try:
        folder_of(said)
    except (RequestError, CredentialsError):
        return False
    return True


def place_of(place: str | os.PathLike[str] | Checkpoint, folder: str = "") -> Place:
    """What somebody named, for reading; ``folder`` is below it."""
    opened = getattr(place, "opened", None)
    if opened is not None:
        found: Opened = opened()
        return InRun(found, found.contents(), folder.strip("/"))
    if not isinstance(place, (str, os.PathLike)) or hasattr(place, "as_directory"):  # Ray's own only looks like a path
        raise RequestError(
            f"{type(place).__name__}: expected a path, a URI, or an anystorage.Checkpoint, which also opens what stock "
            "Ray wrote: anystorage.Checkpoint(path or URI)"
        )
    named = folder_of(place)
    return Folder(named.recipe.child(folder)) if folder else named


def _tell_nobody(error: CheckpointCorruptedError) -> None:
    """A folder that somebody named has no run that would have to know."""
