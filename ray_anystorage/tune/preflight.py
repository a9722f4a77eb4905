"""Each node that a trial comes to is asked for what the experiment needs of it, once and when the first one starts."""

from __future__ import annotations

import os
import secrets
from typing import Any

import ray
from ray.tune import Callback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_anystorage.diagnosis.nodes import NodeName
from ray_anystorage.diagnosis.preflight import Findings, failure_of, preflight_error, weigh
from ray_anystorage.errors import NodeFailure
from ray_anystorage.settings import process_environment
from ray_anystorage.train.node_check import Needs, check_node
from ray_anystorage.train.preflight import ANSWER_WITHIN, broken, compare, no_answer, warn
from ray_anystorage.tune.experiment_home import ExperimentHome, home_of
from ray_anystorage.tune.hooks import actors, carried_to_trials


class TrialPreflight(Callback):  # type: ignore[misc]
    """Runs in the driver. It ends the experiment where a node cannot serve: Tune would start trials there for ever."""

    def __init__(self) -> None:
        self._checked: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: who restores the experiment asks anew."""
        return {"_checked": set()}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Ask the trial's node, where it was not asked before.

        Raises
        ------
        NodePreflightError
            Names the node, what is wrong there and what to do.
        """
        home = home_of(trial.storage.storage_filesystem)
        node = _node_of(trial)
        if home is not None and node and node not in self._checked:
            self._checked.add(node)
            check_trial_node(home, trial.storage.storage_filesystem, node)


def check_trial_node(home: ExperimentHome, filesystem: Any, node: str) -> None:
    """See that a node can do what the experiment needs; a warning tells of what it can go on without.

    Raises
    ------
    NodePreflightError
        It cannot.
    """
    recipe = home.planned
    needs = Needs(recipe, home.spill, home.owner, secrets.token_hex(8))
    name = _name_of(node)
    found = _ask(name, needs)
    if isinstance(found, NodeFailure):
        raise preflight_error(recipe.name, {name: [found]}, [])
    answers = {name: found}
    compare(home.open(filesystem), needs, answers)
    verdict = weigh(answers[name], spills=home.spill is not None, needs_spill=recipe.needs_spill)
    warn(recipe.name, {name: verdict})
    if verdict.faults:
        raise preflight_error(recipe.name, {name: [failure_of(name, fault) for fault in verdict.faults]}, [])


def _ask(name: NodeName, needs: Needs) -> Findings | NodeFailure:
    own = process_environment()
    carried = {variable: own[variable] for variable in carried_to_trials() if variable in own}
    options = {"num_cpus": 0, "max_retries": 0, "runtime_env": {"env_vars": carried}}
    there = NodeAffinitySchedulingStrategy(name.id, soft=False)
    task = ray.remote(check_node).options(scheduling_strategy=there, **options).remote(needs)
    try:
        found: Findings = ray.get(task, timeout=ANSWER_WITHIN)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(task, force=True)
        return no_answer(name)
    except ray.exceptions.RayError as error:
        return broken(name, error)
    return found


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
