"""Each node that a trial comes to is asked for what the experiment needs of it, once and when the first one starts."""

from __future__ import annotations

import logging
import os
import secrets
import time
from typing import Any

import ray
from ray.tune import Callback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_anystorage.diagnosis.nodes import NodeName
from ray_anystorage.diagnosis.preflight import Findings, failure_of, preflight_error, weigh
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.settings import process_environment
from ray_anystorage.train.node_check import Needs, check_node
from ray_anystorage.train.preflight import broken, compare, warn
from ray_anystorage.tune.experiment_home import ExperimentHome, home_of
from ray_anystorage.tune.hooks import actors, carried_to_trials

logger = logging.getLogger("ray.tune.anystorage")

_WAITS = 5.0  # seconds that Tune's loop is held up for a node that is asked
_WAITS_AT_THE_END = 20.0  # seconds, for all nodes that have said nothing until then


class TrialPreflight(Callback):  # type: ignore[misc]
    """Runs in the driver. It ends the experiment where a node cannot serve: Tune would start trials there for ever.

    What a node that goes away, or hangs, does to its trials is left to Tune.
    """

    def __init__(self) -> None:
        self._asked: dict[str, _Look] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: who restores the experiment asks anew."""
        return {"_asked": {}}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Ask the trial's node, where it was not asked before, and wait a little for what it says.

        Raises
        ------
        NodePreflightError
            Names the node, what is wrong there and what to do.
        """
        filesystem, node = trial.storage.storage_filesystem, _node_of(trial)
        home = home_of(filesystem)
        if home is not None and home.recipe is not None and node and node not in self._asked:
            self._asked[node] = look = _Look(home.recipe, home, filesystem, _name_of(node))
            look.hear(_WAITS)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Hear what nodes say that had not answered; raises the same."""
        for look in self._asked.values():
            look.hear(0)

    def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
        """Hear what slow nodes say of trials that were over before it; raises the same."""
        deadline = time.monotonic() + _WAITS_AT_THE_END
        for look in self._asked.values():
            look.hear(max(0.0, deadline - time.monotonic()))


class _Look:
    """One node's look at what the experiment needs there."""

    def __init__(self, recipe: StorageRecipe, home: ExperimentHome, filesystem: Any, node: NodeName) -> None:
        self._recipe, self._home, self._filesystem, self._node = recipe, home, filesystem, node
        self._needs = Needs(recipe, home.spill, home.owner, secrets.token_hex(8))
        own = process_environment()
        carried = {variable: own[variable] for variable in carried_to_trials() if variable in own}
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "runtime_env": {"env_vars": carried}}
        self._task = ray.remote(check_node).options(scheduling_strategy=there, **options).remote(self._needs)

    def hear(self, timeout: float) -> None:
        """Weigh what the node found, if it says so within the seconds; once.

        Raises
        ------
        NodePreflightError
            It cannot do what the experiment needs.
        """
        if self._task is None or not ray.wait([self._task], timeout=timeout)[0]:
            return
        task, self._task = self._task, None
        try:
            found: Findings = ray.get(task)
        except ray.exceptions.RayTaskError as error:
            raise preflight_error(self._recipe.name, {self._node: [broken(self._node, error)]}, []) from error
        except ray.exceptions.RayError as error:  # of the node or of its process
            logger.warning("node %s was not checked for run %r: %s", self._node, self._recipe.name, error)
            return
        self._weigh(found)

    def _weigh(self, found: Findings) -> None:
        node, recipe, answers = self._node, self._recipe, {self._node: found}
        compare(self._home.open(self._filesystem), self._needs, answers)
        verdict = weigh(answers[node], spills=self._home.spill is not None, needs_spill=recipe.needs_spill)
        warn(recipe.name, {node: verdict})
        if verdict.faults:
            raise preflight_error(recipe.name, {node: [failure_of(node, fault) for fault in verdict.faults]}, [])


def _node_of(trial: Any) -> str:
    """The id of the node that a trial runs on; empty where Ray does not say."""
    actor = trial.temporary_state.ray_actor
    if actor is None:
        return ""
    known = actors(actor._actor_id.hex()) or {}
    return str(known.get("Address", {}).get("NodeID", ""))


def _name_of(node: str) -> NodeName:
    known: dict[str, Any] = next((one for one in ray.nodes() if one["NodeID"] == node), {})
    return NodeName(known.get("NodeManagerAddress", "?"), known.get("NodeManagerHostname", os.uname().nodename), node)
