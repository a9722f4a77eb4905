"""The rules, in the order in which they apply. Nothing here does I/O: the same inputs give the same plan.

1. A tier that the user forced wins, or fails with the reason why it cannot serve.
2. A run of the same name is continued where it is; two of them are an error.
3. Checkpoints over the threshold go to ``artifact``.
4. Otherwise the NFS tier of the audience, if what is kept fits with a tenth of the free space to spare.
5. Otherwise ``artifact``; without a bucket a wider NFS tier; on one node, at last, the local disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ray_anystorage.environment import NFS_TIERS, TIERS, Environment, Place, RunHome, Tier
from ray_anystorage.errors import (
    HomeElsewhereError,
    NameTakenError,
    NoStorageError,
    SeveralHomesError,
    TierUnavailableError,
)
from ray_anystorage.policy.plan import Rejection, StoragePlan
from ray_anystorage.policy.request import Audience, Request
from ray_anystorage.policy.space import bytes_kept, fits, room_objection
from ray_anystorage.units import format_size

_FREE_HOSTED_STORAGE = 100 * 10**9  # hosted clouds include 100 GB, says the platform's storage guide
_TIER_OF: dict[Audience, Tier] = {"cluster": "cluster", "user": "user", "team": "shared"}
_WIDER: dict[Tier, tuple[Tier, ...]] = {"cluster": ("user", "shared"), "user": ("shared",), "shared": ()}


def decide(environment: Environment, request: Request) -> StoragePlan:
    """Choose where the run lives.

    Raises
    ------
    PlanError
        No tier can serve, the forced tier cannot, or the name's homes contradict each other.
    StorageError
        The one place that would serve is there but broken: its own error, with its remedy.
    """
    runs = _runs(environment, request)
    if request.tier is not None:
        return _forced(environment, request, request.tier, runs)
    if runs:
        return _sticky(environment, request, runs)
    return _chosen(environment, request)


def _runs(environment: Environment, request: Request) -> list[RunHome]:
    return [home for home in environment.homes if home.is_run and home.name == request.name]


def _forced(environment: Environment, request: Request, tier: Tier, runs: Sequence[RunHome]) -> StoragePlan:
    here = [home for home in runs if home.tier == tier]
    if runs and not here:
        raise HomeElsewhereError(
            f"tier={tier!r} was asked for, but run {request.name!r} exists in {_list(runs)}. To continue it, leave "
            "tier out; to start anew, choose another name."
        )
    place = _existing(environment, tier)
    objection = room_objection(place, request) if not here else None
    if objection:
        raise TierUnavailableError(f"tier={tier!r} was asked for, but {place.root}: {objection}")
    reasons = [f"tier={tier!r} was asked for."]
    if here:
        reasons.append(f"A run of this name is there already ({here[0].path}) and is continued.")
    return _plan(environment, request, place, reasons, resumes=bool(here))


def _sticky(environment: Environment, request: Request, runs: Sequence[RunHome]) -> StoragePlan:
    if len(runs) > 1:
        raise SeveralHomesError(
            f"run {request.name!r} exists in more than one place: {_list(runs)}. Continue one of them with tier=…, or "
            "remove or rename the other."
        )
    home = runs[0]
    if home.tier == "local" and (environment.nodes or 1) > 1:
        raise TierUnavailableError(
            f"run {request.name!r} exists in {home.path}, on the disk of this node, which the other "
            f"{(environment.nodes or 1) - 1} nodes do not see. To start anew, choose another name; to continue it, "
            f"copy {home.path} to storage that all nodes see."
        )
    place = _existing(environment, home.tier)
    reason = f"A run of this name is there already ({home.path}) and is continued, whatever its size is now."
    return _plan(environment, request, place, [reason], resumes=True)


def _existing(environment: Environment, tier: Tier) -> Place:
    place = environment.place(tier)
    if place is None or place.state == "absent":
        raise TierUnavailableError(
            f"{tier} storage is needed but there is none: {_looked_for(place)}. {_how_to_set(tier)}"
        )
    if place.problem is not None:
        raise place.problem.error()
    if tier == "local" and (environment.nodes or 1) > 1:
        raise TierUnavailableError(
            f"local storage ({place.root}) is seen by one node only, and the cluster has {environment.nodes}: a run on "
            "several nodes needs cluster, user, shared or artifact storage."
        )
    return place


def _chosen(environment: Environment, request: Request) -> StoragePlan:
    rejected: list[Rejection] = []
    _refuse_unsearched(environment, request)
    for tier, reason in _preferences(environment, request):
        place = environment.place(tier)
        objection = _objection(environment, request, place, tier)
        if objection is None and place is not None:
            return _plan(environment, request, place, [reason], rejected=rejected)
        rejected.append(Rejection(tier, place.root if place else "", objection or "was not looked at"))
    raise _nothing_serves(environment, request, rejected)


def _refuse_unsearched(environment: Environment, request: Request) -> None:
    """A run may live on the very mount that does not answer now; going elsewhere would start it a second time."""
    own = environment.place(_TIER_OF[request.audience])
    if request.name is None or own is None or own.tier not in environment.unsearched or own.problem is None:
        return
    remedy = f"{own.problem.remedy} To start the run elsewhere without looking there, say tier=…."
    raise replace(own.problem, remedy=remedy).error()


def _preferences(environment: Environment, request: Request) -> list[tuple[Tier, str]]:
    """The tiers in the order in which they are tried, each with the reason that would make it the winner."""
    own = _TIER_OF[request.audience]
    local = "No other storage can serve; on one node its disk does. Nobody else sees it; it is gone when the node is."
    if _too_large(environment, request):
        return [("artifact", _size_reason(environment, request)), ("local", local)]
    order: list[tuple[Tier, str]] = [(own, _own_reason(environment, request))]
    order.append(("artifact", f"{own} storage cannot serve, and the bucket is seen by everyone who should."))
    order += [(tier, f"{own} storage cannot serve and there is no bucket; {tier} storage is the next wider place.")
              for tier in _WIDER[own]]  # fmt: skip
    return [*order, ("local", local)]


def _objection(environment: Environment, request: Request, place: Place | None, tier: Tier) -> str | None:
    if place is None or place.state == "absent":
        return f"there is none ({_looked_for(place)})"
    if place.problem is not None:
        return place.problem.reason
    if tier == "local":
        return _local_objection(environment, request, place)
    if tier != "artifact" and not place.network and (environment.nodes or 1) > 1 and not place.location.explicit:
        return (
            f"it is a {place.description or place.filesystem}, which the other {(environment.nodes or 1) - 1} nodes do "
            "not see"
        )
    return room_objection(place, request)


def _local_objection(environment: Environment, request: Request, place: Place) -> str | None:
    if (environment.nodes or 1) > 1:
        return f"one node's disk cannot serve {environment.nodes} nodes"
    wanted = [tier for tier, _ in _preferences(environment, request)]
    broken = [p.problem for p in environment.places if p.tier in wanted and p.tier != "local" and p.problem is not None]
    if broken:
        return (
            f"{broken[0].tier} storage is there but broken, and a run must not start on a disk it would not continue on"
        )
    return room_objection(place, request)


def _nothing_serves(environment: Environment, request: Request, rejected: Sequence[Rejection]) -> Exception:
    preferred = [environment.place(rejection.tier) for rejection in rejected]
    broken = next((place.problem for place in preferred if place is not None and place.problem is not None), None)
    if broken is not None:
        return broken.error()
    lines = "\n".join(f"  - {r.tier} ({r.place or 'not set'}): {r.reason}" for r in rejected)
    first = "artifact" if _too_large(environment, request) else _TIER_OF[request.audience]
    where = f"on {environment.nodes} nodes" if (environment.nodes or 1) > 1 else "on this node"
    return NoStorageError(f"no storage can serve the run {where}:\n{lines}\nWhat to do: {_how_to_set(first)}")


def _plan(
    environment: Environment,
    request: Request,
    place: Place,
    reasons: Sequence[str],
    *,
    rejected: Sequence[Rejection] = (),
    resumes: bool = False,
) -> StoragePlan:
    taken = [home for home in environment.homes if not home.is_run and home.tier == place.tier]
    if any(home.name == request.name for home in taken):
        raise NameTakenError(
            f"{taken[0].path} exists and holds something that no run wrote: choose another name than {request.name!r}, "
            "or move that folder away."
        )
    seen = {place.tier, *(rejection.tier for rejection in rejected)}
    others = [Rejection(tier, _root(environment, tier), _passed_over(environment, request, tier, place.tier))
              for tier in TIERS if tier not in seen]  # fmt: skip
    in_bucket = place.tier == "artifact"
    return StoragePlan(
        name=request.name,
        tier=place.tier,
        storage_path=place.root,
        checkpoint_tier=place.tier,
        resumes=resumes,
        audience=request.audience,
        checkpoint_size=request.checkpoint_size,
        num_to_keep=request.num_to_keep,
        nodes=environment.nodes,
        place=place,
        reasons=tuple(reasons),
        rejected=(*rejected, *others),
        notes=tuple(_notes(environment, request, place)),
        harmless_env_vars=environment.env_vars if in_bucket else (),
        secret_names=environment.secret_names if in_bucket else (),
        credentials=environment.credentials if in_bucket else "none needed",
    )


def _notes(environment: Environment, request: Request, place: Place) -> list[str]:
    notes = []
    if place.tier != "artifact" and not place.network and place.tier != "local":
        notes.append(f"{place.root} is a {place.description or place.filesystem}: other nodes see it only if it is "
                     "mounted there from the same place.")  # fmt: skip
    if place.kind == "tmpfs":
        notes.append(f"{place.root} is in memory: what is saved there is gone when the node restarts.")
    if environment.nodes is None:
        notes.append("No Ray cluster is connected: planned for one node. A Train run checks that again when it starts.")
    if place.tier in NFS_TIERS and _too_large(environment, request):
        notes.append(
            f"Checkpoints over {format_size(environment.threshold)} are slow on NFS and hold up everyone on it."
        )
    if request.checkpoint_size is None:
        notes.append(
            "checkpoint_size was not said, so the size played no part: say it to have large ones in the bucket."
        )
    kept = bytes_kept(request)
    if kept is not None and kept > _FREE_HOSTED_STORAGE:
        notes.append(f"What is kept can reach {format_size(kept)}, more than the 100 GB of storage that hosted clouds "
                     "include: it will be billed.")  # fmt: skip
    if request.checkpoint_size and request.num_to_keep is None:
        notes.append("Every checkpoint is kept: set CheckpointConfig(num_to_keep=…) to bound the space.")
    if place.tier != "artifact" and not fits(place, request):
        notes.append(f"{place.root} may run out of space: {room_objection(place, request)}.")
    return [*notes, *environment.notes]


def _passed_over(environment: Environment, request: Request, tier: Tier, winner: Tier) -> str:
    place = environment.place(tier)
    if place is None or place.state == "absent":
        return f"there is none ({_looked_for(place)})"
    if place.problem is not None:
        return place.problem.reason
    if tier in NFS_TIERS and _too_large(environment, request):
        return _size_reason(environment, request)
    if tier == "local":
        return "one node's disk is for staging, not for the home of a run"
    if tier == "artifact":
        return f"not needed: {winner} storage serves, and objects are slower for small files"
    return f"not the place for audience={request.audience!r}"


def _too_large(environment: Environment, request: Request) -> bool:
    return request.checkpoint_size is not None and request.checkpoint_size > environment.threshold


def _size_reason(environment: Environment, request: Request) -> str:
    size = format_size(request.checkpoint_size or 0)
    return f"Checkpoints of {size} are over {format_size(environment.threshold)}, too large for NFS."


def _own_reason(environment: Environment, request: Request) -> str:
    tier = _TIER_OF[request.audience]
    who = {"cluster": "every node of this cluster", "user": "every cluster of this user", "team": "the whole team"}
    size = "" if request.checkpoint_size is None else (
        f", and checkpoints of {format_size(request.checkpoint_size)} are not over {format_size(environment.threshold)}"
    )  # fmt: skip
    return f"{tier.capitalize()} storage is seen by {who[request.audience]}{size}."


def _root(environment: Environment, tier: Tier) -> str:
    place = environment.place(tier)
    return place.root if place else ""


def _looked_for(place: Place | None) -> str:
    if place is None or not place.root:
        return "no setting names one"
    return f"{place.root}, from {place.location.source}, does not exist"


def _how_to_set(tier: Tier) -> str:
    example = "s3://bucket/folder" if tier == "artifact" else f"/path/on/every/node ({tier} storage)"
    return f"Set RAY_ANYSTORAGE_{tier.upper()}_STORAGE={example} on every node, or choose another tier with tier=…."


def _list(runs: Sequence[RunHome]) -> str:
    return " and ".join(f"{home.path} ({home.tier})" for home in runs)
