"""Who removes what a benchmark wrote: its driver, and where that is killed, an actor that outlives it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_anystorage.bench.on_node.cleaning import clean
from ray_anystorage.bench.on_node.order import Order
from ray_anystorage.cluster.vault import NAMESPACE
from ray_anystorage.diagnosis.nodes import NodeName

_WITHIN = 100.0  # seconds for the nodes to remove what was written
Joined = Sequence[tuple[NodeName, Order]]


def on_node(node: NodeName, env_vars: Mapping[str, str]) -> dict[str, Any]:
    """Options of what runs on this node or nowhere."""
    return {
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False),
        "runtime_env": {"env_vars": dict(env_vars)} if env_vars else None,
    }


def clean_up(joined: Joined, env_vars: Mapping[str, str]) -> list[str]:
    """Have every node that is alive remove what was written; what is left, and why."""
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    left = [f"node {node} is gone, with what it had on its own disk" for node, _ in joined if node.id not in alive]
    task = ray.remote(num_cpus=0, max_retries=0)(clean)
    calls = {task.options(**on_node(node, env_vars)).remote(order): node for node, order in joined if node.id in alive}
    done, late = ray.wait(list(calls), num_returns=len(calls), timeout=_WITHIN) if calls else ([], [])
    for reference in done:
        try:
            left += ray.get(reference)
        except ray.exceptions.RayError as error:
            left.append(f"node {calls[reference]}: {type(error).__name__}")
    left += [f"node {calls[reference]} did not answer within {_WITHIN:g} s" for reference in late]
    return sorted(set(left))


class Janitor:
    """An actor that belongs to no driver, and one that belongs to this one, whose end it waits for."""

    def __init__(self, waiting: Any, life: Any) -> None:
        self._waiting, self._life = waiting, life

    @classmethod
    def hired(cls, joined: Joined, env_vars: Mapping[str, str]) -> Janitor:
        """Have the nodes cleaned when this process is gone and did not do so itself."""
        life = ray.remote(num_cpus=0)(_Life).remote()
        options = {"name": f"anystorage-bench-{secrets.token_hex(8)}", "namespace": NAMESPACE, "lifetime": "detached"}
        env = {"runtime_env": {"env_vars": dict(env_vars)}} if env_vars else {}
        waiting = ray.remote(num_cpus=0)(_Waiting).options(**options, **env).remote()
        waiting.wait.remote(life, list(joined))
        return cls(waiting, life)

    def dismiss(self) -> None:
        """All is clean."""
        ray.kill(self._waiting)
        ray.kill(self._life)


class _Life:
    """Ends with the driver that made it."""

    async def until_it_ends(self) -> None:
        """Never returns."""
        await asyncio.Event().wait()


class _Waiting:
    """Waits for the end of another actor, then cleans and ends."""

    def wait(self, life: Any, joined: list[tuple[NodeName, Order]]) -> None:
        """Return when all is clean."""
        try:
            ray.get(life.until_it_ends.remote())
        except ray.exceptions.RayError:  # its end, whatever Ray calls it
            clean_up(joined, {})  # tasks have this actor's environment
        ray.actor.exit_actor()
