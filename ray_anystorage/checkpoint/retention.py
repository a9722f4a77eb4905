"""Deleting checkpoints, and finding what crashes left behind. Nothing outside the run's own folders is ever touched."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ray_anystorage.checkpoint.manifest import FOLDER, manifest_attempt
from ray_anystorage.checkpoint.read import manifests_of
from ray_anystorage.checkpoint.record import RECORD, record_key
from ray_anystorage.checkpoint.save import mark_attempt, own_name
from ray_anystorage.checkpoint.small_files import names_below, patiently
from ray_anystorage.errors import ManifestError, ObjectMissingError, StorageError
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.store import Store

logger = logging.getLogger("ray.train.anystorage")

Kind = Literal["unfinished save", "not in the snapshot", "spilled data", "unfinished upload", "of a former home"]


@dataclass(frozen=True, slots=True)
class Orphan:
    """Something of this package's that nothing refers to.

    Attributes
    ----------
    kind
        ``"not in the snapshot"`` is a whole checkpoint that Ray does not know: only a person may decide to remove it.
        ``"of a former home"`` is data that another run may use, and is never removed here.
    place, name
        URI of the store's root and key below it.
    size
        Bytes.
    token
        Of an unfinished upload.
    """

    kind: Kind
    place: str
    name: str
    size: int
    token: str = ""

    @property
    def certain(self) -> bool:
        """True for what can be of no use to anybody."""
        return self.kind not in ("not in the snapshot", "of a former home")


def delete_checkpoint(home: Store, spill: Store | None, name: str, delete_folder: Callable[[], None]) -> None:
    """Delete a checkpoint: its record, its manifests, its data in the bucket, its folder in the run home.

    Raises
    ------
    StorageError, OSError
        A step failed. What is left is no checkpoint any more, and a sweep finds it.
    """
    _forget(home, name)
    if spill is not None:
        delete_below(spill, name)
    delete_folder()


def _forget(home: Store, name: str) -> None:
    """Delete what makes a folder a checkpoint: the record, then the manifests."""
    names = names_below(home, f"{name}/{FOLDER}")
    if RECORD in names:
        patiently(lambda: home.delete([record_key(name)]))
    manifests = [f"{name}/{FOLDER}/{file}" for file in names if manifest_attempt(file)]
    if manifests:
        patiently(lambda: home.delete(manifests))


def clear(home: Store, name: str, remove_folder: Callable[[], None]) -> None:
    """Remove a checkpoint's folder, the marks that tell what it is last.

    pyarrow has no order, and writes markers in buckets: ``remove_folder`` is for what is left of it on a mount.
    """
    delete_below(home, name)
    if isinstance(home, PosixStore) and os.path.isdir(home.path(name)):
        remove_folder()


def delete_below(store: Store, folder: str) -> None:
    """Delete everything in a folder of a store; the marks that tell what the rest is go last."""
    keys = [f"{folder}/{path}" for path in names_below(store, folder)]
    last = [key for key in keys if key.startswith(f"{folder}/{FOLDER}/")]
    for some in (sorted(set(keys) - set(last)), last):
        if some:
            patiently(partial(store.delete, some))
        if isinstance(store, PosixStore):
            store.remove_empty(folder)  # a checkpoint may have had empty folders


def find_orphans(
    home: Store,
    spill: Store | None,
    *,
    named: Collection[str],
    state_files: Collection[str] = (),
    former: Collection[Store] = (),
) -> list[Orphan]:
    """What the run's own folders hold and nothing refers to.

    Parameters
    ----------
    named
        Checkpoints that Ray's snapshot names.
    state_files
        Names in the run home of files that the run itself writes, beside its checkpoints.
    former
        Folders of the bucket that the home came with from where it was before.
    """
    held = _checkpoints(home, named)
    orphans = _uploads(home, {*held, *state_files, FOLDER})
    orphans += _uploads(spill, None) if spill is not None else []
    orphans += _in_home(home, held, named)
    orphans += _in_spill(home, spill, held, named) if spill is not None else []
    for store in former:
        orphans += _in_former(home, store, held, named)
    return orphans


def largest_unfinished(orphans: Collection[Orphan]) -> str | None:
    """The checkpoint of the unfinished save that stored most, in all places together; ``None`` where there is none."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for orphan in orphans:
        if orphan.kind == "unfinished save":
            sizes[orphan.name] += orphan.size
    return max(sizes, key=lambda name: (sizes[name], name), default=None)


