"""The nodes of a benchmark: an actor on each, told what to do, waited for, and cleaned up after."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from ray_anystorage.bench.driver.janitor import Janitor, clean_up, on_node
from ray_anystorage.bench.on_node.node import NodeBench
from ray_anystorage.bench.on_node.order import Order
from ray_anystorage.diagnosis.nodes import NodeName
from ray_anystorage.errors import BenchError, BenchTimeoutError

_LOOK_EVERY = 0.5  # seconds between looks at what the nodes do
_START = 120.0  # seconds that a node may take to join: a worker process may have to install a runtime_env

Look = Callable[[Mapping[str, str]], None]  # is told what each node does


@dataclass(slots=True)
class Member:
    """One node that takes part."""

    name: NodeName
    order: Order
    actor: Any

    def __str__(self) -> str:
        return str(self.name)


class Crew:
    """Calls on all members at once or on one; a call that outlasts its time, or a node that goes, is an error.

    Parameters
    ----------
    env_vars
        Of the members' processes, secrets among them.
    look
        Is told what the nodes do, while something is waited for.
    redact
        Masks secrets in what comes from the nodes.
    """

    def __init__(self, env_vars: Mapping[str, str], look: Look, redact: Callable[[str], str]) -> None:
        self._env_vars, self._look, self._redact = dict(env_vars), look, redact
        self.members: list[Member] = []
        self._joined: list[tuple[NodeName, Order]] = []
        self._janitor: Janitor | None = None

    def join(
        self, nodes: Sequence[NodeName], order: Callable[[NodeName], Order]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Have each node take part; what those say of themselves that do, and why the others do not, by node."""
        self._joined = [(node, order(node)) for node in nodes]
        self._janitor = Janitor.hired(self._joined, self._env_vars)
        self.members = [Member(node, own, self._actor(node, own)) for node, own in self._joined]
        facts: dict[str, dict[str, Any]] = {}
        refused = {str(member): f"it did not answer within {_START:g} s" for member in self.members}
        answers = {member.actor.facts.remote(): member for member in self.members}
        deadline = time.monotonic() + _START
        while answers and (left := deadline - time.monotonic()) > 0:
            ready, _ = ray.wait(list(answers), timeout=min(left, _LOOK_EVERY))
            for reference in ready:
                member = answers.pop(reference)
                try:
                    facts[str(member)] = ray.get(reference)
                    del refused[str(member)]
                except ray.exceptions.RayError as error:
                    refused[str(member)] = self._said(error)
        self._leave([member for member in self.members if str(member) not in facts])
        return facts, refused

    def each(
        self, members: Sequence[Member], method: str, arguments: Sequence[tuple[Any, ...]], within: float
    ) -> list[Any]:
        """Call a method on several members at once, each with arguments of its own; the results in their order.

        Raises
        ------
        BenchError
            One failed, went, or was not done after ``within`` seconds.
        """
        calls = [getattr(member.actor, method).remote(*given) for member, given in zip(members, arguments, strict=True)]
        return self._await(calls, members, method, within)

    def one(self, member: Member, method: str, *arguments: Any, within: float) -> Any:
        """Call a method on one member."""
        return self.each([member], method, [arguments], within)[0]

    def renew(self) -> list[str]:
        """Give every member another process, after one failed in a way that may have left it stuck.

        Those whose nodes are gone leave; they are returned, by name.
        """
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        gone = [member for member in self.members if member.name.id not in alive]
        self._leave(gone)
        for member in self.members:
            ray.kill(member.actor)
            member.actor = self._actor(member.name, member.order)
        return [str(member) for member in gone]

    def end(self) -> list[str]:
        """End the members and remove all that they wrote; what is left, and why."""
        self._leave(self.members)
        left = clean_up(self._joined, self._env_vars)
        self._joined = []
        if self._janitor is not None:
            self._janitor.dismiss()
        return left

    def _leave(self, members: Sequence[Member]) -> None:
        leaving = list(members)
        self.members = [member for member in self.members if member not in leaving]
        for member in leaving:
            ray.kill(member.actor)

    def _actor(self, node: NodeName, order: Order) -> Any:
        remote = ray.remote(num_cpus=0, max_concurrency=2)(NodeBench)
        return remote.options(
            name=f"ray-anystorage bench {order.id} {node.id}", **on_node(node, self._env_vars)
        ).remote(order)

    def _await(self, calls: list[Any], members: Sequence[Member], what: str, within: float) -> list[Any]:
        deadline, waiting = time.monotonic() + within, list(calls)
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_LOOK_EVERY)
            with self._failures():
                ray.get(ready)  # a failure ends the wait for the others
            if waiting:
                self._look(self._doing(members))
                if time.monotonic() > deadline:
                    raise BenchTimeoutError(f"{what} was not done after {within:.0f} s")
        with self._failures():
            results: list[Any] = ray.get(list(calls))
        return results

    def _doing(self, members: Sequence[Member]) -> dict[str, str]:
        calls = {member.actor.doing.remote(): member for member in members}
        ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_LOOK_EVERY)
        said = {}
        for reference in ready:
            with contextlib.suppress(ray.exceptions.RayError):  # it is only for the eye
                doing, seconds = ray.get(reference)
                said[str(calls[reference])] = f"{doing} ({seconds:.0f} s)"
        return said

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except ray.exceptions.RayError as error:
            raise BenchError(self._said(error)) from error

    def _said(self, error: ray.exceptions.RayError) -> str:
        """In a line: of a task's error what was raised there."""
        cause = getattr(error, "cause", None)
        shown = cause if isinstance(cause, BaseException) else error
        return self._redact(f"{type(shown).__name__}: {' '.join(str(shown).split())[:500]}")
