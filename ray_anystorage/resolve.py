"""From a request to a plan that holds: discover, choose credentials, look for earlier runs, decide, check.

Both adapters and the public API go through here; nothing in it knows Ray.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ray_anystorage.credentials.choose import check_mode, choose
from ray_anystorage.credentials.grant import Credentials, Grant
from ray_anystorage.diagnosis.bucket import check_bucket, first_problem
from ray_anystorage.discovery.discover import discover
from ray_anystorage.discovery.homes import can_be_searched, find_bucket_home, find_mount_homes
from ray_anystorage.environment import BucketAddress, Environment, Problem, RunHome, Tier
from ray_anystorage.errors import (
    AnyStorageError,
    BucketCredentialsError,
    CredentialsError,
    NoStorageError,
    StorageError,
    UnsupportedStoreError,
)
from ray_anystorage.policy import Request, StoragePlan, decide
from ray_anystorage.settings import (
    DEFAULT_PROBE_TIMEOUT,
    LOCAL_VARIABLE,
    PREFIX,
    Settings,
    process_environment,
    read_settings,
)
from ray_anystorage.transfer.listing import key_lister
from ray_anystorage.units import sentence

logger = logging.getLogger(__name__)

# Seconds. A run that cannot start says so in under ten, also when a mount hangs and the bucket is silent. Where the
# probe timeout was set to another value, the bucket's limits grow or shrink with it.
_SEARCH_TIMEOUT = 4.5
_CHECK_TIMEOUT = 8.0
_SPILL_CHECK_UNTIL = 8.0  # since the beginning; cleaning up after it may take 1.5 more
_SPILL_CHECK_LEAST = 1.0


@dataclass(frozen=True, slots=True)
class Survey:
    """What was discovered, with the grant for the bucket or the reason why there is none."""

    environment: Environment
    settings: Settings
    name: str | None = None
    grant: Grant | None = None
    obstacle: CredentialsError | StorageError | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A plan, and what it takes to carry it out."""

    name: str
    plan: StoragePlan
    settings: Settings
    local_root: str | None
    artifacts_root: str | None
    grant: Grant | None = field(default=None, repr=False)
    site: tuple[tuple[str, str], ...] = ()

    def worker_env_vars(self) -> dict[str, str]:
        """Every variable that the run's processes get, secrets in the clear: for ``runtime_env`` alone."""
        granted = self.grant.all_env_vars() if self.grant and (self.plan.bucket or self.plan.spill) else {}
        return {**dict(self.site), **granted}


def survey(
    name: str | None = None,
    *,
    credentials: Credentials | None = None,
    nodes: int | None = None,
    roots: Mapping[Tier, str | None] | None = None,
) -> Survey:
    """Discover this node's places, choose credentials for the bucket and look for runs of the name."""
    roots = roots or {}
    environ = process_environment()
    settings = read_settings(environ, roots=roots)
    environment = discover(
        local_storage=roots.get("local"),
        cluster_storage=roots.get("cluster"),
        user_storage=roots.get("user"),
        shared_storage=roots.get("shared"),
        artifact_storage=roots.get("artifact"),
        nodes=nodes,
        environ=environ,
    )
    if name is not None:
        homes = find_mount_homes(name, environment.places, settings.probe_timeout)
        unsearched = tuple(p.tier for p in environment.places if p.problem is not None and not can_be_searched(p))
        environment = replace(environment, homes=homes, unsearched=unsearched)
    mode = credentials or settings.credentials or "auto"
    check_mode(mode, said_by="credentials" if credentials else f"{PREFIX}CREDENTIALS")
    artifact = environment.place("artifact")
    if artifact is None or artifact.bucket is None:
        return Survey(environment, settings, name)
    try:
        grant = choose(mode, artifact.bucket, environ)
    except CredentialsError as error:
        return Survey(_without_credentials(name, environment, error, artifact.bucket), settings, name, None, error)
    return _with_bucket(name, environment, settings, grant, artifact.bucket)


