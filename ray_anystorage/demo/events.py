"""What happens in the demo's process, as plain values that cross from there as lines of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

GOOD_ACCURACY = 0.9


@dataclass(frozen=True, slots=True)
class Ready:
    """Ray and the S3 server, which listens at ``endpoint``, have started."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class Planned:
    """A run is about to begin; ``number`` counts from 1, ``explanation`` is the plan's own."""

    number: int
    name: str
    checkpoint_size: str
    explanation: str


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A checkpoint, read back from where it lies.

    Attributes
    ----------
    place
        Its path or URI.
    size
        Bytes.
    accuracy
        On the test images, computed with the weights that were read back.
    attempt
        The start of the workers that saved it: 1 before the kill, 2 after it.
    """

    place: str
    size: int
    epoch: int
    accuracy: float
    attempt: int


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A finished run.

    Attributes
    ----------
    killed_process, killed_in
        The worker that was killed, and the epoch it was in.
    resumed_from
        The epoch of the checkpoint that the workers went on from; 0 when they began anew.
    """

    name: str
    checkpoints: tuple[SavedCheckpoint, ...]
    killed_process: int
    killed_in: int
    resumed_from: int

    @property
    def accuracy(self) -> float:
        """Of the last checkpoint."""
        return self.checkpoints[-1].accuracy

    @property
    def good(self) -> bool:
        """True when the run went on from its last checkpoint, lost none, and learned to read digits."""
        epochs = [checkpoint.epoch for checkpoint in self.checkpoints]
        return (
            self.resumed_from == self.killed_in - 1 > 0
            and epochs == list(range(1, len(epochs) + 1))
            and self.accuracy >= GOOD_ACCURACY
        )


Event = Ready | Planned | RunOutcome


def encode(event: Event) -> str:
    """One line."""
    return json.dumps({"event": type(event).__name__, **asdict(event)}) + "\n"


def decode(line: str) -> Event:
    """The event of a line."""
    values = json.loads(line)
    kind = values.pop("event")
    if kind == "RunOutcome":
        values["checkpoints"] = tuple(SavedCheckpoint(**saved) for saved in values["checkpoints"])
    kinds: dict[str, type[Event]] = {"Ready": Ready, "Planned": Planned, "RunOutcome": RunOutcome}
    return kinds[kind](**values)
