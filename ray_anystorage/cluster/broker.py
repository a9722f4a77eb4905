"""A broker and its cluster: the driver's process feeds the vault, any other sees that its node has an agent."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray.util.client import ray as client

from ray_anystorage.cluster.vault import NAMESPACE, Vault, on_node, vault_name
from ray_anystorage.credentials.agent_address import address_in
from ray_anystorage.credentials.broker import Broker, own_broker
from ray_anystorage.credentials.lease import Lease
from ray_anystorage.errors import CredentialsAgentError, CredentialsError

logger = logging.getLogger(__name__)

_LOOK_EVERY = 0.5  # seconds between two looks at whether this process is still connected
_VAULT_LOOK_EVERY = 0.05
_VAULT_CALLS = 10_000  # at once: each node's agent waits in one
_AFTER_SURPRISE = 10.0
# Seconds; a worker process may have to be started on a busy node. Less than the preflight gives a node to answer in, so
# that what it says is this.
_AGENT_WITHIN = 40.0


class _Feeder:
    """Keeps a vault fed for as long as somebody needs it, in a thread: also over a new connection to a cluster."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._needed, self._running = 0, False
        self._lock = threading.Lock()
        self._changed = threading.Event()

    def hold(self) -> None:
        """Need it; the vault starts as soon as this process is connected."""
        self._broker.serve_here()
        with self._lock:
            self._needed += 1
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="anystorage-feeder", daemon=True).start()

    def release(self) -> None:
        """Need it no more; who is the last ends the vault."""
        with self._lock:
            self._needed -= 1
        self._changed.set()

    def _run(self) -> None:
        while self._goes_on():
            pause = _LOOK_EVERY
            if ray.is_initialized():
                try:
                    self._feed()
                except CredentialsError:
                    pass  # it was logged where it was raised, and is tried again
                except (ray.exceptions.RayError, ValueError) as error:  # ValueError: the last one still has the name
                    logger.debug("the vault could not be started, which is tried again: %s", error)
                except Exception as error:  # noqa: BLE001 - without this thread all nodes would run out of credentials
                    said = "the nodes' agents were not given credentials, which is tried again: %s"
                    logger.error(said, type(error).__name__)
                    pause = _AFTER_SURPRISE
            self._changed.wait(pause)
            self._changed.clear()

    def _goes_on(self) -> bool:
        """Whether somebody needs it; where not, the thread ends, and who needs it later starts another."""
        with self._lock:
            self._running = self._needed > 0
            return self._running

    def _feed(self) -> None:
        """Make a vault and feed it until it ends, nobody needs it, or the connection ends."""
        self._broker.lease()  # before anything is there that would have to be removed
        node = ray.get_runtime_context().get_node_id()
        served = "" if client.is_connected() else node  # through Ray's client, the node is not this process's
        address = self._broker.address
        options = {"name": vault_name(address.broker), "namespace": NAMESPACE, "max_concurrency": _VAULT_CALLS}
        vault = ray.remote(Vault).options(**on_node(node), **options).remote(address, served)
        ended = threading.Event()

        def end(_: object) -> None:
            ended.set()
            self._changed.set()

        try:
            vault.until_it_ends.remote().future().add_done_callback(end)
            stop = self._broker.hand_to(lambda lease: self._put(vault, lease))
            try:
                while self._needed > 0 and not ended.is_set() and ray.is_initialized():
                    self._changed.wait(_LOOK_EVERY)
                    self._changed.clear()
            finally:
                stop()
        finally:  # one that is left would keep its name, so that no other could be made
            if ray.is_initialized():  # also where it is said to have ended: it may only be out of reach
                ray.kill(vault)

    def _put(self, vault: Any, lease: Lease) -> None:
        if ray.is_initialized():  # or the call would start a cluster of its own
            vault.put.remote(self._broker.token, lease.to_message())


_feeders: dict[str, _Feeder] = {}
_lock = threading.Lock()


def _feeder_of(env_vars: Mapping[str, str]) -> _Feeder | None:
    broker = own_broker(env_vars)
    if broker is None:
        return None
    with _lock:
        return _feeders.setdefault(broker.address.broker, _Feeder(broker))


@contextlib.contextmanager
def feeding(env_vars: Mapping[str, str]) -> Iterator[None]:
    """Feed the agents of all nodes meanwhile, where variables lead to a broker of this process; else do nothing.

    Raises
    ------
    CredentialsError
        The source gives nothing, or this node has no place for the agent.
    """
    feeder = _feeder_of(env_vars)
    if feeder is None:
        yield
        return
    feeder.hold()
    try:
        yield
    finally:
        feeder.release()


def feed_from_now_on(env_vars: Mapping[str, str]) -> None:
    """The same until this process ends, beginning once it is connected to a cluster; raises as :func:`feeding` does."""
    feeder = _feeder_of(env_vars)
    if feeder is not None:
        feeder.hold()


def await_agents(env_vars: Mapping[str, str], timeout: float) -> None:
    """Give the agents of all nodes time to start, within :func:`feeding`: for who asks the nodes from outside of a run.

    A node whose agent does not serve after ``timeout`` seconds says so itself, when it uses the bucket.
    """
    if own_broker(env_vars) is None:
        return
    address, deadline = address_in(env_vars), time.monotonic() + timeout
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    while address is not None and time.monotonic() < deadline:
        try:
            vault = ray.get_actor(vault_name(address.broker), namespace=NAMESPACE)
        except ValueError:  # Ray's for a name that there is not, or not yet
            time.sleep(_VAULT_LOOK_EVERY)
            continue
        left = max(0.0, deadline - time.monotonic())
        ray.wait([vault.agent_on.remote(node) for node in nodes], num_returns=len(nodes), timeout=left)
        return


def ensure_agent(env_vars: Mapping[str, str]) -> None:
    """Return when this node has the agent that variables lead to, if they lead to one; for a process of a run.

    Raises
    ------
    CredentialsAgentError
        It cannot be had here; names what is in the way.
    """
    address = address_in(env_vars)
    if address is None or own_broker(env_vars) is not None or address.serves():
        return
    context = ray.get_runtime_context()
    node = f"node {ray.util.get_node_ip_address()} ({context.get_node_id()[:8]})"
    try:
        vault = ray.get_actor(vault_name(address.broker), namespace=NAMESPACE)
        ray.get(vault.agent_on.remote(context.get_node_id()), timeout=_AGENT_WITHIN)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, CredentialsError):
            raise error.cause from error
        raise
    except ray.exceptions.ActorUnavailableError as error:
        raise CredentialsAgentError(
            f"{node} does not reach the broker that gives this run its credentials for now: look at the network "
            "between it and the driver's node (ray status)"
        ) from error
    except (ValueError, ray.exceptions.RayActorError) as error:  # the first is Ray's for a name that there is not
        raise CredentialsAgentError(
            f"{node}: the broker that gives this run its credentials is gone: it ends with the driver that started it"
        ) from error
    except ray.exceptions.GetTimeoutError as error:
        raise CredentialsAgentError(
            f"{node} has no agent for this run's credentials after {_AGENT_WITHIN:g} s: look at the node (ray status)"
        ) from error
    status, said = address.ask()
    if not 200 <= status < 300:
        raise CredentialsAgentError(f"{node}: the agent gives no credentials: {said}")
