"""Where a benchmark's data lies: one folder of its own in each tier, which is all that it writes and all it removes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ray_anystorage.bench.on_node.markers import Markers
from ray_anystorage.checkpoint.small_files import patiently, read
from ray_anystorage.credentials.grant import Mode
from ray_anystorage.environment import Environment, Place
from ray_anystorage.errors import ObjectMissingError
from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe
from ray_anystorage.home.store import HomeStore
from ray_anystorage.settings import read_settings
from ray_anystorage.transfer.open_store import BucketRecipe, MountRecipe, StoreRecipe
from ray_anystorage.transfer.store import Store

FOLDER = f".anystorage-bench-{os.getuid()}"  # of this user: others could neither write to it nor remove it
FULL = 0.9  # share of a disk that is never passed
_MARKERS = "markers.json"
_ID = re.compile(r"(\d+)-[0-9a-f]{8}")
_OLD = 24 * 3600.0  # seconds after which nobody waits for a benchmark any more
_CALL_TIMEOUT = 60.0  # seconds of one call on a mount


@dataclass(frozen=True, slots=True)
class Carried:
    """The bucket's grant as it travels: mode, source and harmless variables."""

    mode: Mode
    source: str
    env_vars: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class BenchPlace:
    """A benchmark's folder in one tier.

    Attributes
    ----------
    place
        The tier, usable.
    id
        Of the benchmark.
    grant
        For a bucket.
    """

    place: Place
    id: str
    grant: Carried | None

    @property
    def is_bucket(self) -> bool:
        """Whether the tier is a bucket."""
        return self.place.bucket is not None

    def recipe(self, *names: str) -> StoreRecipe:
        """How to open a folder below it."""
        return self._above().child("/".join((self.id, *names)))

    def home(self) -> Store:
        """The home of the benchmark's checkpoints, as a run's is opened."""
        recipe = self.recipe("home")
        if isinstance(recipe, MountRecipe):
            os.makedirs(recipe.root, exist_ok=True)
            home = HomeRecipe(self.place.tier, self.place.root, recipe.root, (), _CALL_TIMEOUT)
            return HomeStore(HomeFileSystem(home))
        return recipe.open()

    def remove(self, *names: str) -> None:
        """Remove a folder below it with all that is in it, or all of it; what is not there is no error."""
        if not names:
            self.remove_markers()
        recipe = self.recipe(*names)
        if isinstance(recipe, MountRecipe):
            remove_tree(recipe.root, above=not names)
            return
        store = recipe.open()
        keys = [key for key, _ in patiently(lambda: list(store.list(""))) if key]  # the folder's own marker has none
        patiently(lambda: store.delete(keys))
        for key, token in patiently(lambda: list(store.unfinished(""))):
            with contextlib.suppress(ObjectMissingError):  # another node was first
                patiently(lambda key=key, token=token: store.discard(key, token))  # type: ignore[misc]

    def note_markers(self) -> None:
        """Before Ray's own path writes to a bucket: keep the names of the folders that it has objects for."""
        markers = self._markers()
        if markers is None:
            return
        store = self.recipe().open()
        try:
            patiently(lambda: store.size(_MARKERS))
        except ObjectMissingError:  # this is the first node to do so
            store.write_small(_MARKERS, json.dumps(markers.above()).encode())

    def remove_markers(self) -> None:
        """Remove the objects that stand for folders and were not there before; a part of removing all of it."""
        markers, store = self._markers(), self.recipe().open() if self.is_bucket else None
        if markers is None or store is None:
            return
        try:
            kept = json.loads(read(store, _MARKERS, patiently(lambda: store.size(_MARKERS))))
        except ObjectMissingError:
            return
        markers.remove(self.id, kept, since=int(self.id.partition("-")[0]))

    def _markers(self) -> Markers | None:
        above = self._above()
        return Markers(above) if isinstance(above, BucketRecipe) and above.address.scheme == "s3" else None

    def sweep(self) -> list[str]:
        """Remove what benchmarks left that nobody waits for any more; what was removed."""
        removed = []
        for name in sorted(set(self._names())):
            if is_old(name):
                BenchPlace(self.place, name, self.grant).remove()
                removed.append(f"{self.place.root}/{FOLDER}/{name}")
        return removed

    def _names(self) -> Iterator[str]:
        if self.place.bucket is None:
            with contextlib.suppress(FileNotFoundError):
                yield from os.listdir(os.path.join(self.place.root, FOLDER))
            return
        above = self._above().open()
        yield from (key.partition("/")[0] for key, _ in patiently(lambda: list(above.list(""))))

    def _above(self) -> StoreRecipe:
        """The folder of all benchmarks."""
        if self.place.bucket is None:
            return MountRecipe(self.place.root).child(FOLDER)
        if self.grant is None:
            raise ValueError(f"{self.place.root}: without credentials a bucket has no folder")
        address = self.place.bucket
        return BucketRecipe(address, self.grant.mode, self.grant.source, self.grant.env_vars).child(FOLDER)


def remove_tree(path: str, *, above: bool = True) -> None:
    """Remove a folder of a benchmark, also where other nodes remove it at the same time.

    Parameters
    ----------
    above
        Whether the folder that it lies in goes too, where nothing else is in it.
    """

    def failed(_: object, where: str, error: tuple[type[BaseException], BaseException, object]) -> None:
        if not isinstance(error[1], FileNotFoundError):
            raise error[1]

    if os.path.lexists(path):
        shutil.rmtree(path, onerror=failed)
    if above:
        with contextlib.suppress(OSError):  # another benchmark has its folder there
            os.rmdir(os.path.dirname(path))


def is_old(name: str) -> bool:
    """Whether a folder's name is that of a benchmark that nobody waits for any more."""
    match = _ID.fullmatch(name)
    return match is not None and time.time() - int(match[1]) > _OLD


def own_disk() -> str | None:
    """``local`` storage, where this node has it and it takes files, as a run's worker chooses it."""
    settings = read_settings()
    root = next((place.root for place in settings.locations if place.tier == "local"), None)
    return root if root is not None and os.path.isdir(root) and os.access(root, os.W_OK | os.X_OK) else None


def new_id(token: str) -> str:
    """The name of a benchmark that begins now; ``token`` has eight hexadecimal digits."""
    return f"{int(time.time())}-{token}"


def places_of(environment: Environment, id: str, grant: Carried | None) -> dict[str, BenchPlace]:
    """A folder for each tier that can be used here, by tier."""
    return {
        place.tier: BenchPlace(place, id, grant)
        for place in environment.places
        if place.usable and (place.bucket is None or grant is not None)
    }


def room(path: str) -> int:
    """Bytes that may be written below a path before its disk is fuller than :data:`FULL`."""
    usage = shutil.disk_usage(path)
    return max(0, int(usage.total * FULL) - (usage.total - usage.free))
