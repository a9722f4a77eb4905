"""Finding a run that exists, by its name, path or URI, and reaching what it stored. It holds no secret."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.ownership import spills_of
from ray_anystorage.checkpoint.record import RECORD
from ray_anystorage.checkpoint.save import mark_attempt
from ray_anystorage.checkpoint.small_files import names_below, patiently
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.environment import RunHome, Tier
from ray_anystorage.errors import CredentialsError, ObjectMissingError, RequestError, RunMissingError, SeveralHomesError
from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe
from ray_anystorage.home.store import HomeStore
from ray_anystorage.named_bucket import bucket_recipe
from ray_anystorage.origin import Origin
from ray_anystorage.policy.request import SPILLED, check_name
from ray_anystorage.resolve import Survey, survey
from ray_anystorage.settings import DEFAULT_CALL_TIMEOUT, Settings, read_settings
from ray_anystorage.transfer.open_store import BucketRecipe, MountRecipe, StoreRecipe
from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe, build
from ray_anystorage.transfer.store import Store

_STATE_FILES = ("checkpoint_manager_snapshot.json", "tuner.pkl")


@dataclass(frozen=True, slots=True)
class Run:
    """A run that exists.

    Attributes
    ----------
    name, uri
        Its name, and the path or URI of its home.
    tier
        Of the home; ``"local"`` for a path that lies in none of this process's tiers.
    home
        How to open the home.
    spill
        The run's own folder in the bucket, which need not hold anything; ``None`` for a home in a bucket, for one that
        never spilled, and where this process cannot reach a bucket.
    former
        Folders in the bucket that the home came with from where it was before: perhaps another run's.
    call_timeout
        Seconds that a call on a mount may take.
    obstacle
        Why the bucket of this process's settings cannot be looked at, or ``None``.
    """

    name: str
    uri: str
    tier: Tier
    home: StoreRecipe
    spill: BucketRecipe | None
    call_timeout: float = DEFAULT_CALL_TIMEOUT
    obstacle: str | None = None
    former: tuple[BucketRecipe, ...] = ()

    @classmethod
    def on_mount(cls, path: str, tier: Tier, settings: Settings) -> Run:
        """The run whose home is this folder, which has its name; nothing is known of what it spilled."""
        return cls(os.path.basename(path), path, tier, MountRecipe(path), None, settings.call_timeout)

    @property
    def filesystem(self) -> HomeRecipe | FileSystemRecipe:
        """How to build the pyarrow file system of the home."""
        if isinstance(self.home, BucketRecipe):
            return FileSystemRecipe(self.home.address, self.home.env_vars)
        return HomeRecipe(self.tier, os.path.dirname(self.home.root), self.home.root, (), self.call_timeout)

    @property
    def fs_path(self) -> str:
        """The home as its file system takes it."""
        return self.home.address.path if isinstance(self.home, BucketRecipe) else self.home.root

    def build_filesystem(self) -> Any:
        """The ``pyarrow.fs.FileSystem`` of the home, for who asks Ray to read it."""
        recipe = self.filesystem
        return HomeFileSystem(recipe) if isinstance(recipe, HomeRecipe) else build(recipe)

    def open_home(self) -> Store:
        """The home as a store; on a mount, its calls are bounded in time."""
        recipe = self.filesystem
        return HomeStore(HomeFileSystem(recipe)) if isinstance(recipe, HomeRecipe) else self.home.open()

    def open_spill(self) -> Store | None:
        """The folder in the bucket as a store, or ``None`` where there is none."""
        return self.spill.open() if self.spill is not None else None

    def origin(self, checkpoint: str) -> Origin:
        """Where one of its checkpoints comes from."""
        return Origin(self.home, self.spill or next(iter(self.former), None), checkpoint)


def find_run(run: str, *, credentials: Credentials | None = None, artifact_storage: str | None = None) -> Run:
    """Find a run that exists.

    Parameters
    ----------
    run
        Its name, looked for in every tier; or the absolute path or URI of its home.
    credentials
        Mode for the bucket. Where ``None``: ``RAY_ANYSTORAGE_CREDENTIALS``, else the safest that works here.
    artifact_storage
        The bucket folder, where it is another than the environment's.

    Raises
    ------
    RunMissingError
        There is none; says where it was looked for. Also a ``ValueError`` and a ``LookupError``.
    SeveralHomesError
        Runs of the name exist in more than one tier.
    RequestError
        The argument cannot be meant, or names a checkpoint.
    CredentialsError, StorageError
        The place that was named cannot be read.
    """
    roots: dict[Tier, str | None] = {"artifact": artifact_storage}
    settings = read_settings(roots=roots)
    artifact, obstacle = artifact_folder(settings, credentials)
    path = os.path.expanduser(run.removeprefix("file://"))
    if os.path.isabs(path):
        found = _at_path(os.path.normpath(path), settings)
    elif "://" in run:
        found = _at_uri(run, credentials)
    else:
        if "/" in run:
            raise RequestError(f"run {run!r}: expected a name, an absolute path, or the URI of a run home")
        found = _named(check_name(run), settings, surveyed(run, artifact, credentials, roots))
    return with_spill(found, artifact, obstacle)


def artifact_folder(settings: Settings, credentials: Credentials | None) -> tuple[BucketRecipe | None, str | None]:
    """The bucket of this process's settings, or why it cannot be reached; nothing of either where there is none."""
    location = next((location for location in settings.locations if location.tier == "artifact"), None)
    if location is None:
        return None, None
    try:
        return bucket_recipe(location.root, credentials=credentials, what=location.source, settings=settings), None
    except CredentialsError as error:
        return None, error.message.splitlines()[0]


