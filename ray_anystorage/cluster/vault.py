"""The actors that carry a broker's lease from the driver to the nodes: one vault, and an agent on each node.

Secrets travel as arguments and results of calls alone, which Ray keeps nowhere; what an actor is made with is kept in
the cluster's table of actors. Both end with the driver: the vault is the driver's, the agents are the vault's.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_anystorage.credentials.agent import Agent, is_ours
from ray_anystorage.credentials.agent_address import AgentAddress
from ray_anystorage.credentials.lease import Lease

NAMESPACE = "anystorage"
_LOOK_EVERY = 1.0  # seconds between two looks at which nodes there are, or at a port that is another process's
_ASKING = 8  # who asks one agent at once whether it serves; each takes a thread

Message = tuple[int, str, dict[str, Any]]  # version, token, lease


def vault_name(broker: str) -> str:
    """What the vault of a broker is called in :data:`NAMESPACE`."""
    return f"anystorage-vault-{broker}"


def on_node(node_id: str) -> dict[str, Any]:
    """Options of an actor that runs on this node or nowhere, and takes nothing from what user code asks for."""
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}


class Vault:
    """Holds the lease, and sees that every node has an agent.

    Parameters
    ----------
    served
        The node whose agent runs in the driver; empty for none.
    """

    def __init__(self, address: AgentAddress, served: str) -> None:
        self._address, self._served = address, served
        self._message: Message | None = None
        self._changed = asyncio.Condition()
        self._agents: dict[str, Any] = {}
        self._watch: asyncio.Task[None] | None = None

    async def put(self, token: str, lease: dict[str, Any]) -> None:
        """Take another lease; the first one starts the agents."""
        async with self._changed:
            version = self._message[0] + 1 if self._message else 1
            self._message = (version, token, lease)
            self._changed.notify_all()
        if self._watch is None or self._watch.done():  # the second where Ray did not answer it
            self._watch = asyncio.create_task(self._watch_nodes())

    async def after(self, known: int) -> Message:
        """The lease, as soon as there is a later one than the caller knows."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._message is not None and self._message[0] > known)
        assert self._message is not None  # noqa: S101 - for the type checker: it was waited for
        return self._message

    async def agent_on(self, node_id: str) -> None:
        """Return when this node's agent serves; raises what keeps it from that."""
        await self.after(0)
        if node_id != self._served:
            await self._agent(node_id).serving.remote()

    async def until_it_ends(self) -> None:
        """Never return: the caller learns of the end."""
        await asyncio.Event().wait()

    async def _watch_nodes(self) -> None:
        while True:
            alive = {node["NodeID"] for node in await asyncio.to_thread(ray.nodes) if node["Alive"]}
            for gone in self._agents.keys() - alive:
                del self._agents[gone]
            for node_id in alive - {self._served}:
                self._agent(node_id)
            await asyncio.sleep(_LOOK_EVERY)

    def _agent(self, node_id: str) -> Any:
        if node_id not in self._agents:
            options = {**on_node(node_id), "max_restarts": -1, "max_task_retries": -1, "max_concurrency": _ASKING}
            self._agents[node_id] = ray.remote(NodeAgent).options(**options).remote(self._address)
        return self._agents[node_id]


class NodeAgent:
    """One node's agent, which follows the vault; where its process is killed, Ray starts another."""

    def __init__(self, address: AgentAddress) -> None:
        self._address = address
        self._agent: Agent | None = None
        self._problem: Exception | None = None
        self._told = threading.Event()
        threading.Thread(target=self._follow, name="anystorage-follow", daemon=True).start()

    def serving(self) -> None:
        """Return when this node has an agent; raises what keeps it from that."""
        self._told.wait()
        if self._problem is not None:
            raise self._problem

    def _follow(self) -> None:
        vault = ray.get_actor(vault_name(self._address.broker), namespace=NAMESPACE)
        known = 0
        while True:
            try:
                latest, token, lease = ray.get(vault.after.remote(known))
            except ray.exceptions.ActorUnavailableError:  # for now; the agent goes on with what it has
                time.sleep(_LOOK_EVERY)
                continue
            except ray.exceptions.RayActorError:  # the vault has ended, and this process with it
                return
            if self._gives(token, Lease.from_message(lease)):
                known = latest
            else:
                known = 0
                time.sleep(_LOOK_EVERY)

    def _gives(self, token: str, lease: Lease) -> bool:
        """Have the agent give the lease; ``False`` where this process has none, or it cannot for now."""
        try:
            if self._agent is None:
                agent = Agent(self._address, token)
                agent.start(lease)
                self._agent = agent
            else:
                self._agent.take(lease)
        except Exception as error:  # noqa: BLE001 - who waits for the agent is told, whatever it is
            # Ray nodes that share a host share its agent as well. Frames would keep the lease.
            shared = self._agent is None and is_ours(self._address)
            self._problem = None if shared else error.with_traceback(None)
            return False
        else:
            self._problem = None
            return True
        finally:
            self._told.set()
