"""A broker: one source of credentials, asked by this process alone and served to all others of the job."""

from __future__ import annotations

import atexit
import logging
import secrets
import threading
import time
from collections.abc import Callable, Hashable, Mapping

from ray_anystorage.credentials.agent import Agent
from ray_anystorage.credentials.agent_address import address_in, new_address
from ray_anystorage.credentials.lease import Kind, Lease
from ray_anystorage.credentials.memory_folder import memory_root
from ray_anystorage.credentials.providers import Provider, renew_in
from ray_anystorage.errors import CredentialsError

logger = logging.getLogger(__name__)

Take = Callable[[Lease], None]
_LONGEST_WAIT = 30.0  # seconds between two questions to a source that fails


class Broker:
    """Keeps the lease of one source fresh, and hands it to who asked for that.

    Attributes
    ----------
    provider
        The source.
    address, token
        Where its agents are found on every node, and what they want to be shown.
    """

    def __init__(self, provider: Provider, kind: Kind = "aws") -> None:
        self.provider, self._kind = provider, kind
        self.token = secrets.token_urlsafe(32)
        self.address, self._port = new_address(memory_root())
        self._lock = threading.RLock()
        self._lease: Lease | None = None
        self._due, self._failures = 0.0, 0
        self._takers: list[Take] = []
        self._agent: Agent | None = None

    def lease(self) -> Lease:
        """The lease, asked for anew where it is time to.

        Raises
        ------
        CredentialsError
            The source gives none, and what it gave before has expired.
        """
        with self._lock:
            if self._lease is not None and time.time() < self._due:
                return self._lease
            return self._renewed()

    def hand_to(self, take: Take) -> Callable[[], None]:
        """Call ``take`` with the lease, now and whenever there is another, until what is returned is called."""
        with self._lock:
            take(self.lease())
            self._takers.append(take)
        return lambda: self._takers.remove(take)

    def serve_here(self) -> None:
        """Run this node's agent in this process until it ends, and keep the lease fresh; once, however often called.

        Raises
        ------
        CredentialsError
            The source gives nothing, or this node has no place for the agent.
        """
        with self._lock:
            if self._agent is not None:
                return
            self.lease()  # before anything is there that would have to be removed
            agent = Agent(self.address, self.token, self._port)
            self._agent = agent
            atexit.register(agent.close)
            self.hand_to(agent.take)
            agent.start()
            threading.Thread(target=self._keep, name="anystorage-broker", daemon=True).start()

    @property
    def serves_here(self) -> bool:
        """Whether this node's agent runs in this process."""
        return self._agent is not None

    def _keep(self) -> None:
        while True:
            time.sleep(max(0.05, self._due - time.time()))
            try:
                self.lease()
            except CredentialsError:  # a warning was logged
                continue

    def _renewed(self) -> Lease:
        try:
            lease = self.provider.lease()
            if lease.kind != self._kind:
                raise CredentialsError(
                    f"{self.provider.description} gives {lease.kind} credentials, not {self._kind} ones"
                )
        except CredentialsError as error:
            return self._failed(error)
        self._failures, self._due = 0, time.time() + renew_in(lease)
        known, self._lease = self._lease, lease
        if known is None or known.to_message() != lease.to_message():
            for take in list(self._takers):
                take(lease)
        return lease

    def _failed(self, error: CredentialsError) -> Lease:
        """Go on with what there is for as long as it holds, and ask again soon."""
        self._failures += 1
        wait = min(_LONGEST_WAIT, 2.0 ** (self._failures - 1))
        self._due = time.time() + wait
        known = self._lease
        if known is None:
            raise error
        said = known.values.redact(error.message.splitlines()[0])
        left = known.seconds_left()
        logger.warning(
            "the credentials of this job's runs could not be renewed: %s; they %s, the next try is in %.0f s",
            said,
            f"hold for another {left:.0f} s" if left > 0 else "have expired",
            wait,
        )
        if left <= 0:
            raise error
        return known


_brokers: dict[Hashable, Broker] = {}
_lock = threading.Lock()


def broker_of(provider: Provider, kind: Kind = "aws") -> Broker:
    """This process's broker of a source: one, however many runs it serves."""
    with _lock:
        known = _brokers.get(provider.identity)
        if known is None:
            known = _brokers[provider.identity] = Broker(provider, kind)
        return known


def own_broker(variables: Mapping[str, str]) -> Broker | None:
    """The broker of this process that variables lead to; ``None`` where it is another's, or there is none."""
    address = address_in(variables)
    return next((broker for broker in list(_brokers.values()) if broker.address == address), None)


def without_gone(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables, less those that would lead this driver's process to the agents of an earlier driver's broker.

    A file that an earlier driver wrote names them, as Ray Tune's state does.
    """
    address = address_in(variables)
    if address is None or not _brokers or own_broker(variables) is not None or address.serves():
        return dict(variables)
    gone = address.variables("aws").keys() | address.variables("google").keys()
    return {name: value for name, value in variables.items() if name not in gone}


def serve_own(variables: Mapping[str, str]) -> None:
    """Where variables lead to a broker of this process: have its agent run, for the clients that know no other way.

    Raises
    ------
    CredentialsError
        The source gives nothing, or this node has no place for the agent.
    """
    broker = own_broker(variables)
    if broker is not None:
        broker.serve_here()
