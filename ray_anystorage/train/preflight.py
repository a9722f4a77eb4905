"""Before user code starts, also after a restart: every node that got workers is asked for what the plan needs of it."""

from __future__ import annotations

import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import ray

from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.small_files import names_below, patiently
from ray_anystorage.diagnosis.nodes import NodeName, counted, listed
from ray_anystorage.diagnosis.preflight import Findings, Verdict, failure_of, preflight_error, weigh
from ray_anystorage.environment import Problem
from ray_anystorage.errors import AnyStorageError, NodeFailure
from ray_anystorage.train.hooks import ControllerCallback, WorkerGroupCallback
from ray_anystorage.train.node_check import FINDINGS, Needs, check_node, unseen
from ray_anystorage.train.storage_context import AnyStorageContext
from ray_anystorage.transfer.store import Store

logger = logging.getLogger("ray.train.anystorage")

_ANSWER_WITHIN = 60.0  # seconds; a node bounds what it looks at itself, but a cold one imports this package first


class Preflight(ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]
    """Runs in the controller whenever workers have started, before the run decides what it resumes from.

    That is earlier than Ray's ``after_worker_group_start``, and comes for the workers that replace others as well.
    """

    _storage: object = None

    def after_controller_start(self, train_run_context: object) -> None:
        """Keep the run's storage."""
        self._storage = train_run_context.run_config.storage_context  # type: ignore[attr-defined]

    def before_init_train_context(self, workers: list[Any]) -> dict[str, list[Any]]:
        """Check the nodes of the workers that have started; Ray takes no arguments from here."""
        if isinstance(self._storage, AnyStorageContext):
            check_nodes(self._storage, workers)
        return {}


def check_nodes(storage: AnyStorageContext, workers: Iterable[Any]) -> None:
    """Have one worker on each node check what the run needs there.

    Raises
    ------
    NodePreflightError
        Names each node that cannot do it, and those that can.
    ray.exceptions.RayActorError
        A worker died, and no node has a fault: Ray starts others.
    """
    storage.owner.check()
    started = time.monotonic()
    by_node: defaultdict[NodeName, list[Any]] = defaultdict(list)
    for worker in workers:
        known = worker.metadata
        by_node[NodeName(known.node_ip, known.hostname, known.node_id)].append(worker)
    needs = Needs(storage.recipe, storage.spill, storage.owner_token, secrets.token_hex(8))
    answers, failures, died = _ask({node: workers[0] for node, workers in by_node.items()}, needs)
    compare(storage.home_store(), needs, answers)
    verdicts = {node: _weigh(storage, found, by_node[node]) for node, found in answers.items()}
    warn(storage.recipe.name, verdicts)
    failures |= {
        node: [failure_of(node, fault) for fault in verdict.faults]
        for node, verdict in verdicts.items()
        if verdict.faults
    }
    if failures:
        failures |= {node: [broken(node, death)] for node, death in died.items()}
        raise preflight_error(storage.recipe.name, failures, [node for node in by_node if node not in failures])
    for death in died.values():
        raise death
    seconds = time.monotonic() - started
    logger.info("run %r: checked on %s in %.1f s", storage.recipe.name, counted(len(by_node)), seconds)


def _weigh(storage: AnyStorageContext, found: Findings, workers: list[Any]) -> Verdict:
    recipe = storage.recipe
    share = None
    if recipe.checkpoint_size is not None:
        share = recipe.checkpoint_size * len(workers) // int(workers[0].distributed_context.world_size)
    return weigh(found, spills=storage.spill is not None, needs_spill=recipe.needs_spill, share=share)


def _ask(
    workers: Mapping[NodeName, Any], needs: Needs
) -> tuple[dict[NodeName, Findings], dict[NodeName, list[NodeFailure]], dict[NodeName, Exception]]:
    """What the nodes found; what is wrong with those that found nothing out; and the deaths of workers."""
    asked = {worker.actor.execute.remote(check_node, needs): node for node, worker in workers.items()}
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_WITHIN)
    answers: dict[NodeName, Findings] = {}
    failures = {asked[reference]: [_no_answer(asked[reference])] for reference in late}
    died: dict[NodeName, Exception] = {}
    for reference in ready:
        node = asked[reference]
        try:
            answers[node] = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            died[node] = error
        except ray.exceptions.RayError as error:
            failures[node] = [broken(node, error)]
    return answers, failures, died


def compare(home: Store, needs: Needs, answers: dict[NodeName, Findings]) -> None:
    """See in the controller what the nodes wrote into the home, and remove it with what earlier attempts left."""
    folder = f"{FOLDER}/{FINDINGS}"
    seen = names_below(home, folder)
    if seen:
        patiently(lambda: home.delete([f"{folder}/{name}" for name in seen]))
    for node, found in answers.items():
        if found.home is None and f"{needs.token}/{node.id}" not in seen:
            answers[node] = replace(found, home=unseen(needs))


def warn(run: str, verdicts: Mapping[NodeName, Verdict]) -> None:
    """Log what is wrong on nodes that a run can go on with."""
    alike: dict[Problem, list[NodeName]] = {}
    for node, verdict in verdicts.items():
        for problem in verdict.warnings:
            alike.setdefault(problem, []).append(node)
    for problem, nodes in alike.items():
        logger.warning("run %r goes on although on %s: %s", run, listed(nodes), problem.error())


def _no_answer(node: NodeName) -> NodeFailure:
    return NodeFailure(
        node=str(node),
        tier="",
        place="",
        error="TimeoutError",
        reason=f"it did not answer within {_ANSWER_WITHIN:g} s",
        tried="ran the preflight in one of its workers",
        remedy="look at the node (ray status, ray logs): it may hang, be cut off or be overloaded",
    )


def broken(node: NodeName, error: Exception) -> NodeFailure:
    """The failure of a node where the look itself failed."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ImportError) or "ModuleNotFoundError" in str(error):
        remedy = "install ray_anystorage on every node, in the same version, from one image or the job's runtime_env"
    elif isinstance(cause, ray.exceptions.RayActorError):
        remedy = "look at the node (ray status, ray logs); start the run again when it is back"
    else:
        remedy = "look into the logs of the node's workers (ray logs)"
    said = str(cause) if isinstance(cause, AnyStorageError) else f"{type(cause).__name__}: {_last_line(cause)}"
    return NodeFailure(
        node=str(node),
        tier="",
        place="",
        error=type(cause).__name__,
        reason=f"the preflight failed there: {said}",
        tried="ran the preflight in one of its workers",
        remedy=remedy,
    )


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[-1]
