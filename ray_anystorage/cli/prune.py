"""``ray-anystorage prune``: removes what crashes left of a run, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from ray_anystorage.cli.failure import FAILED, failures_shown, write_json

if TYPE_CHECKING:
    from ray_anystorage.checkpoint.ownership import Holder
    from ray_anystorage.checkpoint.retention import Orphan
    from ray_anystorage.runs import Run


@dataclass(slots=True)
class _Work:
    """What was found, and what became of it."""

    run: Run
    holder: Holder | None
    certain: list[Orphan] = field(default_factory=list)
    unnamed: list[Orphan] = field(default_factory=list)
    former: list[Orphan] = field(default_factory=list)
    removed: list[Orphan] = field(default_factory=list)
    failed: list[tuple[Orphan, str]] = field(default_factory=list)


@click.command(short_help="Remove what crashes left of a run.")
@click.argument("run")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.option("--unnamed", is_flag=True, help="Also whole checkpoints that Ray's snapshot of the run does not name.")
@click.option("--not-running", is_flag=True, help="The controller that holds the run is known to be dead.")
@click.option("--credentials", metavar="MODE", help="For the bucket: auto, ambient, reference, broker or env.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, errors included; needs --dry-run or --yes.")
def prune(
    run: str, dry_run: bool, yes: bool, unnamed: bool, not_running: bool, credentials: str | None, as_json: bool
) -> None:
    """Remove what crashes left of a run: saves and uploads that did not end, data that nothing refers to.

    RUN is its name, or the path or URI of its home. Without --dry-run and --yes it shows what it found and asks. Only
    what this package stored for this run is ever looked at.

    \b
    Exit codes:
      0  done, or nothing to do
      1  something could not be removed, or a controller holds the run
      2  an argument or a setting cannot be meant, or there is no such run
    """
    if dry_run and yes:
        raise click.UsageError("--dry-run and --yes contradict each other")
    if as_json and not (dry_run or yes):
        raise click.UsageError("--json cannot ask: say --dry-run or --yes")
    with failures_shown(as_json=as_json):
        work = _look(run, credentials, not_running=not_running)
        chosen = [*work.certain, *(work.unnamed if unnamed else [])]
        if not as_json:
            _show(work, unnamed=unnamed)
        if chosen and not dry_run and (yes or click.confirm("Remove them?")):
            _remove(work, chosen)
    if as_json:
        write_json(_as_dict(work, dry_run=dry_run))
    elif not dry_run:
        _tell(work)
    raise SystemExit(FAILED if work.failed else 0)


def _look(name: str, credentials: str | None, *, not_running: bool) -> _Work:
    from ray_anystorage.checkpoint.ownership import owner_of
    from ray_anystorage.checkpoint.retention import find_orphans
    from ray_anystorage.cli.text import working
    from ray_anystorage.errors import RunInUseError
    from ray_anystorage.runs import find_run
    from ray_anystorage.train.snapshot import STATE_FILES, named_checkpoints
    from ray_anystorage.tune.results import is_experiment, named_by_trials

    with working("Looking"):
        run = find_run(name, credentials=credentials)
        home = run.open_home()
        holder = owner_of(home)
        if holder is not None and not holder.released and not not_running:
            raise RunInUseError(
                f"the run at {run.uri} is held by {holder.who}, which may be saving now. If that is known to be dead, "
                "say --not-running; if it lives all the same, it stops at its next report."
            )
        named = named_by_trials(run) if is_experiment(run) else named_checkpoints(home)
        former = [recipe.open() for recipe in run.former]
        orphans = find_orphans(home, run.open_spill(), named=named, state_files=STATE_FILES, former=former)
    work = _Work(run, holder)
    for orphan in orphans:
        others = work.former if orphan.kind == "of a former home" else work.unnamed
        (work.certain if orphan.certain else others).append(orphan)
    return work


def _remove(work: _Work, chosen: Sequence[Orphan]) -> None:
    """Remove one after the other, as the one that holds the run: a controller that starts meanwhile takes it over."""
    from ray_anystorage.checkpoint.ownership import holding, owner_of
    from ray_anystorage.checkpoint.retention import remove
    from ray_anystorage.cli.text import working
    from ray_anystorage.errors import RunInUseError, StorageError

    home, spill = work.run.open_home(), work.run.open_spill()
    if owner_of(home) != work.holder:
        raise RunInUseError(f"a controller started the run at {work.run.uri} meanwhile; nothing was removed")
    with holding(home, "ray-anystorage prune") as owner:
        for orphan in chosen:
            owner.check()
            with working(f"Removing {orphan.name}"):
                try:
                    remove(orphan, [store for store in (home, spill) if store is not None])
                except (StorageError, OSError) as error:
                    work.failed.append((orphan, str(error)))
                else:
                    work.removed.append(orphan)


def _show(work: _Work, *, unnamed: bool) -> None:
    from rich.text import Text

    from ray_anystorage.cli.text import console, prose

    out = console()
    out.print(Text(f"Run {work.run.name!r}: {work.run.uri}", style="bold"), soft_wrap=True)
    if work.run.obstacle:
        out.print(prose(f"The bucket was not searched for data of this run: {work.run.obstacle}", style="yellow"))
    if work.certain:
        out.print("\nOf no use to anybody:")
        _show_orphans(work.certain)
    if work.unnamed:
        remark = "" if unnamed else ", left alone without --unnamed"
        out.print(prose(f"\nWhole checkpoints that Ray's snapshot does not name{remark}:", style="default"))
        _show_orphans(work.unnamed)
    if work.former:
        remark = "left alone, since the run that it was copied from may use it"
        out.print(prose(f"\nWhat this run home came with from where it was before; {remark}:", style="default"))
        _show_orphans(work.former)
    if not work.certain and not (work.unnamed and unnamed):
        out.print("\nNothing to remove.")


def _show_orphans(orphans: Sequence[Orphan]) -> None:
    from rich.text import Text

    from ray_anystorage.cli.text import console
    from ray_anystorage.units import format_size

    for orphan in orphans:
        size = "-" if orphan.kind == "unfinished upload" else format_size(orphan.size)
        console().print(Text(f"  {size:>8}  {orphan.kind:<19} {orphan.place}/{orphan.name}"), soft_wrap=True)


def _tell(work: _Work) -> None:
    from ray_anystorage.cli.text import console, prose
    from ray_anystorage.units import format_size

    out = console()
    if work.removed:
        size = format_size(sum(orphan.size for orphan in work.removed))
        out.print(prose(f"Removed: {len(work.removed)}, {size}.", style="green"))
    for orphan, why in work.failed:
        out.print(prose(f"{orphan.place}/{orphan.name} stays: {why}", style="red"))


def _as_dict(work: _Work, *, dry_run: bool) -> dict[str, Any]:
    return {
        "run": work.run.name,
        "home": work.run.uri,
        "spill": work.run.spill.uri if work.run.spill else None,
        "not_searched": work.run.obstacle,
        "dry_run": dry_run,
        "found": [_orphan(orphan) for orphan in (*work.certain, *work.unnamed)],
        "former": [_orphan(orphan) for orphan in work.former],
        "removed": [_orphan(orphan) for orphan in work.removed],
        "failed": [{**_orphan(orphan), "reason": why} for orphan, why in work.failed],
    }


def _orphan(orphan: Orphan) -> dict[str, Any]:
    return {"kind": orphan.kind, "place": orphan.place, "name": orphan.name, "size": orphan.size}