def surveyed(
    name: str | None, artifact: BucketRecipe | None, credentials: Credentials | None, roots: Mapping[Tier, str | None]
) -> Survey:
    """Look at every tier, at the bucket in the mode that :func:`artifact_folder` opened it in; raises as ``survey``."""
    mode = artifact.mode if artifact and not callable(credentials) else credentials
    return survey(name, credentials=mode, roots=roots)


def _named(name: str, settings: Settings, found: Survey) -> Run:
    homes = [home for home in found.environment.homes if home.is_run]
    if len(homes) > 1:
        listed = " and ".join(f"{home.path} ({home.tier} storage)" for home in homes)
        raise SeveralHomesError(f"run {name!r} exists in more than one place: {listed}. Say which by its path or URI.")
    if not homes:
        raise RunMissingError(
            f"there is no run {name!r}. Looked for it here:\n"
            + "\n".join(f"  {line}" for line in _looked_for(name, found))
            + "\nOne that has not saved anything yet is found by the path or URI of its home."
        )
    home = homes[0]
    if home.tier != "artifact":
        return Run.on_mount(home.path, home.tier, settings)
    place, grant = found.environment.place("artifact"), found.grant
    if place is None or place.bucket is None or grant is None:
        raise AssertionError("a home in a bucket was found without a bucket")
    recipe = BucketRecipe(place.bucket, grant.mode, grant.source, grant.env_vars).child(name)
    return Run(name, home.path, home.tier, recipe, None)


def _looked_for(name: str, found: Survey) -> Iterator[str]:
    other = {home.tier: home for home in found.environment.homes if not home.is_run}
    for place in found.environment.places:
        if place.state == "absent":
            yield f"{place.tier}: {place.root or 'not set'} ({place.description})"
        elif place.tier == "artifact" and found.environment.bucket_obstacle:
            yield f"{place.tier}: {place.root} was not searched: {found.environment.bucket_obstacle}"
        elif place.tier in found.environment.unsearched and place.problem is not None:
            yield f"{place.tier}: {place.root} was not searched: {place.problem.reason}"
        else:
            yield f"{place.tier}: {place.root}/{name}{_remark(other.get(place.tier))}"


def _remark(other: RunHome | None) -> str:
    return ", which holds something that no run wrote" if other else ""


def _at_path(path: str, settings: Settings) -> Run:
    inside = [loc for loc in settings.locations if loc.tier != "artifact" and path.startswith(f"{loc.root}/")]
    tier = max(inside, key=lambda location: len(location.root)).tier if inside else "local"
    return _checked(Run.on_mount(path, tier, settings))


def _at_uri(uri: str, credentials: Credentials | None) -> Run:
    recipe = bucket_recipe(uri, credentials=credentials, what="run")
    name = recipe.address.prefix.rpartition("/")[2]
    if not name:
        raise RequestError(f"run {uri!r} names a bucket: expected the folder of a run in it")
    return _checked(Run(name, recipe.uri, "artifact", recipe, None))


def _checked(run: Run) -> Run:
    """The run, if what was named is the home of one."""
    home = run.open_home()
    own = names_below(home, FOLDER)
    if RECORD in own or any(mark_attempt(name) for name in own):
        raise RequestError(f"{run.uri} is a checkpoint: expected the home of a run, which is the folder above")
    if not own and not any(_exists(home, name) for name in _STATE_FILES):
        lacking = " nor ".join((f"{FOLDER}/", *_STATE_FILES))
        raise RunMissingError(f"there is no run at {run.uri}: it has neither {lacking}")
    return run


def _exists(home: Store, name: str) -> bool:
    try:
        patiently(lambda: home.size(name))
    except ObjectMissingError:
        return False
    return True


def with_spill(run: Run, artifact: BucketRecipe | None, obstacle: str | None) -> Run:
    """The run, with its own folders in the bucket that :func:`artifact_folder` found."""
    if run.tier == "artifact" or (artifact is None and obstacle is None):
        return run
    if artifact is None:
        return replace(run, obstacle=obstacle)
    known, folder = spills_of(run.open_home()), artifact.child(SPILLED)
    own = folder.child(known.own) if known.own is not None else None
    return replace(run, spill=own, former=tuple(folder.child(name) for name in known.former))
