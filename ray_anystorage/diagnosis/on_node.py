"""What a node of a cluster does when it is asked: looks at all tiers, leaves its word on mounts, looks for others'.

The asking process calls these functions by name and hands them plain values, so that a node where this package is
missing, or another version, can say so.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ray_anystorage.credentials.grant import carried
from ray_anystorage.diagnosis.node import doctor
from ray_anystorage.discovery.discover import discover
from ray_anystorage.discovery.probe import PROBE_PREFIX, bounded
from ray_anystorage.environment import NFS_TIERS, Environment, Problem, Tier
from ray_anystorage.errors import BucketCredentialsError
from ray_anystorage.settings import read_settings

T = TypeVar("T")
_TIMEOUT = 5.0  # seconds that a mount may take


def examine(order: dict[str, Any]) -> bytes:
    """Look at every tier, as the doctor does; leave this node's word on each mount first.

    Parameters
    ----------
    order
        ``token`` of the whole examination, ``node`` (this one's id), ``nodes`` (their number), ``grant`` (mode, source
        and harmless variables of the bucket's, or ``None``), ``credentials`` (the same in a phrase) and
        ``no_credentials`` (the texts of the problem where there is no grant).

    Returns
    -------
    bytes
        The pickled :class:`ray_anystorage.diagnosis.report.Report`: only the same version can make sense of it.
    """
    found = discover(nodes=order["nodes"])
    environment = Environment(
        found.places,
        found.nodes,
        threshold=found.threshold,
        credentials=order["credentials"],
        no_credentials=Problem(BucketCredentialsError, **said) if (said := order.get("no_credentials")) else None,
    )
    usable = {place.tier for place in found.places if place.usable}
    folders = {tier: folder for tier, folder in _folders(order).items() if tier in usable}
    _on_mounts(folders, lambda folder, over: _leave_word(folder, order["node"], over))
    grant = carried(*order["grant"]) if order["grant"] else None
    return pickle.dumps(doctor(environment, grant))


def read_words(order: dict[str, Any]) -> dict[str, list[str]]:
    """The ids of the nodes whose words are on this node's mounts, by tier, where this node left its own."""
    found = _on_mounts(_folders(order), lambda folder, _: os.listdir(folder))
    return {tier: sorted(names) for tier, names in found.items() if order["node"] in names}


def remove_words(order: dict[str, Any]) -> None:
    """Remove all words from this node's mounts, also those of nodes that are gone."""
    _on_mounts(_folders(order), lambda folder, _: shutil.rmtree(folder, ignore_errors=True))


def _folders(order: dict[str, Any]) -> dict[Tier, str]:
    roots = {location.tier: location.root for location in read_settings().locations}
    return {tier: os.path.join(roots[tier], f"{PROBE_PREFIX}{order['token']}") for tier in NFS_TIERS if tier in roots}


def _leave_word(folder: str, node: str, over: threading.Event) -> None:
    os.makedirs(folder, mode=0o777, exist_ok=True)
    with open(os.path.join(folder, node), "wb") as file:
        os.fsync(file.fileno())
    if over.is_set():  # nobody waits for it any more, nor looks for what it left
        shutil.rmtree(folder, ignore_errors=True)


def _on_mounts(folders: dict[Tier, str], action: Callable[[str, threading.Event], T]) -> dict[Tier, T]:
    """Do something on every mount at once; those where it fails are left out, and the doctor tells why."""
    over = threading.Event()

    def attempt(tier: Tier) -> list[tuple[Tier, T]]:
        folder = folders[tier]
        with contextlib.suppress(OSError):  # TimeoutError is one
            return [(tier, bounded(lambda: action(folder, over), _TIMEOUT, what=f"look for nodes in {folder}"))]
        return []

    with ThreadPoolExecutor(max(1, len(folders))) as pool:
        done: Iterable[list[tuple[Tier, T]]] = list(pool.map(attempt, folders))
    over.set()
    return dict(pair for pairs in done for pair in pairs)
