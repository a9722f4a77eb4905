"""The words of a plan: reasons, rejections, notes and remedies."""

from __future__ import annotations

from collections.abc import Sequence

from ray_anystorage.environment import NFS_TIERS, Environment, Place, RunHome, Tier
from ray_anystorage.policy.request import Audience, Request
from ray_anystorage.policy.space import bytes_kept, fits, room_objection, too_large
from ray_anystorage.policy.spill import all_spilled, no_spill_note, spill_bucket
from ray_anystorage.units import format_size

_FREE_HOSTED_STORAGE = 100 * 10**9  # hosted clouds include 100 GB, says the platform's storage guide
TIER_OF: dict[Audience, Tier] = {"cluster": "cluster", "user": "user", "team": "shared"}


def notes(environment: Environment, request: Request, place: Place) -> list[str]:
    said: list[str] = []
    if place.tier != "artifact" and not place.network and place.tier != "local":
        said.append(f"{place.root} is a {place.description or place.filesystem}: other nodes see it only if it is "
                     "mounted there from the same place.")  # fmt: skip
    if place.kind == "tmpfs":
        said.append(f"{place.root} is in memory: what is saved there is gone when the node restarts.")
    if environment.nodes is None:
        said.append("No Ray cluster is connected: planned for one node. A Train run checks that again when it starts.")
    spills = spill_bucket(environment, place) is not None
    if place.tier in NFS_TIERS and too_large(environment, request) and not spills:
        said.append(
            f"Checkpoints over {format_size(environment.threshold)} are slow on NFS and hold up everyone on it."
        )
    if request.checkpoint_size is None:
        said.append(
            "checkpoint_size was not said: each checkpoint goes where its real size belongs, and the run's state stays "
            "here. Say it to have both in the bucket where they are large."
            if spills
            else "checkpoint_size was not said, so the size played no part: say it to have large ones in the bucket."
        )
    kept = bytes_kept(request)
    if kept is not None and kept > _FREE_HOSTED_STORAGE:
        said.append(f"What is kept can reach {format_size(kept)}, more than the 100 GB of storage that hosted clouds "
                     "include: it will be billed.")  # fmt: skip
    if request.checkpoint_size and request.num_to_keep is None:
        said.append("Every checkpoint is kept: set CheckpointConfig(num_to_keep=…) to bound the space.")
    if place.tier != "artifact" and not fits(place, request) and not all_spilled(environment, request, place):
        relief = ". What does not fit then goes to the bucket" if spills else ""
        said.append(f"{place.root} may run out of space: {room_objection(place, request)}{relief}.")
    return [*said, *no_spill_note(environment, place), *environment.notes]


def local_reason(environment: Environment, request: Request) -> str:
    reason = "No other storage can serve; on one node its disk does. Nobody else sees it; it is gone when the node is."
    if request.audience != "cluster":
        reason += f" That is not what audience={request.audience!r} asks for."
    own = environment.place(TIER_OF[request.audience])
    if too_large(environment, request) and own is not None and own.usable:
        reason += (
            f" For a bucket set RAY_ANYSTORAGE_ARTIFACT_STORAGE; to use {own.root} all the same, say tier={own.tier!r} "
            "or raise RAY_ANYSTORAGE_THRESHOLD."
        )
    return reason


def own_reason(environment: Environment, request: Request) -> str:
    tier = TIER_OF[request.audience]
    who = {"cluster": "every node of this cluster", "user": "every cluster of this user", "team": "the whole team"}
    size = "" if request.checkpoint_size is None else (
        f", and checkpoints of {format_size(request.checkpoint_size)} are not over {format_size(environment.threshold)}"
    )  # fmt: skip
    return f"{tier.capitalize()} storage is seen by {who[request.audience]}{size}."


def size_reason(environment: Environment, request: Request) -> str:
    size = format_size(request.checkpoint_size or 0)
    return f"Checkpoints of {size} are over {format_size(environment.threshold)}, too large for NFS."


def passed_over(environment: Environment, request: Request, tier: Tier, winner: Tier | None) -> str:
    """Why a tier was not considered at all; ``winner`` is the one that was chosen, if any."""
    place = environment.place(tier)
    if place is None or place.state == "absent":
        return f"there is none ({looked_for(place)})"
    if place.problem is not None:
        return place.problem.reason
    if tier in NFS_TIERS and too_large(environment, request):
        return size_reason(environment, request)
    if tier == "local":
        return "one node's disk is for staging, not for the home of a run"
    if tier == "artifact":
        return f"not needed for the run home: {winner} storage serves, and objects are slower for small files"
    return f"not the place for audience={request.audience!r}"


def looked_for(place: Place | None) -> str:
    if place is None or not place.root:
        return "no setting names one"
    return f"{place.root}, from {place.location.source}, does not exist"


def how_to_set(tier: Tier) -> str:
    example = "s3://bucket/folder" if tier == "artifact" else f"/path/on/every/node ({tier} storage)"
    return f"Set RAY_ANYSTORAGE_{tier.upper()}_STORAGE={example} on every node, or choose another tier with tier=…."


def listed(runs: Sequence[RunHome]) -> str:
    return " and ".join(f"{home.path} ({home.tier})" for home in runs)


def root_of(environment: Environment, tier: Tier) -> str:
    place = environment.place(tier)
    return place.root if place else ""
