"""``ray-anystorage cp``, ``sync`` and ``mv``: files from one tier to another."""

from __future__ import annotations

import posixpath
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click

from ray_anystorage.cli.failure import failures_shown, write_json
from ray_anystorage.cli.files import as_dict, credentials_option, json_option, place_of, tell_each

if TYPE_CHECKING:
    from ray_anystorage.files.entries import Entry
    from ray_anystorage.files.plan import Plan
    from ray_anystorage.files.record import Record
    from ray_anystorage.files.spot import Spot

dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No bar and no summary.")


@click.command(short_help="Copy files from one place to another.")
@click.argument("source")
@click.argument("target")
@dry_run_option
@quiet_option
@credentials_option
@json_option
def cp(source: str, target: str, **said: Any) -> None:
    """Copy SOURCE to TARGET: a file, a folder with all that is below it (its content, not itself), or what a pattern
    names. Killed and run again, it copies what is missing, of large files too.

    Both are TIER:path (local, cluster, user, shared, artifact), a path, or a URI of a bucket. A file goes to TARGET
    itself, or into it where TARGET ends in a slash or is a folder.

    \b
    Exit codes:
      0  all of it is there
      1  a place fails, or files changed or went away meanwhile, which are named; what was copied stays, and is not
         copied again
      2  there is nothing at SOURCE, or a place cannot be meant
    """
    with failures_shown(as_json=said["as_json"], of_system=True):
        work = _Work.of(source, target, said["credentials"])
        with work.held(said):
            work.copy(said)
    _tell(work, said)


