"""The rules, in the order in which they apply. Nothing here does I/O: the same inputs give the same plan.

1. A tier that the user forced wins, or fails with the reason why it cannot serve.
2. A run of the same name is continued where it is; two of them are an error.
3. Checkpoints over the threshold go to ``artifact``, and the run home with them.
4. Otherwise the NFS tier of the audience, if what is kept fits with a tenth of the free space to spare.
5. Otherwise ``artifact``; without a bucket a wider NFS tier; on one node, at last, the local disk.

Where the home is on a mount and there is a usable bucket, each checkpoint is routed by its real size (``spill``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ray_anystorage.environment import TIERS, Environment, Place, RunHome, Tier
from ray_anystorage.errors import (
    HomeElsewhereError,
    NameTakenError,
    NoStorageError,
    SeveralHomesError,
    TierUnavailableError,
)
from ray_anystorage.policy.plan import Rejection, StoragePlan
from ray_anystorage.policy.request import Request
from ray_anystorage.policy.space import room_objection, too_large
from ray_anystorage.policy.spill import all_spilled, spill_bucket, spill_reasons
from ray_anystorage.policy.wording import (
    TIER_OF,
    how_to_set,
    listed,
    local_reason,
    looked_for,
    notes,
    own_reason,
    passed_over,
    root_of,
    size_reason,
)
from ray_anystorage.units import sentence

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
            f"tier={tier!r} was asked for, but run {request.name!r} exists in {listed(runs)}. To continue it, leave "
            "tier out; to start anew, choose another name."
        )
    place = _existing(environment, tier)
    needs_room = not here and not all_spilled(environment, request, place)
    objection = room_objection(place, request) if needs_room else None
    if objection:
        raise TierUnavailableError(
            f"tier={tier!r} was asked for, but in {place.root} {objection}. Free some space there, keep fewer with "
            "CheckpointConfig(num_to_keep=…), or choose another tier."
        )
    reasons = [f"tier={tier!r} was asked for."]
    if here:
        reasons.append(f"A run of this name is there already ({here[0].path}) and is continued.")
    return _plan(environment, request, place, reasons, resumes=bool(here))


def _sticky(environment: Environment, request: Request, runs: Sequence[RunHome]) -> StoragePlan:
    if len(runs) > 1:
        raise SeveralHomesError(
            f"run {request.name!r} exists in more than one place: {listed(runs)}. Continue one of them with tier=…, or "
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
            f"{tier} storage is needed but there is none: {looked_for(place)}. {how_to_set(tier)}"
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
    own = environment.place(TIER_OF[request.audience])
    if request.name is None or own is None or own.tier not in environment.unsearched or own.problem is None:
        return
    remedy = f"{sentence(own.problem.remedy)} To start the run elsewhere without looking there, say tier=…."
    raise replace(own.problem, remedy=remedy).error()


def _preferences(environment: Environment, request: Request) -> list[tuple[Tier, str]]:
    """The tiers in the order in which they are tried, each with the reason that would make it the winner."""
    own = TIER_OF[request.audience]
    local = local_reason(environment, request)
    if too_large(environment, request):
        return [("artifact", size_reason(environment, request)), ("local", local)]
    order: list[tuple[Tier, str]] = [(own, own_reason(environment, request))]
    fails = _cannot_serve(environment, own)
    order.append(("artifact", f"{fails}, and the bucket is seen by everyone who should."))
    order += [(tier, f"{fails} and there is no bucket; {tier} storage is the next wider place.")
              for tier in _WIDER[own]]  # fmt: skip
    return [*order, ("local", local)]


def _cannot_serve(environment: Environment, tier: Tier) -> str:
    """That a tier cannot, and what is wrong with its place where there is one: the run's own line has to say it."""
    place = environment.place(tier)
    broken = f" ({place.root}: {place.problem.reason.rstrip('.')})" if place and place.problem else ""
    return f"{tier} storage cannot serve{broken}"


def _objection(environment: Environment, request: Request, place: Place | None, tier: Tier) -> str | None:
    if place is None or place.state == "absent":
        return f"there is none ({looked_for(place)})"
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
    seen = {rejection.tier for rejection in rejected}
    others = [Rejection(tier, root_of(environment, tier), passed_over(environment, request, tier, None))
              for tier in TIERS if tier not in seen]  # fmt: skip
    lines = "\n".join(f"  - {r.tier} ({r.place or 'not set'}): {r.reason}" for r in (*rejected, *others))
    first = "artifact" if too_large(environment, request) else TIER_OF[request.audience]
    where = f"on {environment.nodes} nodes" if (environment.nodes or 1) > 1 else "on this node"
    return NoStorageError(f"no storage can serve the run {where}:\n{lines}\nWhat to do: {how_to_set(first)}")


def _refuse_taken(environment: Environment, request: Request, place: Place) -> None:
    taken = [home for home in environment.homes if not home.is_run and home.tier == place.tier]
    if any(home.name == request.name for home in taken):
        raise NameTakenError(
            f"{taken[0].path} exists and holds something that no run wrote: choose another name than {request.name!r}, "
            "or move that folder away."
        )


def _plan(
    environment: Environment,
    request: Request,
    place: Place,
    reasons: Sequence[str],
    *,
    rejected: Sequence[Rejection] = (),
    resumes: bool = False,
) -> StoragePlan:
    _refuse_taken(environment, request, place)
    seen = {place.tier, *(rejection.tier for rejection in rejected)}
    others = [Rejection(tier, root_of(environment, tier), "the run is continued where it is" if resumes else
                        passed_over(environment, request, tier, place.tier))
              for tier in TIERS if tier not in seen]  # fmt: skip
    spill = spill_bucket(environment, place)
    uses_bucket = place.tier == "artifact" or spill is not None
    return StoragePlan(
        name=request.name,
        tier=place.tier,
        storage_path=place.root,
        checkpoint_tier="artifact" if all_spilled(environment, request, place) else place.tier,
        spill=spill,
        threshold=environment.threshold,
        resumes=resumes,
        audience=request.audience,
        checkpoint_size=request.checkpoint_size,
        num_to_keep=request.num_to_keep,
        nodes=environment.nodes,
        place=place,
        reasons=(*reasons, *spill_reasons(environment, request, place)),
        rejected=(*rejected, *others),
        notes=tuple(notes(environment, request, place)),
        harmless_env_vars=environment.env_vars if uses_bucket else (),
        secret_names=environment.secret_names if uses_bucket else (),
        credentials=environment.credentials if uses_bucket else "none needed",
    )
