"""What the nodes of a run can do, weighed against what its plan needs: pure, so that any cluster can be thought up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_anystorage.diagnosis.nodes import NodeName, counted, listed
from ray_anystorage.environment import Problem
from ray_anystorage.errors import MountFullError, NodeFailure, NodePreflightError
from ray_anystorage.units import format_size

_FINE_SHOWN = 20  # nodes without a fault that the message names; the error's own list has all of them


@dataclass(frozen=True, slots=True)
class Findings:
    """What one node found wrong with the run home, its own disk and the bucket for what the home does not take.

    Attributes
    ----------
    folder, free
        Where its workers stage files and cache checkpoints, and the bytes that are free there, where that is known.
    """

    home: Problem | None = None
    local: Problem | None = None
    spill: Problem | None = None
    folder: str = ""
    free: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ends the attempt, and what does not and is worth a warning."""

    faults: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def weigh(found: Findings, *, spills: bool, needs_spill: bool, share: int | None = None) -> Verdict:
    """Part what a run can live with on a node from what it cannot.

    A home that is merely full goes on where the bucket takes the checkpoints, and a bucket that is out of reach is done
    without where the home takes them.

    Parameters
    ----------
    spills
        Whether the run has a bucket beside its home.
    needs_spill
        Whether its checkpoints are known to be too large for the home.
    share
        Bytes of a checkpoint that the node's workers save, where its size was said.
    """
    faults: list[Problem] = []
    warnings: list[Problem] = []
    full = found.home is not None and issubclass(found.home.error_type, MountFullError)
    if found.home is not None:
        bucket_takes_it = full and spills and found.spill is None
        (warnings if bucket_takes_it else faults).append(found.home)
    if found.local is not None:
        faults.append(found.local)
    if found.spill is not None:
        (faults if needs_spill or full else warnings).append(found.spill)
    if share is not None and found.free is not None and found.free < share:
        warnings.append(_tight(found.folder, found.free, share))
    return Verdict(tuple(faults), tuple(warnings))


def _tight(folder: str, free: int, share: int) -> Problem:
    return Problem(
        error_type=MountFullError,
        reason=f"has {format_size(free)} free, and this node's part of a checkpoint is about {format_size(share)}",
        tier="local",
        place=folder,
        tried="compared the free space with the checkpoint_size that was said",
        remedy="make room there, or set RAY_ANYSTORAGE_LOCAL_STORAGE to a larger disk of the node",
    )


def failure_of(node: NodeName, problem: Problem) -> NodeFailure:
    """A problem as a node's failure."""
    return NodeFailure(
        node=str(node),
        tier=problem.tier,
        place=problem.place,
        error=problem.error_type.__name__,
        reason=problem.reason,
        tried=problem.tried,
        remedy=problem.remedy,
    )


def preflight_error(
    run: str, failures: Mapping[NodeName, Sequence[NodeFailure]], fine: Sequence[NodeName]
) -> NodePreflightError:
    """The one error for all nodes that failed; nodes that lack the same are named together."""
    alike: dict[tuple[str, ...], list[NodeName]] = {}
    for node in sorted(failures):
        for failure in failures[node]:
            what = (failure.tier, failure.place, failure.reason, failure.tried, failure.remedy)
            alike.setdefault(what, []).append(node)
    every = counted(len(failures) + len(fine))
    lines = [f"run {run!r} was not started: {len(failures)} of {every} cannot do what it needs"]
    for (tier, place, reason, tried, remedy), nodes in alike.items():
        where = f"{tier} storage {place}: " if tier else ""
        lines += [
            f"  {'nodes' if len(nodes) > 1 else 'node'} {listed(nodes)}: {where}{reason}",
            f"    tried: {tried}",
            f"    what to do: {remedy}",
        ]
    lines.append(f"  without a fault: {listed(fine, most=_FINE_SHOWN) or 'no node'}")
    return NodePreflightError(
        "\n".join(lines),
        failures=tuple(failure for node in sorted(failures) for failure in failures[node]),
        fine=tuple(str(node) for node in sorted(fine)),
    )