def _with_bucket(
    name: str | None, environment: Environment, settings: Settings, grant: Grant, address: BucketAddress
) -> Survey:
    environment = replace(
        environment,
        env_vars=grant.env_vars,
        secret_names=grant.secrets.names,
        credentials=f"{grant.mode}: {grant.reason}",
    )
    if name is None:
        return Survey(environment, settings, name, grant)
    limit = _scaled(_SEARCH_TIMEOUT, settings)
    try:
        home = find_bucket_home(name, address, key_lister(address, grant, timeout=limit))
    except StorageError as error:
        notes = (*environment.notes, *_not_searched(name, error.reason))
        return Survey(replace(environment, bucket_obstacle=error.reason, notes=notes), settings, name, grant, error)
    found: tuple[RunHome, ...] = (home,) if home else ()
    return Survey(replace(environment, homes=(*environment.homes, *found)), settings, name, grant)


def _without_credentials(
    name: str | None, environment: Environment, error: CredentialsError, address: BucketAddress
) -> Environment:
    said, _, remedy = error.message.partition("\n  what to do: ")
    reason, *tried = (line.strip().replace("looked for: ", "looked for ") for line in said.splitlines())
    problem = Problem(BucketCredentialsError, reason, "artifact", address.uri, "; ".join(tried) or reason, remedy)
    return replace(
        environment,
        credentials=f"none: {reason}",
        no_credentials=problem,
        bucket_obstacle=reason,
        notes=(*environment.notes, *_not_searched(name, reason)),
    )


def _not_searched(name: str | None, reason: str) -> tuple[str, ...]:
    if name is None:
        return ()
    return (f"The bucket was not searched for an earlier run of this name: {reason.rstrip('.')}.",)


def resolve(
    request: Request,
    *,
    credentials: Credentials | None = None,
    nodes: int | None = None,
    roots: Mapping[Tier, str | None] | None = None,
    runtime_env: Mapping[str, Any] | None = None,
) -> Resolved:
    """Make a plan and check that it holds on this node, before anything is started.

    Parameters
    ----------
    request, credentials, nodes, roots
        As in the public functions.
    runtime_env
        The user's own, for the run's processes. What it says against the bucket keeps a run on a mount from using it.

    Raises
    ------
    PlanError, CredentialsError, StorageError
        What stands in the way, with its remedy, in under ten seconds.
    """
    name = request.name or f"ray_train_run-{datetime.now():%Y-%m-%d_%H-%M-%S}"
    started = time.monotonic()
    # A name of our own making has no earlier run, so nothing is searched for it.
    found = survey(request.name, credentials=credentials, nodes=nodes, roots=roots)
    named = replace(request, name=name)
    plan = decide(found.environment, named)
    for note in found.environment.notes:
        logger.warning("run %r: %s", name, note)
    _check_plan(found, plan, forced=request.tier is not None)
    obstacle = _spill_obstacle(found, plan, runtime_env, time.monotonic() - started)
    if obstacle is not None:
        logger.warning("run %r: none of its checkpoints can go to the bucket: %s", name, obstacle)
        found = _with_obstacle(found, obstacle)
        plan = decide(found.environment, named)
    return Resolved(
        name=name,
        plan=plan,
        settings=found.settings,
        local_root=next((place.root for place in found.settings.locations if place.tier == "local"), None),
        artifacts_root=_artifacts_root_or_none(found.environment, plan),
        grant=found.grant,
        site=site_variables(roots or {}),
    )


def _check_plan(found: Survey, plan: StoragePlan, *, forced: bool) -> None:
    """Raise what keeps the plan's bucket from working, or an earlier run from being found in it."""
    if plan.bucket is None:
        obstacle = search_obstacle(found, plan, forced=forced)
        if obstacle is not None:
            raise obstacle
        return
    if found.obstacle is not None:
        raise found.obstacle
    if found.grant is not None:
        limit = _scaled(_CHECK_TIMEOUT, found.settings)
        if problem := first_problem(check_bucket(plan.bucket, found.grant, timeout=limit, step=limit)):
            raise problem.error()


