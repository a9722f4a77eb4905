"""What goes to the bucket though the run home is on a mount: routing by the real size of each checkpoint."""

from __future__ import annotations

from ray_anystorage.environment import BucketAddress, Environment, Place
from ray_anystorage.policy.request import SPILLED, Request
from ray_anystorage.policy.space import too_large
from ray_anystorage.units import format_size


def spill_bucket(environment: Environment, place: Place) -> BucketAddress | None:
    """The bucket that takes what the mount does not; ``None`` where the home is in one, or none can be used."""
    artifact = environment.place("artifact")
    if place.tier == "artifact" or artifact is None or not artifact.usable or environment.bucket_obstacle:
        return None
    return artifact.bucket


def spill_uri(bucket: BucketAddress) -> str:
    """The folder of the bucket that holds such data, as people write it."""
    return f"{bucket.uri}/{SPILLED}"


def all_spilled(environment: Environment, request: Request, place: Place) -> bool:
    """True when the size that was said sends every checkpoint of a home on this mount to the bucket."""
    return too_large(environment, request) and spill_bucket(environment, place) is not None


def spill_reasons(environment: Environment, request: Request, place: Place) -> tuple[str, ...]:
    """Why the data of checkpoints parts from the run's state, where the size says so from the start."""
    bucket = spill_bucket(environment, place)
    if bucket is None or not too_large(environment, request):
        return ()
    size, threshold = format_size(request.checkpoint_size or 0), format_size(environment.threshold)
    return (f"Checkpoints of {size} are over {threshold}, so their data goes to the bucket ({spill_uri(bucket)}).",)


def no_spill_note(environment: Environment, place: Place) -> tuple[str, ...]:
    """Why checkpoints stay on a mount although there is a bucket."""
    artifact, obstacle = environment.place("artifact"), environment.bucket_obstacle
    if place.tier == "artifact" or artifact is None or not artifact.usable or obstacle is None:
        return ()
    return (
        f"Checkpoints stay in {place.tier} storage, also large ones, because the bucket ({artifact.root}) cannot take "
        f"them: {obstacle.rstrip('.')}.",
    )
