"""What a node found is weighed against what the plan needs, and the one error names all of it."""

from __future__ import annotations

import pickle

import pytest

from ray_anystorage import errors
from ray_anystorage.diagnosis.nodes import NodeName, listed
from ray_anystorage.diagnosis.preflight import Findings, failure_of, preflight_error, weigh
from ray_anystorage.environment import Problem, Tier

GB = 10**9


def node(number: int) -> NodeName:
    return NodeName(f"10.0.0.{number}", f"host-{number}", f"{number:032x}")


def problem(kind: type[errors.StorageError], tier: Tier, reason: str = "it fails") -> Problem:
    return Problem(kind, reason, tier, f"/mnt/{tier}", "a write", "a repair")


FULL = problem(errors.MountFullError, "cluster")
READ_ONLY = problem(errors.MountReadOnlyError, "cluster")
NO_DISK = problem(errors.MountPermissionError, "local")
NO_BUCKET = problem(errors.EndpointTimeoutError, "artifact")


@pytest.mark.parametrize(
    ("found", "spills", "needs_spill", "faults", "warnings"),
    [
        (Findings(), True, False, [], []),
        (Findings(home=READ_ONLY), True, False, [READ_ONLY], []),
        (Findings(home=FULL), True, False, [], [FULL]),
        (Findings(home=FULL), False, False, [FULL], []),
        (Findings(home=FULL, spill=NO_BUCKET), True, False, [FULL, NO_BUCKET], []),
        (Findings(spill=NO_BUCKET), True, False, [], [NO_BUCKET]),
        (Findings(spill=NO_BUCKET), True, True, [NO_BUCKET], []),
        (Findings(local=NO_DISK), False, False, [NO_DISK], []),
        (Findings(READ_ONLY, NO_DISK, NO_BUCKET), True, False, [READ_ONLY, NO_DISK], [NO_BUCKET]),
    ],
)
def test_what_ends_an_attempt(
    found: Findings, spills: bool, needs_spill: bool, faults: list[Problem], warnings: list[Problem]
) -> None:
    verdict = weigh(found, spills=spills, needs_spill=needs_spill)
    assert (list(verdict.faults), list(verdict.warnings)) == (faults, warnings)


def test_a_disk_too_small_for_the_node_s_part_of_a_checkpoint_is_worth_a_warning() -> None:
    found = Findings(folder="/mnt/local/x", free=4 * GB)
    assert weigh(found, spills=False, needs_spill=False, share=4 * GB).warnings == ()
    (warning,) = weigh(found, spills=False, needs_spill=False, share=5 * GB).warnings
    for words in ("4 GB free", "5 GB", "RAY_ANYSTORAGE_LOCAL_STORAGE", "/mnt/local/x"):
        assert words in str(warning.error())


def test_the_error_names_each_node_once_and_those_without_a_fault() -> None:
    failures = {node(3): [failure_of(node(3), READ_ONLY), failure_of(node(3), NO_DISK)]}
    failures[node(2)] = [failure_of(node(2), READ_ONLY)]
    error = preflight_error("r", failures, [node(4), node(1)])
    assert str(error).splitlines() == [
        "run 'r' was not started: 2 of 4 nodes cannot do what it needs",
        "  nodes 10.0.0.2 (host-2, 00000000), 10.0.0.3 (host-3, 00000000): cluster storage /mnt/cluster: it fails",
        "    tried: a write",
        "    what to do: a repair",
        "  node 10.0.0.3 (host-3, 00000000): local storage /mnt/local: it fails",
        "    tried: a write",
        "    what to do: a repair",
        "  without a fault: 10.0.0.1 (host-1, 00000000), 10.0.0.4 (host-4, 00000000)",
    ]
    assert [(failure.node[:8], failure.tier, failure.error) for failure in error.failures] == [
        ("10.0.0.2", "cluster", "MountReadOnlyError"),
        ("10.0.0.3", "cluster", "MountReadOnlyError"),
        ("10.0.0.3", "local", "MountPermissionError"),
    ]
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.failures, back.fine) == (str(error), error.failures, error.fine)
    assert isinstance(back, OSError)


def test_two_hundred_nodes_without_a_fault_are_counted_and_all_in_the_error() -> None:
    error = preflight_error("r", {node(1): [failure_of(node(1), NO_DISK)]}, [node(n) for n in range(2, 202)])
    assert "1 of 201 nodes" in str(error)
    assert str(error).endswith(" and 180 more")
    assert len(error.fine) == 200


def test_a_node_is_named_by_what_is_known() -> None:
    assert str(NodeName("10.0.0.1", "10.0.0.1", "0123456789")) == "10.0.0.1 (01234567)"
    assert listed([node(2), node(1)], most=1) == "10.0.0.1 (host-1, 00000000) and 1 more"