@click.command(short_help="Make a folder like another one.")
@click.argument("source")
@click.argument("target")
@click.option("--delete", "deletes", is_flag=True, help="Delete what SOURCE does not have, after asking.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@click.option("--size-only", is_flag=True, help="Take files of the same size for the same.")
@click.option("--not-running", is_flag=True, help="Whoever holds a run in TARGET is known to be dead.")
@dry_run_option
@quiet_option
@credentials_option
@json_option
def sync(source: str, target: str, **said: Any) -> None:
    """Copy what TARGET lacks of SOURCE, or has otherwise. What was copied from here before, and did not change on
    either side since, is left alone; what others put there is copied again, unless --size-only.

    Both are TIER:path (local, cluster, user, shared, artifact), a path, or a URI of a bucket.

    \b
    Exit codes: as for cp.
    """
    if said["as_json"] and said["deletes"] and not (said["yes"] or said["dry_run"]):
        raise click.UsageError("--json cannot ask: say --yes or --dry-run")
    with failures_shown(as_json=said["as_json"], of_system=True):
        work = _Work.of(source, target, said["credentials"], by_size=said["size_only"], folders_only=said["deletes"])
        extra = work.check_extra(said) if said["deletes"] else []
        with work.held(said):
            work.copy(said)
            if extra and not said["dry_run"]:
                work.delete_extra(extra, said)
    _tell(work, said)


@click.command(short_help="Move files from one place to another.")
@click.argument("source")
@click.argument("target")
@click.option("--not-running", is_flag=True, help="Whoever holds a run in SOURCE is known to be dead.")
@dry_run_option
@quiet_option
@credentials_option
@json_option
def mv(source: str, target: str, **said: Any) -> None:
    """Copy SOURCE to TARGET as cp does, then delete at SOURCE what is there and of its size at TARGET. What changed
    meanwhile is kept.

    \b
    Exit codes:
      0  all of it is there, and no longer at SOURCE
      1  a place fails, files changed or went away meanwhile, or a run at SOURCE is going on
      2  there is nothing at SOURCE, it may not be deleted, or a place cannot be meant
    """
    from ray_anystorage.files.guard import check_delete
    from ray_anystorage.settings import read_settings

    with failures_shown(as_json=said["as_json"], of_system=True):
        work = _Work.of(source, target, said["credentials"])
        check_delete(work.source, work.found, read_settings(), not_running=said["not_running"])
        with work.held(said):
            work.copy(said)
            if not said["dry_run"]:
                work.delete_moved(said)
    _tell(work, said)


@dataclass(slots=True)
class _Work:
    """One copy: the places, what the source holds, and what is to be done."""

    source: Spot
    target: Spot
    found: list[Entry]
    plan: Plan
    record: Record
    seconds: float = 0.0
    deleted: list[Entry] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        said_source: str,
        said_target: str,
        credentials: str | None,
        *,
        by_size: bool = False,
        folders_only: bool = False,
    ) -> _Work:
        """Look at both places."""
        from ray_anystorage.cli.text import working
        from ray_anystorage.errors import RequestError
        from ray_anystorage.files.entries import as_target, literal, look
        from ray_anystorage.files.plan import plan, refuse_overlap
        from ray_anystorage.files.record import Record
        from ray_anystorage.files.unchanged import refuse_same, resolved

        source, target = literal(place_of(said_source, credentials)), place_of(said_target, credentials)
        with working("Looking"):
            looked = look(source)
            found, single = looked.entries, looked.is_file
            if folders_only and (single or source.pattern):
                raise RequestError(f"{said_source!r} is no whole folder: sync --delete would delete the rest of TARGET")
            target = as_target(target, single=single)
            if not single:
                refuse_overlap(resolved(source, source.key), resolved(target, target.key))
            record = Record(f"{source.uri}/{source.pattern}", target.uri)
            there = _held(target, found, single=single)
            made = plan(found, there, record.known, target.key, whole=target.folder, by_size=by_size)
            refuse_same(source, target, made.whole)
        return cls(source, target, found, made, record)

    def held(self, said: dict[str, Any]) -> AbstractContextManager[None]:
        """Nobody else makes this copy meanwhile."""
        return nullcontext() if said["dry_run"] else self.record.held()

    def copy(self, said: dict[str, Any]) -> None:
        """Do it, or say what would be done."""
        from ray_anystorage.cli.bar import bar
        from ray_anystorage.files.moving import copy

        if said["dry_run"]:
            if not said["as_json"]:
                tell_each("would copy", [one.entry for one in self.plan.copies])
            return
        start = time.monotonic()
        with bar("Copying", self.plan.bytes, quiet=said["quiet"] or said["as_json"]) as moved:
            copy(self.source, self.target, self.plan.copies, self.record, moved)
        self.seconds = time.monotonic() - start

    def check_extra(self, said: dict[str, Any]) -> list[Entry]:
        """What the target has beyond the source, if it may be deleted."""
        from ray_anystorage.files.guard import check_delete
        from ray_anystorage.settings import read_settings

        extra = list(self.plan.extra)
        check_delete(self.target, extra, read_settings(), not_running=said["not_running"])
        if said["dry_run"] and not said["as_json"]:
            tell_each("would delete", extra)
        if said["dry_run"]:
            self.deleted = extra
        return extra

    def delete_extra(self, extra: list[Entry], said: dict[str, Any]) -> None:
        """Delete it, after asking."""
        from ray_anystorage.files.guard import delete
        from ray_anystorage.settings import read_settings

        if not said["yes"]:
            tell_each("only in the target:", extra)
            if not click.confirm(f"Delete these {len(extra):,} files at {self.target.uri}?"):
                return
        delete(self.target, extra, read_settings(), not_running=said["not_running"])
        self.deleted = extra

    def delete_moved(self, said: dict[str, Any]) -> None:
        """Delete of the source what is in the target; ``FileMovedError`` where that is not all."""
        from ray_anystorage.files.guard import delete
        from ray_anystorage.files.unchanged import movable
        from ray_anystorage.settings import read_settings

        safe, error = movable(self.source, self.target, self.plan.whole)
        delete(self.source, safe, read_settings(), not_running=said["not_running"])
        self.deleted = safe
        if error is not None:
            raise error


def _held(target: Spot, found: list[Entry], *, single: bool) -> list[Entry]:
    """What the target holds already, under the source's names."""
    from ray_anystorage.files.entries import alone_at, below

    if not single:
        return below(target, skip=lambda error: None)
    path = found[0].path
    there = alone_at(target, posixpath.join(target.key, path) if target.folder else target.key)
    return [] if there is None else [replace(there, path=path)]


def _tell(work: _Work, said: dict[str, Any]) -> None:
    from ray_anystorage.units import format_seconds, format_size

    plan = work.plan
    if said["as_json"]:
        write_json(
            {
                "source": work.source.uri,
                "target": work.target.uri,
                "dry_run": said["dry_run"],
                "copied": [as_dict(one.entry) for one in plan.copies],
                "same": len(plan.same),
                "deleted": [entry.path for entry in work.deleted],
                "seconds": round(work.seconds, 3),
            }
        )
    elif not said["quiet"] and not said["dry_run"]:
        rate = f", {format_size(int(plan.bytes / work.seconds))}/s" if work.seconds and plan.bytes else ""
        same = f"; {len(plan.same):,} were there already" if plan.same else ""
        gone = f"; {len(work.deleted):,} deleted" if work.deleted else ""
        done = f"copied {len(plan.copies):,} files, {format_size(plan.bytes)} in {format_seconds(work.seconds)}{rate}"
        click.echo(f"{done}{same}{gone}", err=True)
