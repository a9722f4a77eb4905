"""``ray-anystorage demo``: two runs on this machine, told as they happen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import click

from ray_anystorage.cli.failure import FAILED, failures_shown
from ray_anystorage.demo.events import Event, Planned, Ready, RunOutcome

_RUNS = 2
_OPENING = """\
Two training runs on this machine, with directories that stand for the mounts and a real S3 server for the bucket. \
All of it is in {directory}, and none of it is left at the end. What your environment says about storage and \
credentials plays no part."""
_KEYS = """\
The S3 server at {endpoint} checks signatures. Its keys are made for this demo and thrown away, so they may travel in \
the open: credentials="env". On a cluster, give the nodes an identity or a profile instead."""
_HEADING = 'Run {run.number} of 2: run_config("{run.name}", checkpoint_size="{run.checkpoint_size}")'
_ONLY_SAID = "Its checkpoints are in truth as small as the first run's: only the size that is said differs."
_TRAINING = "Training on handwritten digits: 2 data-parallel workers, a checkpoint after every epoch"
_WHERE = """\
Where every checkpoint was, and the accuracy of the weights that were read back from there. Attempt 1 ended with the \
kill, attempt 2 went on from its last checkpoint."""
_STORY = """\
Rank 1 (process {outcome.killed_process}) was killed with SIGKILL in epoch {outcome.killed_in}. The run resumed from \
its last checkpoint, that of epoch {outcome.resumed_from}, and reached an accuracy of {outcome.accuracy:.4f} on the \
test images."""


@click.command(short_help="Make two real runs here, a worker killed in each.")
def demo() -> None:
    """Train a real classifier twice on this machine, and kill a worker in each run.

    The first run's checkpoints are small and go to a mount; the second's are said to be large and go to a bucket. It
    takes about a minute, starts its own Ray and S3 server, and cleans up after itself, also on Ctrl-C. It needs
    pip install 'ray-anystorage[demo]'.

    \b
    Exit codes:
      0    both runs resumed from their last checkpoint and reached an accuracy of 0.9
      1    something failed
      130  it was interrupted
    """
    from ray_anystorage.demo.stage import Interrupted, staged

    start, outcomes = time.monotonic(), list[RunOutcome]()
    try:
        with failures_shown(), staged() as (directory, events):
            _tell(_OPENING.format(directory=directory))
            for event in _awaited(events):
                _tell_event(event)
                if isinstance(event, RunOutcome):
                    outcomes.append(event)
    except Interrupted:
        click.echo("Interrupted. What the demo had started has ended, and its directory is gone.", err=True)
        raise
    _tell_end(outcomes, time.monotonic() - start)
    raise SystemExit(0 if _succeeded(outcomes) else FAILED)


def _awaited(events: Iterator[Event]) -> Iterator[Event]:
    from ray_anystorage.cli.text import working

    what = "Starting Ray and the S3 server"
    while True:
        with working(what):
            event = next(events, None)
        if event is None:
            return
        yield event
        what = "Training" if isinstance(event, Planned) else "Planning"


def _tell_event(event: Event) -> None:
    if isinstance(event, Ready):
        _tell(_KEYS.format(endpoint=event.endpoint))
    elif isinstance(event, Planned):
        _tell(_HEADING.format(run=event), style="bold")
        _tell(event.explanation, indent="  ", style=None)
        if event.number == _RUNS:
            _tell(_ONLY_SAID)
        _tell(f"{_TRAINING} …")
    else:
        _tell(_STORY.format(outcome=event))


def _tell_end(outcomes: Sequence[RunOutcome], seconds: float) -> None:
    from ray_anystorage.cli.tables import show_checkpoints

    _tell(_WHERE, style="bold")
    show_checkpoints(outcomes)
    if _succeeded(outcomes):
        _tell(f"Both runs went on after the kill and learned to read digits. It took {seconds:.0f} s.", style="green")
    else:
        _tell("Not both runs resumed from their last checkpoint and reached an accuracy of 0.9.", style="red")


def _succeeded(outcomes: Sequence[RunOutcome]) -> bool:
    return len(outcomes) == _RUNS and all(outcome.good for outcome in outcomes)


def _tell(text: str, *, indent: str = "", style: str | None = "default") -> None:
    """A paragraph; with a style it is one, without it headings stand out."""
    from ray_anystorage.cli.text import console, prose

    console().print(prose(text, indent=indent, style=style))
    click.echo()
