"""Promoting a checkpoint: a verified copy in another tier, as a run of its own that results() and new runs open."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ray_anystorage.catalog import Kept
from ray_anystorage.checkpoint.audit import audit
from ray_anystorage.checkpoint.contents import Contents
from ray_anystorage.checkpoint.opened import Opened
from ray_anystorage.checkpoint.ownership import holding, owner_of
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.checkpoint.small_files import write
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.environment import TIERS, Place, Tier
from ray_anystorage.errors import (
    AnyStorageError,
    CheckpointCorruptedError,
    CheckpointSaveError,
    NameTakenError,
    RequestError,
    TierUnavailableError,
)
from ray_anystorage.policy.request import check_name
from ray_anystorage.runs import Run, artifact_folder, surveyed
from ray_anystorage.settings import read_settings
from ray_anystorage.train.hooks import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray_anystorage.train.snapshot import state_of
from ray_anystorage.transfer.store import Store
from ray_anystorage.units import format_size

_WHO = "ray-anystorage promote"
_REPORT = 1  # the copy is all that its run ever reported


@dataclass(frozen=True, slots=True)
class Promoted:
    """What was copied.

    Attributes
    ----------
    run
        The run that holds the copy.
    checkpoint
        Its name there.
    source
        The path or URI that it was copied from.
    size
        Bytes of data.
    metrics
        As they were reported with it.
    """

    run: Run
    checkpoint: str
    source: str
    size: int
    metrics: Mapping[str, Any]

    @property
    def uri(self) -> str:
        """The copy's path or URI."""
        return f"{self.run.uri}/{self.checkpoint}"


def target_run(
    to: Tier, name: str, *, credentials: Credentials | None = None, artifact_storage: str | None = None
) -> tuple[Run, int | None]:
    """The home of a new run in a tier, and the bytes that are free there, where that is known. Nothing is written.

    Raises
    ------
    RequestError
        The tier or the name cannot be meant.
    NameTakenError
        There is a run of the name, in whichever tier that can be read, or something else in its place.
    TierUnavailableError
        The tier cannot take it.
    CredentialsError, StorageError
        A tier that may hold such a run cannot be read.
    """
    if to not in TIERS:
        raise RequestError(f"to={to!r}: expected one of {', '.join(TIERS)}")
    roots: dict[Tier, str | None] = {"artifact": artifact_storage}
    settings = read_settings(roots=roots)
    artifact, obstacle = artifact_folder(settings, credentials)
    found = surveyed(check_name(name), artifact, credentials, roots)
    if found.obstacle is not None:
        raise found.obstacle
    if taken := next(iter(found.environment.homes), None):
        raise NameTakenError(
            f"{taken.path} ({taken.tier} storage) exists already: choose another name for the copy "
            "(--as NAME, or name=)"
        )
    place = found.environment.place(to)
    if place is None or not place.usable or (to == "artifact" and artifact is None):
        raise TierUnavailableError(f"{to} storage cannot take it: {_reason(place, obstacle)}")
    if to == "artifact" and artifact is not None:
        recipe = artifact.child(name)
        return Run(name, recipe.uri, to, recipe, None), None
    return Run.on_mount(os.path.join(place.root, name), to, settings), place.space.free_bytes if place.space else None


def promote_checkpoint(source: Run, kept: Kept, target: Run, free_bytes: int | None = None) -> Promoted:
    """Copy a checkpoint into a new run, compare every byte of the copy with the original's digests, and list it there.

    After an interruption it can be done again; ``prune`` finds what one left that is not.

    Raises
    ------
    TierUnavailableError
        It does not fit.
    NameTakenError, RunTakenOverError
        A run of the target's name has begun, or began meanwhile.
    CheckpointSaveError
        The target does not take it.
    CheckpointCorruptedError, CheckpointIncompleteError, CheckpointMissingError
        The original is not good, or the copy came to be another.
    StorageError, OSError
        A place fails.
    """
    opened = source.origin(kept.name).opened(source.open_home())
    contents = opened.contents()
    if free_bytes is not None and contents.size > free_bytes:
        raise TierUnavailableError(
            f"checkpoint {kept.name} has {format_size(contents.size)}, and {target.tier} storage has "
            f"{format_size(free_bytes)} free: remove something there, or choose another tier"
        )
    checkpoint = kept.name.rpartition("/")[2]
    state = json.dumps(state_of({checkpoint: _plain(kept.metrics)}, reports=_REPORT)).encode()
    home = target.open_home()
    try:
        _refuse_begun(home, target)
        with holding(home, _WHO) as owner:
            _compare(kept.name, contents, _copy(opened, home, checkpoint))
            made = target.origin(checkpoint).opened(home)
            finding = audit(made.sources, checkpoint, made.folder)
            if not finding.good:
                raise CheckpointCorruptedError(f"the copy of checkpoint {kept.name} is not good: {finding.reason}")
            owner.check()
            write(home, CHECKPOINT_MANAGER_SNAPSHOT_FILENAME, state)
    except AnyStorageError:
        raise
    except OSError as error:
        raise CheckpointSaveError(f"checkpoint {kept.name} could not be copied to {target.uri}: {error}") from error
    return Promoted(target, checkpoint, f"{source.uri}/{kept.name}", contents.size, kept.metrics)


def _refuse_begun(home: Store, target: Run) -> None:
    """Raise where a run has begun in the new home; what an earlier copy left there is gone on with."""
    holder = owner_of(home)
    if holder is not None and not holder.released and not holder.who.startswith(_WHO):
        raise NameTakenError(f"{target.uri} belongs to a run that has begun ({holder.who}): choose another name")


def _copy(opened: Opened, home: Store, checkpoint: str) -> Contents:
    attempt = secrets.token_hex(8)
    with opened.directory() as directory:
        Saver(home, threshold=sys.maxsize).save(directory, Part(checkpoint, attempt, 0, 1, _REPORT))
    return commit(home, checkpoint, attempt, report=_REPORT)


def _compare(name: str, contents: Contents, copied: Contents) -> None:
    there = {file.path: (file.size, file.digest) for file in copied.files}
    for file in contents.files:
        size, digest = there.pop(file.path, (None, None))
        if size != file.size or file.digest not in (None, digest):
            raise CheckpointCorruptedError(f"the copy of {file.path} of checkpoint {name} is not what was saved")
    if there:
        raise CheckpointCorruptedError(f"the copy of checkpoint {name} has a file more: {min(there)}")


def _reason(place: Place | None, obstacle: str | None) -> str:
    if place is not None and place.problem is not None:
        return place.problem.reason
    return obstacle or (place.description if place is not None else "there is none")


def _plain(value: Any) -> Any:
    """What JSON has no name for, as Tune's metrics may hold: numbers of NumPy as numbers, the rest in words."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return float(value) if isinstance(value, Real) else str(value)