def _spill_obstacle(
    found: Survey, plan: StoragePlan, runtime_env: Mapping[str, Any] | None, elapsed: float
) -> str | None:
    """Why checkpoints cannot be spilled although the plan says so: never a reason not to start the run."""
    if plan.spill is None or found.grant is None:
        return None
    said = (runtime_env or {}).get("env_vars") or {}
    other = sorted(name for name, value in found.grant.all_env_vars().items() if said.get(name, value) != value)
    if other:
        return f"worker_runtime_env says another {' and another '.join(other)} than the bucket needs"
    timeout = max(_SPILL_CHECK_LEAST, _scaled(_SPILL_CHECK_UNTIL, found.settings) - elapsed)
    problem = first_problem(check_bucket(plan.spill, found.grant, timeout=timeout, step=timeout))
    return f"{problem.reason.rstrip('.')}; what to do: {problem.remedy}" if problem else None


def _with_obstacle(found: Survey, obstacle: str) -> Survey:
    return replace(found, environment=replace(found.environment, bucket_obstacle=obstacle))


def search_obstacle(found: Survey, plan: StoragePlan, *, forced: bool) -> AnyStorageError | None:
    """Why a named run that would go elsewhere must not start: the bucket, where it may live already, was not searched.

    ``None`` where it was, where the run was found or forced, and where it has no name or no run can be in the bucket.
    """
    obstacle = found.obstacle
    if obstacle is None or forced or plan.resumes or not found.name or isinstance(obstacle, UnsupportedStoreError):
        return None
    hint = (
        f"The run itself would go to {plan.storage_path}, but one of the same name may be in the bucket. To go on "
        f"without looking there, say tier={plan.tier!r}."
    )
    if not isinstance(obstacle, StorageError):
        return type(obstacle)(f"{obstacle.message}\n  {hint}")
    return type(obstacle)(
        obstacle.reason,
        tier=obstacle.tier,
        place=obstacle.place,
        tried=obstacle.tried,
        remedy=f"{sentence(obstacle.remedy)} {hint}",
    )


def _artifacts_root_or_none(environment: Environment, plan: StoragePlan) -> str | None:
    try:
        return artifacts_root(environment, plan)
    except NoStorageError:
        return None  # the run itself does not need one; artifacts_dir() says so when it is called


def artifacts_root(environment: Environment, plan: StoragePlan | None = None) -> str:
    """Where logs and common files go: cluster storage, else the mount of the run home, else this node's disk.

    Raises
    ------
    NoStorageError
        No directory on this node can be written.
    """
    home = plan.place if plan else None
    local = environment.place("local") if (environment.nodes or 1) == 1 else None
    for place in (environment.place("cluster"), home, environment.place("user"), local):
        if place is not None and place.usable and place.tier != "artifact":
            return place.root
    raise NoStorageError(
        "there is no place for logs and common files: neither cluster, user nor local storage can be written. Set "
        "RAY_ANYSTORAGE_CLUSTER_STORAGE to a directory that every node sees."
    )


def site_variables(roots: Mapping[Tier, str | None]) -> tuple[tuple[str, str], ...]:
    """The site's settings, for processes on other nodes: ``RAY_ANYSTORAGE_*`` of this process and roots given here.

    Where ``local`` storage is stays each node's own matter.
    """
    said = {name: value for name, value in process_environment().items() if name.startswith(PREFIX)}
    said.pop(LOCAL_VARIABLE, None)
    said |= {f"{PREFIX}{tier.upper()}_STORAGE": root for tier, root in roots.items() if root and tier != "local"}
    return tuple(sorted(said.items()))


def _scaled(limit: float, settings: Settings) -> float:
    return limit * settings.probe_timeout / DEFAULT_PROBE_TIMEOUT
