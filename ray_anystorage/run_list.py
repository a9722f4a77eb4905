"""Finding every run that exists, in all tiers, by what Ray leaves in a run home."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pyarrow.fs

from ray_anystorage.checkpoint.small_files import side_by_side
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.discovery.homes import can_be_searched, is_state
from ray_anystorage.discovery.probe import bounded
from ray_anystorage.environment import Place, Tier
from ray_anystorage.errors import AnyStorageError
from ray_anystorage.policy.request import SPILLED
from ray_anystorage.runs import Run, artifact_folder, surveyed, with_spill
from ray_anystorage.settings import Settings, read_settings
from ray_anystorage.transfer.open_store import BucketRecipe
from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe, build


def find_all(
    *, credentials: Credentials | None = None, artifact_storage: str | None = None
) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """Every run right below the root of a tier, by tier and name; and why tiers could not be looked at.

    A root that two tiers share is looked at once, for the first of them.

    Parameters
    ----------
    credentials, artifact_storage
        As in :func:`ray_anystorage.runs.find_run`.

    Raises
    ------
    RequestError
        A setting cannot be meant.
    """
    roots: Mapping[Tier, str | None] = {"artifact": artifact_storage}
    settings = read_settings(roots=roots)
    artifact, obstacle = artifact_folder(settings, credentials)
    runs: list[Run] = []
    notes = [] if obstacle is None else [f"artifact storage was not looked at: {obstacle}"]
    seen: set[tuple[int, int]] = set()
    for place in surveyed(None, artifact, credentials, roots).environment.places:
        if place.bucket is not None or place.state == "absent":
            continue
        try:
            for run in _on_mount(place, settings, seen):
                runs.append(_spilling(run, artifact, obstacle, notes))
        except (AnyStorageError, OSError) as error:
            notes.append(f"{place.tier} storage at {place.root} was not looked at: {error}")
    try:
        runs += _in_bucket(artifact) if artifact is not None else []
    except (AnyStorageError, OSError) as error:
        notes.append(f"artifact storage was not looked at: {error}")
    return tuple(runs), tuple(notes)


def _spilling(run: Run, artifact: BucketRecipe | None, obstacle: str | None, notes: list[str]) -> Run:
    try:
        return with_spill(run, artifact, obstacle)
    except (AnyStorageError, OSError) as error:
        notes.append(f"where {run.uri} spills to is not known: {error}")
        return run


def _on_mount(place: Place, settings: Settings, seen: set[tuple[int, int]]) -> list[Run]:
    if not can_be_searched(place):
        raise OSError(place.problem.reason if place.problem is not None else place.description)

    def look() -> list[str]:
        try:
            status = os.stat(place.root)
        except FileNotFoundError:  # it will be made for the first run
            return []
        if (status.st_dev, status.st_ino) in seen:
            return []
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(place.root) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        return [name for name in folders if _holds_state(os.path.join(place.root, name))]

    names = bounded(look, settings.call_timeout, what=f"look for runs in {place.root}")
    return [Run.on_mount(os.path.join(place.root, name), place.tier, settings) for name in names]


def _holds_state(folder: str) -> bool:
    try:
        return any(map(is_state, os.listdir(folder)))
    except (PermissionError, FileNotFoundError):  # somebody else's, or gone meanwhile
        return False


def _in_bucket(artifact: BucketRecipe) -> list[Run]:
    filesystem = build(FileSystemRecipe(artifact.address, artifact.env_vars))

    def inside(path: str) -> list[pyarrow.fs.FileInfo]:
        return list(filesystem.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True)))

    folders = [info.base_name for info in inside(artifact.address.path) if not info.is_file]
    recipes = {name: artifact.child(name) for name in sorted(folders) if name and name != SPILLED}

    def holds_state(recipe: BucketRecipe) -> bool:
        return any(info.is_file and is_state(info.base_name) for info in inside(recipe.address.path))

    found = side_by_side(holds_state, list(recipes.values()))
    return [
        Run(name, recipe.uri, "artifact", recipe, None)
        for (name, recipe), is_run in zip(recipes.items(), found, strict=True)
        if is_run
    ]
