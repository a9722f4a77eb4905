"""Asks every alive node of a Ray cluster at once, within a time limit for each; what it all means is for others."""

from __future__ import annotations

import contextlib
import logging
import pickle
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_anystorage._version import __version__
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.diagnosis.clock import Moment, read_clock
from ray_anystorage.diagnosis.node_answer import Fault, NodeAnswer
from ray_anystorage.diagnosis.nodes import NodeName
from ray_anystorage.environment import Problem
from ray_anystorage.errors import ClusterNotReachedError
from ray_anystorage.settings import process_environment

_ON_NODE = "ray_anystorage.diagnosis.on_node"
_PACKAGE = "ray_anystorage"
_WORDS_WITHIN = 20.0  # seconds for the round that only looks for the nodes' words
_KNOCK_TIMEOUT = 5.0  # seconds
_CLEANED_WITHIN = 10.0  # seconds for the one that removes them, which no node but one that hangs takes
Stub = Callable[[str, str, dict[str, Any]], dict[str, Any]]


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Be connected to the cluster that this process uses already, or that ``RAY_ADDRESS`` or this node names.

    Raises
    ------
    ClusterNotReachedError
        There is none, or it does not answer.
    """
    if ray.is_initialized():
        yield
        return
    try:
        _knock()
        ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = str(error).strip().splitlines()[0]
        raise ClusterNotReachedError(
            f"no Ray cluster can be reached from here: {said}\n"
            "  what to do: run this on a node of the cluster, or set RAY_ADDRESS to the address of its head "
            "(host:6379); 'ray status' tells whether that works. Where Ray's log says Unauthenticated, the cluster "
            "wants its token: set RAY_AUTH_MODE=token. Without --cluster this node alone is looked at."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock() -> None:
    """Raise where nothing listens at ``RAY_ADDRESS``: Ray itself would try for minutes."""
    address = process_environment().get("RAY_ADDRESS", "")
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():  # not said, or what Ray has its own words for
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_TIMEOUT).close()
    except OSError as error:
        raise ConnectionError(f"nothing answers at RAY_ADDRESS={address}: {error}") from error


def alive_names() -> list[NodeName]:
    """The alive nodes of the cluster, sorted."""
    return sorted(
        NodeName(node["NodeManagerAddress"], node["NodeManagerHostname"], node["NodeID"])
        for node in ray.nodes()
        if node["Alive"]
    )


def ask_nodes(
    *,
    grant: Grant | None,
    credentials: str,
    no_credentials: Problem | None,
    env_vars: Mapping[str, str],
    timeout: float,
) -> tuple[NodeAnswer, ...]:
    """Have every alive node look at all tiers, and find out which of them see the same mounts.

    Parameters
    ----------
    grant, credentials, no_credentials
        For the bucket, the same in a phrase, and what is wrong where there is none; the grant's secrets stay here.
    env_vars
        What the nodes' processes get, as those of a run would.
    timeout
        Seconds that a node may take.

    Returns
    -------
    tuple of NodeAnswer
        One for each node, sorted by name. A node that hangs, dies or cannot answer is in it with its fault.
    """
    nodes = alive_names()
    carried = (grant.mode, grant.source, grant.env_vars) if grant is not None else None
    order = {
        "token": secrets.token_hex(8),
        "nodes": len(nodes),
        "grant": carried,
        "credentials": credentials,
        "no_credentials": no_credentials and no_credentials.texts(),  # plain: a node may have another version, or none
    }
    asking = _Asking(order, dict(env_vars))
    answers: dict[NodeName, NodeAnswer] = {}
    try:
        for node, said in asking.round("examine", nodes, timeout):
            answers[node] = _answer(node, said)
        for node, said in asking.round("read_words", _answered(answers), _WORDS_WITHIN):
            answers[node] = _with_words(answers[node], said)
    finally:
        answered = _answered(answers)
        for node in nodes:
            if node not in answered:  # nobody waits for it: it does that when it can
                asking.call("remove_words", node)
        for _ in asking.round("remove_words", answered, _CLEANED_WITHIN):
            pass
    return tuple(answers[node] for node in nodes)


@dataclass(frozen=True, slots=True)
class _Said:
    """What came from a node: the stub's words, or why there are none; and when they were asked for and came."""

    words: dict[str, Any] | None
    asked: Moment
    came: Moment
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class _Asking:
    """Calls on the nodes with one order."""

    order: dict[str, Any]
    env_vars: dict[str, str]

    def round(self, function: str, nodes: Iterable[NodeName], timeout: float) -> Iterator[tuple[NodeName, _Said]]:
        """Call a function of :mod:`ray_anystorage.diagnosis.on_node` on all nodes at once."""
        asked: dict[Any, tuple[NodeName, Moment]] = {}
        for node in nodes:
            when = _now()  # before the call, which may be there at once
            asked[self.call(function, node)] = node, when
        deadline = time.monotonic() + timeout
        while asked:
            ready, _ = ray.wait(list(asked), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            came = _now()
            node, when = asked.pop(ready[0])
            yield node, _heard(ready[0], when, came)
        for reference, (node, when) in asked.items():
            ray.cancel(reference, force=True)
            yield node, _Said(None, when, _now(), _silence(timeout))

    def call(self, function: str, node: NodeName) -> Any:
        """Call it on one node, and do not wait."""
        remote = ray.remote(num_cpus=0, max_retries=0)(_stub()).options(
            name=f"ray-anystorage doctor: {function}",
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            runtime_env={"env_vars": self.env_vars} if self.env_vars else None,
        )
        return remote.remote(_ON_NODE, function, {**self.order, "node": node.id})


def _stub() -> Stub:
    """What is sent to a node: a function that needs nothing but Python there, and says what the node lacks.

    Defined inside of another, it is pickled by value; this package itself is not sent.
    """

    def on_node(module: str, function: str, order: dict[str, Any]) -> dict[str, Any]:
        import importlib
        import importlib.metadata
        import platform
        import time

        began, value, lacking = (time.time(), time.monotonic()), None, ""
        versions = {"python": platform.python_version()}
        for name in ("ray", "pyarrow", "obstore"):
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                versions[name] = "not installed"
        try:
            called = getattr(importlib.import_module(module), function)
            versions["ray_anystorage"] = importlib.import_module("ray_anystorage").__version__
        except (ImportError, AttributeError) as error:
            lacking = f"{type(error).__name__}: {error}"
        else:
            value = called(order)
        ended = time.time(), time.monotonic()
        return {"versions": versions, "lacking": lacking, "value": value, "began": began, "ended": ended}

    return on_node


def _heard(reference: Any, asked: Moment, came: Moment) -> _Said:
    try:
        words: dict[str, Any] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        fault = Fault(
            error=type(cause).__name__,
            reason=f"looking at its storage failed: {type(cause).__name__}: {cause}",
            tried="ran the doctor's checks there",
            remedy="look into the logs of the node's workers (ray logs), and report this",
        )
        return _Said(None, asked, came, fault)
    except ray.exceptions.RayError as error:
        fault = Fault(
            error=type(error).__name__,
            reason=f"the node or its process ended while it was asked ({type(error).__name__})",
            tried="ran the doctor's checks there",
            remedy="look at the node (ray status, ray logs), and ask again when it is back",
        )
        return _Said(None, asked, came, fault)
    return _Said(words, asked, came)


def _answer(node: NodeName, said: _Said) -> NodeAnswer:
    if said.words is None:
        return NodeAnswer(node, fault=said.fault)
    versions = tuple(sorted(said.words["versions"].items()))
    if said.words["lacking"]:
        fault = Fault(
            error="ModuleNotFoundError",
            reason=f"{_PACKAGE} {__version__} cannot be used there: {said.words['lacking']}",
            tried=f"imported {_ON_NODE}",
            remedy=f"install {_PACKAGE} {__version__} on every node, from one image or the job's runtime_env",
        )
        return NodeAnswer(node, versions=versions, fault=fault)
    if dict(versions)[_PACKAGE] != __version__:  # its report may be of another shape
        return NodeAnswer(node, versions=versions)
    return NodeAnswer(node, pickle.loads(said.words["value"]), versions)  # noqa: S301 - from a node of this cluster


def _with_words(answer: NodeAnswer, said: _Said) -> NodeAnswer:
    if said.words is None:
        return replace(answer, fault=said.fault)
    clock = read_clock(said.asked, Moment(*said.words["began"]), Moment(*said.words["ended"]), said.came)
    seen = tuple((tier, frozenset(names)) for tier, names in said.words["value"].items())
    return replace(answer, seen=seen, clock=clock)


def _now() -> Moment:
    return Moment(time.time(), time.monotonic())


def _answered(answers: Mapping[NodeName, NodeAnswer]) -> list[NodeName]:
    return [node for node, answer in answers.items() if answer.report is not None]


def _silence(timeout: float) -> Fault:
    return Fault(
        error="TimeoutError",
        reason=f"it did not answer within {timeout:g} s",
        tried="ran the doctor's checks there",
        remedy="look at the node (ray status, ray logs): it may hang, be cut off or be overloaded; a slow one gets "
        "more time with --timeout",
    )
