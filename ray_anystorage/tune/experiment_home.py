"""What the file system of an experiment carries to every process: where its checkpoints go, and who drives it."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray_anystorage.checkpoint.ownership import Owner, own_spill
from ray_anystorage.checkpoint.retention import clear, delete_checkpoint
from ray_anystorage.errors import RequestError
from ray_anystorage.home.filesystem import HomeFileSystem
from ray_anystorage.home.prepare import prepare_home
from ray_anystorage.home.store import as_store
from ray_anystorage.origin import Origin
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.train.storage_context import refuse_one_nodes_disk
from ray_anystorage.transfer.open_store import BucketRecipe, StoreRecipe
from ray_anystorage.transfer.store import Store


@dataclass(frozen=True, slots=True)
class ExperimentHome:
    """The home of one experiment, below which each trial has a folder; it holds no secret.

    Attributes
    ----------
    path
        As its file system takes it.
    store
        How to open it as a store.
    spill
        The experiment's own folder in the bucket, where its home is on a mount.
    recipe
        Of the storage that it was planned on; ``None`` for one that is only looked at.
    owner
        The word of the driver that fits it, by which a node tells that it sees the same home.
    carries
        Names of the variables that its trials get from the driver.
    """

    path: str
    store: StoreRecipe
    spill: BucketRecipe | None
    recipe: StorageRecipe | None = None
    owner: str = ""
    carries: tuple[str, ...] = ()

    @property
    def planned(self) -> StorageRecipe:
        """The recipe of a home that trials run in."""
        if self.recipe is None:
            raise AssertionError(f"{self.store.uri} was opened to be looked at, not to run in")
        return self.recipe

    def open(self, filesystem: Any) -> Store:
        """The home as a store; ``filesystem`` is the one that carries it."""
        return as_store(filesystem, self.store)

    def held(self, filesystem: Any) -> Owner:
        """The hold of the driver that fits it."""
        return Owner(self.open(filesystem), self.owner, f"driver {os.getpid()} on {socket.gethostname()}")

    def name_of(self, path: str) -> str:
        """The name that a checkpoint, or a file, has below the home: ``trial/checkpoint_000001``."""
        return path.removeprefix(f"{self.path}/").rstrip("/")

    def origin(self, path: str, attempt: str | None = None) -> Origin:
        """Where a checkpoint comes from."""
        return Origin(self.store, self.spill, self.name_of(path), attempt)

    def delete(self, filesystem: Any, name: str) -> None:
        """Delete a checkpoint, first what makes it one, then its data; raises as ``delete_checkpoint`` does."""
        home = self.open(filesystem)
        spill = self.spill.open() if self.spill is not None else None
        path = f"{self.path}/{name}"
        delete_checkpoint(home, spill, name, lambda: clear(home, name, lambda: filesystem.delete_dir(path)))


def home_of(filesystem: Any) -> ExperimentHome | None:
    """The home that a file system of ours carries; ``None`` for any other."""
    carried = getattr(filesystem, "carried", None)
    return carried if isinstance(carried, ExperimentHome) else None


def carried_home(filesystem: Any) -> ExperimentHome:
    """The home that a file system of an experiment of ours carries."""
    home = home_of(filesystem)
    if home is None:
        raise RequestError(
            "this experiment was restored without its storage\n  what to do: restore it with "
            "@anystorage.tune_experiment, or give Tuner.restore() the storage_filesystem of "
            "anystorage.tune_run_config(name)"
        )
    return home


def open_experiment(recipe: StorageRecipe, carries: Iterable[str]) -> Any:
    """Make an experiment's home ready, for its driver, and build the file system that carries it.

    Raises
    ------
    TierUnavailableError
        The plan was made before the cluster was known and does not hold on it.
    StorageError
        The place does not work.
    """
    refuse_one_nodes_disk(recipe)
    filesystem = recipe.build_filesystem()
    if isinstance(filesystem, HomeFileSystem):
        prepare_home(filesystem)
    store = recipe.open_home(filesystem)
    spill = recipe.spill.child(own_spill(store)) if recipe.spill is not None else None
    path, word = f"{recipe.fs_path}/{recipe.name}", secrets.token_hex(8)
    filesystem.carried = ExperimentHome(path, recipe.home, spill, recipe, word, tuple(sorted(carries)))
    return filesystem
