"""What the user asked for, validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ray_anystorage.environment import TIERS, Tier
from ray_anystorage.errors import InvalidNameError, InvalidSizeError, RequestError
from ray_anystorage.units import parse_size

Audience = Literal["cluster", "user", "team"]
AUDIENCES: tuple[Audience, ...] = get_args(Audience)
SPILLED = "spilled"  # the bucket's folder for checkpoint data of runs whose home is on a mount
RESERVED_NAMES = {
    "artifacts": "the folder of artifacts_dir()",
    SPILLED: "the checkpoints that a mount does not take",
}
_LONGEST_NAME = 255  # bytes, NAME_MAX of every file system that this may land on


@dataclass(frozen=True, slots=True)
class Request:
    """A request for storage.

    Attributes
    ----------
    name
        The run's name, one path segment, or ``None`` where only a tier is wanted.
    checkpoint_size
        Bytes of one checkpoint, or ``None`` where it is not known.
    num_to_keep
        How many checkpoints Ray keeps, or ``None`` for all of them.
    audience
        Who should see the run.
    tier
        The tier to use whatever the policy says, or ``None``.

    Raises
    ------
    InvalidNameError, InvalidSizeError, RequestError
        A value cannot be meant; the message names it and what was expected.
    """

    name: str | None = None
    checkpoint_size: int | None = None
    num_to_keep: int | None = None
    audience: Audience = "cluster"
    tier: Tier | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            check_name(self.name)
        if self.checkpoint_size is not None and self.checkpoint_size < 0:
            raise InvalidSizeError(f"checkpoint_size={self.checkpoint_size!r} is negative: expected bytes")
        if self.num_to_keep is not None and (
            isinstance(self.num_to_keep, bool) or not isinstance(self.num_to_keep, int) or self.num_to_keep < 1
        ):
            raise RequestError(
                f"num_to_keep={self.num_to_keep!r}: expected a whole number above 0, or None to keep all"
            )
        if self.audience not in AUDIENCES:
            raise RequestError(f"audience={self.audience!r}: expected one of {', '.join(map(repr, AUDIENCES))}")
        if self.tier is not None and self.tier not in TIERS:
            raise RequestError(f"tier={self.tier!r}: expected one of {', '.join(map(repr, TIERS))}, or None to choose")

    @classmethod
    def of(
        cls,
        name: str | None = None,
        checkpoint_size: int | str | None = None,
        num_to_keep: int | None = None,
        audience: Audience = "cluster",
        tier: Tier | None = None,
    ) -> Request:
        """A request as a person writes it: the size may have a unit."""
        size = None if checkpoint_size is None else parse_size(checkpoint_size)
        return cls(name, size, num_to_keep, audience, tier)


def check_name(name: str) -> str:
    """Return the name if it is one path segment that every store takes.

    Raises
    ------
    InvalidNameError
        It is empty, has a slash, a backslash or a control character, starts with a dot or ends in a blank, is longer
        than 255 bytes, or is reserved.
    """
    expected = 'expected one path segment such as "llama-ft"'
    if not isinstance(name, str):
        raise InvalidNameError(f"name={name!r} ({type(name).__name__}): {expected}")
    fault = _fault(name)
    if fault:
        raise InvalidNameError(f"name={name!r} {fault}: {expected}")
    return name


def _fault(name: str) -> str | None:
    if not name or name != name.strip():
        return "is empty" if not name.strip() else "starts or ends with a blank"
    if "/" in name or "\\" in name:
        return "holds a slash"
    if name.startswith("."):
        return "starts with a dot"
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "holds a control character"
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        return f"is longer than {_LONGEST_NAME} bytes"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        return "is not valid Unicode"
    return f"is reserved for {RESERVED_NAMES[name]}" if name in RESERVED_NAMES else None


def num_to_keep_of(ray_arguments: Mapping[str, Any]) -> int | None:
    """How many checkpoints arguments of Ray's ``RunConfig`` keep; ``None`` for all."""
    kept: int | None = getattr(ray_arguments.get("checkpoint_config"), "num_to_keep", None)
    return kept
