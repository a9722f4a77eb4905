"""What one node looks at before user code starts there: the run home, its own disk, the bucket beside the home."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import ray

from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.ownership import owner_of
from ray_anystorage.cluster.broker import ensure_agent
from ray_anystorage.credentials.grant import carried
from ray_anystorage.diagnosis.bucket import PROBE_FOLDER, check_bucket, first_problem
from ray_anystorage.diagnosis.preflight import Findings
from ray_anystorage.discovery.mount_table import describe, read_mount_table
from ray_anystorage.discovery.mounts import measure, problem_of
from ray_anystorage.discovery.probe import bounded, probe_directory
from ray_anystorage.environment import Location, Problem
from ray_anystorage.errors import (
    BucketError,
    EndpointTimeoutError,
    HomeNotVisibleError,
    ManifestError,
    StorageError,
    StoreUnavailableError,
)
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.train.node import enter_node
from ray_anystorage.train.storage_context import visibility_remedy
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.open_store import BucketRecipe, MountRecipe
from ray_anystorage.transfer.retry import Patience, persist
from ray_anystorage.transfer.store import Store

FINDINGS = "preflight"  # the folder in the home's own where nodes leave a file each, for the controller to see
_BUCKET_TIMEOUT = 10.0  # seconds
_EXPLAINED_WITHIN = 4.0  # seconds
_PATIENCE = Patience(give_up_after=4.0)  # for each request: one bad moment of a store is no fault of the node

T = TypeVar("T")
Look = Callable[[threading.Event], Problem | None]  # the event tells it that nobody waits any more


@dataclass(frozen=True, slots=True)
class Needs:
    """What is looked for on a node.

    Attributes
    ----------
    owner
        Of the run home, as the controller wrote it there when it opened it.
    token
        Of this preflight.
    """

    recipe: StorageRecipe
    spill: BucketRecipe | None
    owner: str
    token: str


def check_node(needs: Needs) -> Findings:
    """Look at everything that the run needs of this node, side by side, each within its own time limit."""
    ensure_agent(needs.recipe.bucket_variables)
    node: str = ray.get_runtime_context().get_node_id()
    with ThreadPoolExecutor(3) as pool:  # its threads always end, each look being bounded by itself
        home = pool.submit(_check_home, needs, node)
        spill = pool.submit(_check_spill, needs, node)
        folder, free, local = pool.submit(_check_local, needs).result()
        return Findings(home.result(), local, spill.result(), folder, free)


def unseen(needs: Needs) -> Problem:
    """What a node wrote into the home is not there for the controller."""
    recipe = needs.recipe
    return Problem(
        error_type=HomeNotVisibleError,
        reason="sees the run home, but what it writes there does not arrive",
        tier=recipe.tier,
        place=recipe.home.uri,
        tried=f"looked in the controller for the file that this node wrote to {FOLDER}/{FINDINGS} there",
        remedy=f"{visibility_remedy(recipe)}; look for a write-back cache, an overlay or a replica that lags behind",
    )


def _check_home(needs: Needs, node: str) -> Problem | None:
    home, recipe = needs.recipe.home, needs.recipe
    tried = f"read the file in {home.uri}/{FOLDER} by which the controller holds the run, write one beside it"

    def look(over: threading.Event) -> Problem | None:
        store = home.open()
        if not _is_the_one(store, needs, home):
            return _elsewhere(needs)
        if not over.is_set():
            key = f"{FOLDER}/{FINDINGS}/{needs.token}/{node}"
            _try(lambda: store.write_small(key, needs.token.encode()))
            if over.is_set():  # nobody waits for it any more
                _try(lambda: store.delete([key]))
        return None

    if isinstance(home, BucketRecipe):
        return _on_bucket(home, tried, look)
    location = Location(recipe.tier, recipe.fs_path, "the run's plan", True)
    return _on_mount(location, recipe.probe_timeout, tried, look)


def _is_the_one(store: Store, needs: Needs, home: MountRecipe | BucketRecipe) -> bool:
    """Whether the home that this node sees is the one that the controller opened."""
    try:
        owner = owner_of(store, _try)
        if owner is None and isinstance(home, MountRecipe):
            # An NFS client may remember for a minute that it was not there; a write beside it makes it ask again.
            with contextlib.suppress(OSError):  # to be told in its own words by the look below
                probe_directory(os.path.dirname(home.root))
            os.stat(needs.recipe.fs_path)
            owner = owner_of(store, _try)
    except ManifestError:
        return False
    return owner is not None and owner.token == needs.owner


def _elsewhere(needs: Needs) -> Problem:
    recipe, here = needs.recipe, ""
    if isinstance(recipe.home, MountRecipe):
        nature = describe(os.path.realpath(recipe.fs_path), read_mount_table())
        here = f"; what {recipe.fs_path} is here: {nature.description}"
    return Problem(
        error_type=HomeNotVisibleError,
        reason=f"does not see the run home that the controller made{here}",
        tier=recipe.tier,
        place=recipe.home.uri,
        tried=f"looked for the file in {FOLDER} there by which the controller holds it",
        remedy=visibility_remedy(recipe),
    )


def _check_spill(needs: Needs, node: str) -> Problem | None:
    if needs.spill is None:
        return None
    spill, key = needs.spill, f"{PROBE_FOLDER}/{needs.token}-{node}"
    content, back = needs.token.encode(), bytearray(len(needs.token))
    tried = f"put, get and delete an object below {spill.uri}"

    def look(_over: threading.Event) -> Problem | None:
        store = spill.open()
        _try(lambda: store.write_small(key, content))
        try:
            _try(lambda: store.read_range(key, 0, memoryview(back)))
        finally:
            _try(lambda: store.delete([key]))
        if back == content:
            return None
        reason = "another content came back than was put"
        return Problem(BucketError, reason, "artifact", spill.uri, tried, "do not use this store: ask its owner")

    return _on_bucket(spill, tried, look)


def _check_local(needs: Needs) -> tuple[str, int | None, Problem | None]:
    """This process's folder on the node, the bytes that are free there, and what is wrong with it."""
    folder, timeout = needs.recipe.local_root or tempfile.gettempdir(), needs.recipe.probe_timeout
    tried = f"write a file in {folder}"
    try:
        folder = enter_node(needs.recipe, needs.token).folder
        tried = f"write a file in {folder}"
        bounded(lambda: probe_directory(folder), timeout, what=tried)
        return folder, bounded(lambda: measure(folder), timeout, what=f"measure {folder}").free_bytes, None
    except OSError as error:
        location = Location("local", folder, "this node", True)
        return folder, None, problem_of(location, error, tried=tried, network=False)


