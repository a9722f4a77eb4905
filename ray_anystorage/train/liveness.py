"""Whether the controller of a run is alive, as far as this cluster knows."""

from __future__ import annotations

import time

import ray

from ray_anystorage.train.hooks import actors

_DYING = 3.0  # seconds that the cluster may take to learn that a process ended
_LOOK_EVERY = 0.1  # seconds


def own_process() -> str:
    """This actor as its cluster knows it; empty outside of an actor.

    The id of an actor may come again in another cluster; that of its node does not.
    """
    if not ray.is_initialized():
        return ""
    context = ray.get_runtime_context()
    actor = context.get_actor_id()
    return f"{context.get_node_id()}/{actor}" if actor else ""


def is_alive(process: str) -> bool:
    """Whether an actor, as :func:`own_process` names it, is one of this cluster's and stays alive when it is looked at.

    One that was killed just now is waited for: the cluster learns of that a little later.
    """
    node, _, actor = process.partition("/")
    if not ray.is_initialized() or node not in {known["NodeID"] for known in ray.nodes()}:
        return False
    deadline = time.monotonic() + _DYING
    while _state(actor) not in ("DEAD", None):
        if time.monotonic() > deadline:
            return True
        time.sleep(_LOOK_EVERY)
    return False


def _state(actor: str) -> str | None:
    """Ray's word for the state of an actor; ``None`` where the cluster does not know it."""
    state: str | None = actors(actor).get("State")
    return state
