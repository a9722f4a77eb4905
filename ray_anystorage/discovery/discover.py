"""Looks at all tiers at once and says what this node has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ray_anystorage.discovery.buckets import look_at_bucket
from ray_anystorage.discovery.mounts import look_at_mount
from ray_anystorage.environment import TIERS, Environment, Location, Place
from ray_anystorage.errors import RequestError
from ray_anystorage.settings import Settings, process_environment, read_settings

_FALLBACK = "ray_results"  # where Ray itself keeps runs when nothing is said


def discover(
    *,
    local_storage: str | None = None,
    cluster_storage: str | None = None,
    user_storage: str | None = None,
    shared_storage: str | None = None,
    artifact_storage: str | None = None,
    timeout: float | None = None,
    nodes: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> Environment:
    """Find the five tiers of storage and say what each really is on this node.

    Every mount is tried by writing, reading and deleting a small file of its own; nothing stays behind. Mounts are
    looked at side by side, each with its own time limit, so that all of it takes about one limit even when several
    hang. No bucket is contacted.

    Parameters
    ----------
    local_storage, cluster_storage, user_storage, shared_storage
        Absolute paths of the tiers' mounts. Where ``None``: ``RAY_ANYSTORAGE_*``, then the platform's default mounts.
    artifact_storage
        URI of the bucket folder. Where ``None``: ``RAY_ANYSTORAGE_ARTIFACT_STORAGE``, ``ANYSCALE_ARTIFACT_STORAGE``.
    timeout
        Seconds for each tier. Where ``None``: ``RAY_ANYSTORAGE_PROBE_TIMEOUT``, then 5.
    nodes
        Alive nodes of the Ray cluster, for the plan; ``None`` when no cluster is connected.
    environ
        The variables to read; this process's where ``None``.

    Returns
    -------
    Environment
        One place per tier. A place that is missing, broken or not answering is in it with its problem: that is no
        error here.

    Raises
    ------
    RequestError
        An argument or setting cannot be meant (``SettingsError`` for a ``RAY_ANYSTORAGE_*`` variable), or the artifact
        folder lies in the part of a bucket that the platform manages.
    """
    environ = process_environment() if environ is None else environ
    settings = read_settings(
        environ,
        roots={
            "local": local_storage,
            "cluster": cluster_storage,
            "user": user_storage,
            "shared": shared_storage,
            "artifact": artifact_storage,
        },
    )
    limit = settings.probe_timeout if timeout is None else timeout
    if not 0 < limit < float("inf"):
        raise RequestError(f"timeout={timeout!r} is not a time in seconds: expected a number above 0")
    fallback = os.path.join(environ.get("HOME") or os.path.expanduser("~"), _FALLBACK)
    return Environment(places=_look(settings, limit, fallback), nodes=nodes, threshold=settings.threshold)


def _look(settings: Settings, limit: float, fallback: str) -> tuple[Place, ...]:
    located = {location.tier: location for location in settings.locations}
    artifact = located.pop("artifact", None)
    bucket = look_at_bucket(artifact, settings) if artifact else _NO_BUCKET  # first: it may refuse what was said
    look = partial(_look_at_mount, limit=limit, fallback=fallback)
    # The pool's threads always end, each look being bounded by itself.
    with ThreadPoolExecutor(max_workers=len(located)) as pool:
        places = {place.tier: place for place in pool.map(look, located.values())}
    return tuple((places | {"artifact": bucket})[tier] for tier in TIERS)


def _look_at_mount(location: Location, limit: float, fallback: str) -> Place:
    return look_at_mount(location, limit, fallback=fallback if location.tier == "local" else None)


_NO_BUCKET = Place(
    Location("artifact", "", "nothing", False),
    "absent",
    description="no bucket: neither RAY_ANYSTORAGE_ARTIFACT_STORAGE nor ANYSCALE_ARTIFACT_STORAGE is set",
)