def _on_mount(location: Location, timeout: float, tried: str, look: Look) -> Problem | None:
    over = threading.Event()

    def look_or_tell() -> Problem | None:
        try:
            return look(over)
        except StorageError as error:
            return replace(_as_problem(error), tier=location.tier)
        except OSError as error:
            with contextlib.suppress(OSError):
                return problem_of(location, error, tried=tried, space=measure(location.root))
            return problem_of(location, error, tried=tried)

    try:
        return bounded(look_or_tell, timeout, what=tried)
    except TimeoutError as error:
        over.set()
        return problem_of(location, error, tried=f"{tried}, for {timeout:g} s")


def _on_bucket(recipe: BucketRecipe, tried: str, look: Look) -> Problem | None:
    over = threading.Event()
    try:
        return bounded(lambda: look(over), _BUCKET_TIMEOUT, what=tried)
    except StoreUnavailableError as error:  # all that a transfer needs to know; for people another look says more
        grant = carried(recipe.mode, recipe.source, recipe.env_vars)
        return first_problem(check_bucket(recipe.address, grant, timeout=_EXPLAINED_WITHIN)) or _as_problem(error)
    except StorageError as error:
        return _as_problem(error)
    except TimeoutError:
        over.set()
        endpoint = recipe.address.endpoint or "of the provider"
        reason = f"the endpoint ({endpoint}) does not answer within {_BUCKET_TIMEOUT:g} s"
        remedy = "check that a firewall, proxy or security group lets this node reach the endpoint, and that it is up"
        return Problem(EndpointTimeoutError, reason, "artifact", recipe.uri, tried, remedy)


def _try(request: Callable[[], T]) -> T:
    return persist(request, Budget(), Cancel(), _PATIENCE)


def _as_problem(error: StorageError) -> Problem:
    return Problem(type(error), error.reason, "artifact", error.place, error.tried, error.remedy)
