"""A trial's place on its node, which it enters once."""

from __future__ import annotations

import os
import secrets
from functools import lru_cache

import ray

from ray_anystorage.checkpoint.node import Node
from ray_anystorage.cluster.broker import ensure_agent
from ray_anystorage.train.node import enter_node, hold_run
from ray_anystorage.train.telemetry import observe_trial
from ray_anystorage.tune.experiment_home import ExperimentHome


def enter_trial_node(home: ExperimentHome) -> Node:
    """This process's place for an experiment; the first call sees that the node's agent is there, where one is needed.

    From then on what the process saves and restores is counted for this experiment, and shown where a terminal is.

    Raises
    ------
    CredentialsAgentError
        It cannot be had here.
    """
    node = _entered(home, os.getpid())
    observe_trial(home.planned, node)
    return node


@lru_cache(maxsize=8)
def _entered(home: ExperimentHome, _process: int) -> Node:
    recipe = home.planned
    if ray.is_initialized():
        ensure_agent(recipe.bucket_variables)
    node = enter_node(recipe, secrets.token_hex(8))
    hold_run(node, recipe)
    return node
