"""Whether what a run keeps fits where it would go."""

from __future__ import annotations

from ray_anystorage.environment import Environment, Place
from ray_anystorage.policy.request import Request
from ray_anystorage.units import format_size


def bytes_kept(request: Request) -> int | None:
    """The most bytes that lie there at once, or ``None`` where the size is not known.

    Ray deletes an old checkpoint only after the new one is recorded, so ``num_to_keep + 1`` exist for a moment. Where
    all are kept the number is not known: two is the least that a run which resumes needs.
    """
    if request.checkpoint_size is None:
        return None
    return request.checkpoint_size * ((request.num_to_keep or 1) + 1)


def fits(place: Place, request: Request) -> bool:
    """True when what is kept leaves a tenth of the free space over, or when either is not known."""
    kept = bytes_kept(request)
    free = place.space.free_bytes if place.space else None
    return kept is None or free is None or 10 * kept <= 9 * free


def room_objection(place: Place, request: Request) -> str | None:
    """Why there is too little room, or ``None``. A bucket has no bound."""
    if place.tier == "artifact" or fits(place, request):
        return None
    free = place.space.free_bytes if place.space else None
    count, size, kept = request.num_to_keep or 1, request.checkpoint_size or 0, bytes_kept(request) or 0
    return (
        f"{count} kept and one being written, of {format_size(size)} each, need {format_size(kept)} with a tenth of "
        f"the free space to spare, and {format_size(free or 0)} are free"
    )


def too_large(environment: Environment, request: Request) -> bool:
    return request.checkpoint_size is not None and request.checkpoint_size > environment.threshold
