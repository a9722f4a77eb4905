"""A broker: one source of credentials, asked by this process alone and served to all others of the job."""

from __future__ import annotations

import atexit
import logging
import math
import secrets
import socket
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import get_args

from ray_anystorage.credentials.agent import Agent
from ray_anystorage.credentials.agent_address import address_in, new_address
from ray_anystorage.credentials.lease import Kind, Lease
from ray_anystorage.credentials.memory_folder import memory_root
from ray_anystorage.credentials.providers import Provider, renew_in
from ray_anystorage.errors import CredentialsError

logger = logging.getLogger(__name__)

Take = Callable[[Lease], None]
_SOONEST = 0.05  # seconds between two looks at whether it is time to ask
_LONGEST_WAIT = 30.0  # seconds between two questions to a source that fails
_ANSWER_WITHIN = 60.0  # seconds that a thread with nothing that holds waits for the answer to another's question


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
        self._held: socket.socket | None  # the port, until the agent has it
        self.address, self._held = new_address(memory_root())
        self._asking = threading.Lock()  # who has it asks the source, however long that takes
        self._lock = threading.Lock()  # the lease and who takes it, which never wait for the source
        self._lease: Lease | None = None
        self._error: CredentialsError | None = None  # why the last question brought nothing
        self._due, self._failures = 0.0, 0
        self._takers: list[Take] = []
        self._behind: list[Take] = []  # takers that could not take the lease
        self._agent: Agent | None = None
        self._ended = threading.Event()  # of the thread that keeps the lease fresh

    def lease(self) -> Lease:
        """The lease, asked for anew where it is time to; while another thread asks, what there is as long as it holds.

        Raises
        ------
        CredentialsError
            The source gives none, or no answer, and what it gave before has expired.
        """
        known = self._holding()
        if known is not None and time.time() < self._due:
            return known
        if self._asking.acquire(timeout=_ANSWER_WITHIN if known is None else 0):
            try:
                return self._asked()
            finally:
                self._asking.release()
        if known is None:
            raise CredentialsError(f"{self.provider.description} has not answered for {_ANSWER_WITHIN:g} s")
        return known

    def hand_to(self, take: Take) -> Callable[[], None]:
        """Call ``take`` with the lease, now and whenever there is another, until what is returned is called."""
        lease = self.lease()
        with self._lock:
            take(self._lease or lease)
            self._takers.append(take)

        def stop() -> None:
            with self._lock:
                self._takers.remove(take)

        return stop

    def serve_here(self) -> None:
        """Run this node's agent in this process, and keep the lease fresh, until :meth:`close` or this process' end.

        Once, however often called.

        Raises
        ------
        CredentialsError
            The source gives nothing, or this node has no place for the agent.
        """
        if self._agent is not None:
            return
        lease = self.lease()  # before anything is there that would have to be removed
        with self._lock:
            if self._agent is None:
                self._agent = self._started(self._lease or lease)

    def close(self) -> None:
        """End this node's agent, and ask the source only where somebody asks; :meth:`serve_here` begins again."""
        with self._lock:
            if self._agent is not None:
                self._ended.set()
                self._takers.remove(self._agent.take)
                atexit.unregister(self._agent.close)
                self._agent.close()
                self._agent = None

    def _started(self, lease: Lease) -> Agent:
        held, self._held = self._held, None
        agent = Agent(self.address, self.token, held)
        agent.start(lease)
        atexit.register(agent.close)
        self._takers.append(agent.take)
        self._ended = threading.Event()
        threading.Thread(target=self._keep, args=[self._ended], name="anystorage-broker", daemon=True).start()
        return agent

    def _keep(self, ended: threading.Event) -> None:
        while not ended.wait(max(_SOONEST, self._due - time.time())):
            try:
                self.lease()
            except CredentialsError:  # a warning was logged
                continue
            except Exception as error:  # noqa: BLE001 - without this thread all clients would run out of credentials
                logger.error("the credentials of this job's runs were not renewed: %s", type(error).__name__)
                ended.wait(_LONGEST_WAIT)

    def _holding(self) -> Lease | None:
        """What there is, where it has not expired."""
        known = self._lease
        return known if known is not None and known.seconds_left() > 0 else None

    def _asked(self) -> Lease:
        """The lease after a question to the source, unless it has only just been asked."""
        if time.time() < self._due:
            known = self._holding()
            if known is not None:
                return known
            if self._lease is not None and self._error is not None:
                raise self._error.with_traceback(None)  # or it would grow with each time that it is raised
        try:
            lease = self._answer()
        except CredentialsError as error:
            return self._failed(error)
        self._failures, self._error, self._due = 0, None, time.time() + renew_in(lease)
        self._hand_on(lease)
        return lease

    def _answer(self) -> Lease:
        description = self.provider.description
        try:
            lease = self.provider.lease()
        except CredentialsError:
            raise
        except Exception as error:  # its words may hold a secret, so they are left to the traceback
            raise CredentialsError(f"{description} failed with {type(error).__name__}") from error
        if lease.kind != self._kind:
            raise CredentialsError(f"{description} gives {lease.kind} credentials, not {self._kind} ones")
        return lease

    def _hand_on(self, lease: Lease) -> None:
        with self._lock:
            known, self._lease = self._lease, lease
            changed = known is None or known.to_message() != lease.to_message()
            behind = [take for take in self._takers if changed or take in self._behind]
            self._behind = [take for take in behind if not _taken(take, lease)]

    def _failed(self, error: CredentialsError) -> Lease:
        """Go on with what there is for as long as it holds, and ask again soon."""
        self._failures, self._error = self._failures + 1, error
        wait = min(_LONGEST_WAIT, 2.0 ** (self._failures - 1))
        self._due = time.time() + wait
        known = self._lease
        if known is None:
            raise error
        said = known.values.redact(error.message.partition("\n")[0])
        left = known.seconds_left()
        logger.warning(
            "the credentials of this job's runs could not be renewed: %s; they %s, the next try is in %.0f s",
            said,
            _remaining(left),
            wait,
        )
        if left <= 0:
            raise error
        return known


def _taken(take: Take, lease: Lease) -> bool:
    """Whether a taker could take the lease: one that cannot is tried again, and keeps it from no other."""
    try:
        take(lease)
    except Exception as error:  # noqa: BLE001 - the other takers come after it
        said = error.message.partition("\n")[0] if isinstance(error, CredentialsError) else type(error).__name__
        logger.warning("renewed credentials could not be handed on, which is tried again: %s", said)
        return False
    return True


def _remaining(left: float) -> str:
    if math.isinf(left):
        return "hold without an end"
    return f"hold for another {left:.0f} s" if left > 0 else "have expired"


_brokers: dict[tuple[Kind, Hashable], Broker] = {}
_lock = threading.Lock()


def broker_of(provider: Provider, kind: Kind = "aws") -> Broker:
    """This process's broker of a source for one kind of store: one, however many runs it serves."""
    key = (kind, provider.identity)
    with _lock:
        known = _brokers.get(key)
        if known is None:
            known = _brokers[key] = Broker(provider, kind)
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
    gone = {name for kind in get_args(Kind) for name in address.variables(kind)}
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
