"""The nodes of a benchmark: an actor on each, told what to do, waited for, and cleaned up after."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_anystorage.bench.on_node.node import NodeBench, Order, clean
from ray_anystorage.diagnosis.nodes import NodeName
from ray_anystorage.errors import BenchError

_LOOK_EVERY = 0.5  # seconds between looks at what the nodes do
_START = 120.0  # seconds that a node may take to join: a worker process may have to install a runtime_env
_CLEAN = 60.0  # seconds for it to remove what was written

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
    """

    def __init__(self, env_vars: Mapping[str, str], look: Look) -> None:
        self._env_vars, self._look = dict(env_vars), look
        self.members: list[Member] = []
        self._joined: list[tuple[NodeName, Order]] = []

    def join(self, nodes: Sequence[NodeName], order: Callable[[NodeName], Order]) -> dict[str, str]:
        """Have each node take part; why those do not that cannot, by node."""
        starting = []
        for node in nodes:
            self._joined.append((node, order(node)))
            starting.append(Member(node, order(node), self._actor(node, order(node))))
        refused: dict[str, str] = {}
        answers = {member.actor.facts.remote(): member for member in starting}
        deadline = time.monotonic() + _START
        while answers and (left := deadline - time.monotonic()) > 0:
            ready, _ = ray.wait(list(answers), timeout=min(left, _LOOK_EVERY))
            for reference in ready:
                member = answers.pop(reference)
                try:
                    ray.get(reference)
                    self.members.append(member)
                except ray.exceptions.RayError as error:
                    refused[str(member)] = _said(error)
        for member in answers.values():
            refused[str(member)] = f"it did not answer within {_START:g} s"
            ray.kill(member.actor)
        return refused

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

    def renew(self) -> None:
        """Give every member another process, after one failed in a way that may have left it stuck."""
        for member in self.members:
            ray.kill(member.actor)
            member.actor = self._actor(member.name, member.order)

    def end(self) -> list[str]:
        """End the members and remove all that they wrote; what is left, and why."""
        for member in self.members:
            ray.kill(member.actor)
        self.members = []
        calls = {self._clean(node, order): node for node, order in self._joined}
        self._joined = []
        left: list[str] = []
        done, late = ray.wait(list(calls), num_returns=len(calls), timeout=_CLEAN) if calls else ([], [])
        for reference in done:
            try:
                left += ray.get(reference)
            except ray.exceptions.RayError as error:
                left.append(f"node {calls[reference]}: {_said(error)}")
        left += [f"node {calls[reference]} did not answer within {_CLEAN:g} s" for reference in late]
        return sorted(set(left))

    def _actor(self, node: NodeName, order: Order) -> Any:
        remote = ray.remote(num_cpus=0, max_concurrency=2)(NodeBench)
        return remote.options(name=f"ray-anystorage bench {order.id} {node.id}", **self._on(node)).remote(order)

    def _clean(self, node: NodeName, order: Order) -> Any:
        return ray.remote(num_cpus=0, max_retries=0)(clean).options(**self._on(node)).remote(order)

    def _on(self, node: NodeName) -> dict[str, Any]:
        return {
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False),
            "runtime_env": {"env_vars": self._env_vars} if self._env_vars else None,
        }

    def _await(self, calls: list[Any], members: Sequence[Member], what: str, within: float) -> list[Any]:
        deadline, waiting = time.monotonic() + within, list(calls)
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_LOOK_EVERY)
            with _failures():
                ray.get(ready)  # a failure ends the wait for the others
            if waiting:
                self._look(self._doing(members))
                if time.monotonic() > deadline:
                    raise BenchError(f"{what} was not done after {within:.0f} s")
        with _failures():
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
def _failures() -> Iterator[None]:
    try:
        yield
    except ray.exceptions.RayError as error:
        raise BenchError(_said(error)) from error


def _said(error: ray.exceptions.RayError) -> str:
    """In a line: of a task's error what was raised there."""
    cause = getattr(error, "cause", None)
    shown = cause if isinstance(cause, BaseException) else error
    return f"{type(shown).__name__}: {' '.join(str(shown).split())[:500]}"
