"""From a request to a report: finds the cluster, its storage and its credentials, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import ray

from ray_anystorage._version import __version__
from ray_anystorage.bench.driver.crew import Crew, Look
from ray_anystorage.bench.driver.job import Job, Tell
from ray_anystorage.bench.on_node.order import Order
from ray_anystorage.bench.on_node.place import Carried, new_id
from ray_anystorage.bench.results import BenchReport
from ray_anystorage.bench.wanted import Wanted
from ray_anystorage.checkup import node_variables
from ray_anystorage.cluster.broker import await_agents, feeding
from ray_anystorage.cluster.nodes import NODE_TIMEOUT, alive_nodes
from ray_anystorage.cluster.probe import alive_names, connected
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.environment import Tier
from ray_anystorage.errors import ClusterNotReachedError
from ray_anystorage.resolve import Survey, survey
from ray_anystorage.settings import process_environment

_PACKAGES = ("ray", "pyarrow", "obstore")


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told how it goes: of each step, and of what each node does."""

    tell: Tell
    look: Look


@contextlib.contextmanager
def cluster(tell: Callable[[str], None]) -> Iterator[None]:
    """Be connected to the cluster of this process, of ``RAY_ADDRESS`` or of this node; else start one here.

    Raises
    ------
    ClusterNotReachedError
        ``RAY_ADDRESS`` names one that does not answer.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(connected())
        except ClusterNotReachedError:
            if process_environment().get("RAY_ADDRESS"):
                raise
            tell("No Ray cluster runs here: one is started on this machine for the benchmark.")
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            stack.callback(ray.shutdown)
        yield


def run(
    wanted: Wanted,
    watcher: Watcher,
    *,
    credentials: Credentials | None = None,
    artifact_storage: str | None = None,
) -> tuple[BenchReport, bool]:
    """Run a benchmark on the cluster that this process is connected to.

    Returns
    -------
    report, interrupted
        With what was measured until it was interrupted, where it was.

    Raises
    ------
    BenchError
        No node takes part.
    RequestError
        An argument or a setting cannot be meant.
    """
    roots: dict[Tier, str | None] = {"artifact": artifact_storage}
    found = survey(credentials=credentials, nodes=alive_nodes(), roots=roots)
    env_vars = node_variables(found, roots)
    interrupted = False
    redact = found.grant.secrets.redact if found.grant is not None else str
    with feeding(env_vars):
        await_agents(env_vars, NODE_TIMEOUT)
        crew = Crew(env_vars, watcher.look, redact)
        job = Job(wanted, crew, _versions(), watcher.tell)
        try:
            job.run(*_join(crew, found))
        except KeyboardInterrupt:
            interrupted = True
        finally:
            watcher.tell("Removing what was written")
            with undisturbed():
                job.leave(crew.end())
    return job.report(), interrupted


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have SIGTERM, which ends a job of Ray's, do what Ctrl-C does; Ray's own handler, set before, would just exit."""
    with _handling({signal.SIGTERM: _interrupt}):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let nobody interrupt: what was written is being removed, or the report kept."""
    with _handling({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):
        yield


@contextlib.contextmanager
def _handling(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _join(crew: Crew, found: Survey) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    nodes, name = alive_names(), new_id(secrets.token_hex(4))
    grant = found.grant
    carried = Carried(grant.mode, grant.source, grant.env_vars) if grant is not None else None
    lacking = str(found.obstacle) if found.obstacle is not None else "there are no credentials for the bucket"
    return crew.join(nodes, lambda node: Order(name, node.id, len(nodes), carried, lacking))


def _versions() -> dict[str, str]:
    return {
        "ray_anystorage": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "driver": f"process {os.getpid()} on {platform.node()}",
        **{name: version(name) for name in _PACKAGES},
    }
