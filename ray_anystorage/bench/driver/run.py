"""From a request to a report: finds the cluster, its storage and its credentials, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

import ray

from ray_anystorage._version import __version__
from ray_anystorage.bench.driver.crew import Crew, Look
from ray_anystorage.bench.driver.job import Job, Tell
from ray_anystorage.bench.on_node.node import Order
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
_LEFT = "the benchmark left something behind: %s"

logger = logging.getLogger(__name__)


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
    with feeding(env_vars):
        await_agents(env_vars, NODE_TIMEOUT)
        crew = Crew(env_vars, watcher.look)
        job = Job(wanted, crew, _versions(), watcher.tell)
        try:
            job.run(_join(crew, found))
        except KeyboardInterrupt:
            interrupted = True
        finally:
            watcher.tell("Removing what was written")
            for left in crew.end():
                logger.warning(_LEFT, left)
    return job.report(), interrupted


def _join(crew: Crew, found: Survey) -> dict[str, str]:
    nodes, name = alive_names(), new_id(secrets.token_hex(4))
    grant = found.grant
    carried = Carried(grant.mode, grant.source, grant.env_vars) if grant is not None else None
    return crew.join(nodes, lambda node: Order(name, node.id, len(nodes), carried))


def _versions() -> dict[str, str]:
    return {
        "ray_anystorage": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "driver": f"process {os.getpid()} on {platform.node()}",
        **{name: version(name) for name in _PACKAGES},
    }
