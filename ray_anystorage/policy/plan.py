"""The plan: where a run lives, what its processes get, and every reason, readable by people and by programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_anystorage.environment import BucketAddress, Place, Tier
from ray_anystorage.policy.spill import spill_uri
from ray_anystorage.units import format_size


@dataclass(frozen=True, slots=True)
class Rejection:
    """A tier that was not chosen, and why."""

    tier: Tier
    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class StoragePlan:
    """Where a run lives and why. It holds no secret: of those only the variables' names are here.

    Attributes
    ----------
    storage_path
        What Ray calls ``storage_path``: the tier's root, a path or a URI. The run home is ``<storage_path>/<name>``.
    tier, checkpoint_tier
        Where Ray keeps the run's state, and where the data of checkpoints of the size that was said goes.
    spill
        The bucket folder for checkpoints over ``threshold`` bytes and for those that the mount cannot take, where the
        run home is on a mount; ``None`` for a home in a bucket, and where no bucket can be used.
    resumes
        True when a run of this name exists there and is continued.
    checkpoint_size
        Bytes of one checkpoint, or ``None`` where it was not said.
    reasons, rejected, notes
        Why this tier, why not the others, and what the reader should know.
    secret_names
        Variables whose values travel beside ``env_vars`` (``credentials="env"`` only).
    """

    name: str | None
    tier: Tier
    storage_path: str
    checkpoint_tier: Tier
    spill: BucketAddress | None
    threshold: int
    resumes: bool
    audience: str
    checkpoint_size: int | None
    num_to_keep: int | None
    nodes: int | None
    place: Place
    reasons: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    notes: tuple[str, ...]
    harmless_env_vars: tuple[tuple[str, str], ...]
    secret_names: tuple[str, ...]
    credentials: str

    @property
    def env_vars(self) -> dict[str, str]:
        """Variables for every process of the run, all harmless to print."""
        return dict(self.harmless_env_vars)

    @property
    def run_home(self) -> str | None:
        """``<storage_path>/<name>``, or ``None`` where no name was given."""
        return f"{self.storage_path.rstrip('/')}/{self.name}" if self.name else None

    @property
    def bucket(self) -> BucketAddress | None:
        """The bucket folder, where the tier is one."""
        return self.place.bucket

    def explain(self) -> str:
        """The plan in words, for a person."""
        return "\n".join(_explain(self))

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values that ``json.dumps`` takes."""
        return {
            "name": self.name,
            "tier": self.tier,
            "storage_path": self.storage_path,
            "run_home": self.run_home,
            "checkpoint_tier": self.checkpoint_tier,
            "spill": spill_uri(self.spill) if self.spill else None,
            "threshold": self.threshold,
            "resumes": self.resumes,
            "audience": self.audience,
            "checkpoint_size": self.checkpoint_size,
            "num_to_keep": self.num_to_keep,
            "nodes": self.nodes,
            "env_vars": self.env_vars,
            "secret_env_vars": list(self.secret_names),
            "credentials": self.credentials,
            "reasons": list(self.reasons),
            "rejected": [{"tier": r.tier, "place": r.place, "reason": r.reason} for r in self.rejected],
            "notes": list(self.notes),
        }


def _explain(plan: StoragePlan) -> list[str]:
    subject = f"Run {plan.name!r}" if plan.name else "A run"
    verb = "continues in" if plan.resumes else "goes to"
    lines = [f"{subject} {verb} {plan.tier} storage: {plan.run_home or plan.storage_path}", f"  {_checkpoints(plan)}"]
    lines += _section("Why", plan.reasons)
    lines += _section("Not chosen", [f"{r.tier} ({r.place or 'not set'}): {r.reason}" for r in plan.rejected])
    lines += _section("Good to know", plan.notes)
    lines += [f"Credentials: {plan.credentials}"]
    travelling = [f"{name}={value}" for name, value in plan.harmless_env_vars]
    travelling += [f"{name}=***" for name in plan.secret_names]
    return [*lines, *_section("Every process of the run gets", travelling)]


def _checkpoints(plan: StoragePlan) -> str:
    size = "of unknown size" if plan.checkpoint_size is None else f"of {format_size(plan.checkpoint_size)}"
    kept = "all of them kept" if plan.num_to_keep is None else f"{plan.num_to_keep} kept"
    if plan.spill is None:
        return f"Its checkpoints ({size}, {kept}) lie in {plan.checkpoint_tier} storage."
    return (
        f"Each of its checkpoints ({size}, {kept}) lies in {plan.tier} storage, or in artifact storage "
        f"({spill_uri(plan.spill)}) when it is over {format_size(plan.threshold)} or the mount cannot take it."
    )


def _section(title: str, lines: tuple[str, ...] | list[str]) -> list[str]:
    return [f"{title}:", *(f"  - {line}" for line in lines)] if lines else []