def remove(orphan: Orphan, stores: Sequence[Store]) -> None:
    """Remove an orphan from the store it was found in.

    Raises
    ------
    StorageError, OSError
        It stays, or is there in part; another sweep finds it again.
    """
    store = next(store for store in stores if store.uri == orphan.place)
    if orphan.kind == "unfinished upload":
        with contextlib.suppress(ObjectMissingError):  # it has ended since
            patiently(lambda: store.discard(orphan.name, orphan.token))
        return
    _forget(store, orphan.name)
    delete_below(store, orphan.name)


@dataclass(slots=True)
class _Held:
    """What a folder of the run home holds: the files of this package's that make it a checkpoint, and bytes of all."""

    own: set[str]
    size: int = 0


def _checkpoints(home: Store, named: Collection[str]) -> dict[str, _Held]:
    """Folders of the run home that this package saved into; a name may have slashes."""
    listed = patiently(lambda: list(home.list("")))
    own: defaultdict[str, set[str]] = defaultdict(set)
    for key, _ in listed:
        name, _, file = key.partition(f"/{FOLDER}/")
        if own_name(file):
            own[name].add(file)
    # What looks like a checkpoint inside of another one is the user's data, unless Ray knows it.
    held = {name: _Held(files) for name, files in own.items() if name in named or not own.keys() & set(_above(name))}
    for key, size in listed:
        if (holder := _innermost(key, held)) is not None:
            held[holder].size += size
    return held


def _above(key: str) -> list[str]:
    """Every folder that a key lies in, the outermost first."""
    parts = key.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _innermost(key: str, names: Collection[str]) -> str | None:
    """The checkpoint among these that a key belongs to."""
    return next((folder for folder in reversed(_above(key)) if folder in names), None)


def _uploads(store: Store, folders: Collection[str] | None) -> list[Orphan]:
    """Uploads that did not end, in those folders: elsewhere in a run home they may be the user's."""
    try:
        found = patiently(lambda: list(store.unfinished("")))
    except StorageError as error:  # a right of its own, which not every policy grants
        logger.warning("unfinished uploads to %s are not looked for: %s", store.uri, error)
        return []
    return [
        Orphan("unfinished upload", store.uri, key, 0, token)
        for key, token in found
        if folders is None or f"/{FOLDER}/" in key or any(name in folders for name in (key, *_above(key)))
    ]


def _in_home(home: Store, held: dict[str, _Held], named: Collection[str]) -> Iterator[Orphan]:
    folders = _folders(named)
    for name, folder in sorted(held.items()):
        if name not in named and name.rpartition("/")[0] in folders:
            yield Orphan(_kind(folder.own), home.uri, name, folder.size)


def _folders(named: Collection[str]) -> set[str]:
    """Where a run's checkpoints lie; elsewhere below its home, what looks like one may be the user's export."""
    return {"", *(name.rpartition("/")[0] for name in named)}


def _kind(own: Collection[str]) -> Kind:
    """What an unnamed folder with these files of ours is; without a save's mark, somebody else stored the data."""
    saved = any(mark_attempt(file) for file in own)
    return "unfinished save" if saved and RECORD not in own else "not in the snapshot"


def _in_spill(home: Store, spill: Store, held: dict[str, _Held], named: Collection[str]) -> Iterator[Orphan]:
    folders = _folders(named)
    for name, size in _spilled(spill, {*held, *named}):
        own = held[name].own if name in held else set()
        if RECORD in own and not _refers(home, name, f"{spill.uri}/{name}"):
            yield Orphan("spilled data", spill.uri, name, size)
        elif name not in named and (RECORD not in own or name.rpartition("/")[0] in folders):
            yield Orphan(_kind(own) if own else "spilled data", spill.uri, name, size)


def _in_former(home: Store, former: Store, held: dict[str, _Held], named: Collection[str]) -> Iterator[Orphan]:
    for name, size in _spilled(former, {*held, *named}):
        if not _refers(home, name, f"{former.uri}/{name}"):
            yield Orphan("of a former home", former.uri, name, size)


def _spilled(spill: Store, known: Collection[str]) -> list[tuple[str, int]]:
    """Checkpoints of which a folder of the bucket has data, known ones or not, and how many bytes of each."""
    shared = {folder for name in known for folder in _above(name)}
    sizes: defaultdict[str, int] = defaultdict(int)
    for key, size in patiently(lambda: list(spill.list(""))):
        name = _innermost(key, known) or next((folder for folder in _above(key) if folder not in shared), None)
        if name is not None:  # this package stores nothing beside the checkpoints' folders
            sizes[name] += size
    return sorted(sizes.items())


def _refers(home: Store, name: str, location: str) -> bool:
    try:
        return any(manifest.location == location for manifest in manifests_of(home, name))
    except ManifestError as error:
        logger.warning("%s/%s is left as it is: %s", home.uri, name, error)
        return True
