"""``ray-anystorage ls``, ``du``, ``cat`` and ``rm``: what lies in the tiers."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ray_anystorage.cli.failure import failures_shown, write_json

if TYPE_CHECKING:
    from ray_anystorage.files.entries import Entry
    from ray_anystorage.files.spot import Spot

_BLOCK = 4 << 20
credentials_option = click.option(
    "--credentials", metavar="MODE", help="For the bucket: auto, ambient, reference, broker or env."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, errors included.")
PLACES = """PLACE is TIER:path (local, cluster, user, shared, artifact), a path, or a URI of a bucket. * and ? stand for
    names in a folder, ** for folders too."""


def place_of(said: str, credentials: str | None) -> Spot:
    """The place that was named, by the settings of this process."""
    from ray_anystorage.files.spot import spot
    from ray_anystorage.settings import read_settings

    return spot(said, read_settings(), credentials=credentials)


@click.command(short_help="List the files at a place.")
@click.argument("place")
@click.option("--recursive", "-r", is_flag=True, help="Files of all folders below, not folders as one line each.")
@credentials_option
@json_option
def ls(place: str, recursive: bool, credentials: str | None, as_json: bool) -> None:
    """List what lies at PLACE: bytes and name, a folder with all that is below it as one line.

    PLACE is TIER:path (local, cluster, user, shared, artifact), a path, or a URI of a bucket. * and ? stand for names
    in a folder, ** for folders too.

    \b
    Exit codes:
      0  here it is
      1  the place fails
      2  there is nothing, or the place cannot be meant
    """
    from ray_anystorage.files.entries import entries, literal

    with failures_shown(as_json=as_json, of_system=True):
        where = literal(place_of(place, credentials))
        found = entries(where, skip=_passed_over)
    shown = [(entry.path, entry.size) for entry in found] if recursive or where.pattern else _folded(found)
    if as_json:
        write_json({"place": where.uri, "entries": [{"path": path, "bytes": size} for path, size in shown]})
        return
    for path, size in shown:
        click.echo(f"{_size(size):>10}  {path}")


@click.command(short_help="Say how much lies at a place.")
@click.argument("place")
@credentials_option
@json_option
def du(place: str, credentials: str | None, as_json: bool) -> None:
    """Say how many files and bytes lie at PLACE, for each folder in it and in all.

    PLACE is TIER:path (local, cluster, user, shared, artifact), a path, or a URI of a bucket.

    \b
    Exit codes: as for ls.
    """
    from ray_anystorage.files.entries import entries, literal

    with failures_shown(as_json=as_json, of_system=True):
        where = literal(place_of(place, credentials))
        found = entries(where, skip=_passed_over)
    folders: dict[str, list[int]] = {}
    for entry in found:
        folders.setdefault(entry.path.partition("/")[0] if "/" in entry.path else ".", []).append(entry.size)
    total = sum(entry.size for entry in found)
    if as_json:
        below = {name: {"files": len(sizes), "bytes": sum(sizes)} for name, sizes in sorted(folders.items())}
        write_json({"place": where.uri, "files": len(found), "bytes": total, "folders": below})
        return
    for name, sizes in sorted(folders.items(), key=lambda item: -sum(item[1])):
        click.echo(f"{_size(sum(sizes)):>10}  {len(sizes):>9,} files  {name}")
    click.echo(f"{_size(total):>10}  {len(found):>9,} files  {where.uri}")


@click.command(short_help="Write a file to standard output.")
@click.argument("place")
@credentials_option
def cat(place: str, credentials: str | None) -> None:
    """Write the file at PLACE to standard output.

    PLACE is TIER:path (local, cluster, user, shared, artifact), a path, or a URI of a bucket.

    \b
    Exit codes: as for ls.
    """
    from ray_anystorage.checkpoint.small_files import patiently
    from ray_anystorage.files.entries import entries, literal

    with failures_shown(of_system=True):
        where = literal(place_of(place, credentials))
        store, out = where.open(), sys.stdout.buffer
        for entry in entries(where):
            for at in range(0, entry.size, _BLOCK):
                block = memoryview(bytearray(min(_BLOCK, entry.size - at)))
                patiently(lambda at=at, block=block, key=entry.key: store.read_range(key, at, block))  # type: ignore[misc]
                if not _written(out, block):
                    return
        _written(out)


@click.command(short_help="Delete files.")
@click.argument("place")
@click.option("--recursive", "-r", is_flag=True, help="A folder with all that is below it.")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@click.option("--not-running", is_flag=True, help="Whoever holds a run there is known to be dead.")
@credentials_option
def rm(place: str, recursive: bool, dry_run: bool, yes: bool, not_running: bool, credentials: str | None) -> None:
    """Delete what lies at PLACE, in a tier or the artifact folder; nothing of a run that is going on.

    PLACE is TIER:path (local, cluster, user, shared, artifact), a path, or a URI of a bucket. * and ? stand for names
    in a folder, ** for folders too.

    \b
    Exit codes:
      0  deleted
      1  the place fails, or a run there is going on
      2  there is nothing, it may not be deleted, or the place cannot be meant
    """
    from ray_anystorage.files.entries import literal, look
    from ray_anystorage.files.guard import check_delete, delete
    from ray_anystorage.settings import read_settings

    with failures_shown(of_system=True):
        where = literal(place_of(place, credentials))
        looked = look(where)
        found = looked.entries
        if not recursive and not where.pattern and not looked.is_file:
            raise click.UsageError(f"{place} is a folder: say --recursive")
        settings = read_settings()
        check_delete(where, found, settings, not_running=not_running)
        if dry_run:
            tell_each("would delete", found)
            return
        total = f"{len(found):,} files, {_size(sum(entry.size for entry in found))}"
        if not yes and not click.confirm(f"Delete {total} at {where.uri}?"):
            raise SystemExit(1)
        delete(where, found, settings, not_running=not_running)
    click.echo(f"deleted {total}", err=True)


def _written(out: BinaryIO, block: memoryview | None = None) -> bool:
    """Write a block, or all that waits to be written; false where whoever read it has enough."""
    try:
        if block is None:
            out.flush()
        else:
            out.write(block)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def tell_each(what: str, found: list[Entry]) -> None:
    """A line for each."""
    for entry in found:
        click.echo(f"{what} {entry.path} ({_size(entry.size)})")


def _passed_over(error: OSError) -> None:
    """A line about a folder that cannot be read."""
    if not re.search(r"/anystorage-\d+$", str(error.filename)):  # another user's of this package is not listed anyway
        click.echo(f"warning: {error.filename} is left out: {error.strerror}", err=True)


def _folded(found: list[Entry]) -> list[tuple[str, int]]:
    """Files as they are, folders with all that is below them."""
    sizes: dict[str, int] = {}
    for entry in found:
        name, slash, _ = entry.path.partition("/")
        sizes[name + slash] = sizes.get(name + slash, 0) + entry.size
    return sorted(sizes.items())


def _size(size: int) -> str:
    from ray_anystorage.units import format_size

    return format_size(size)


def as_dict(entry: Entry) -> dict[str, Any]:
    """Plain values for JSON."""
    return {"path": entry.path, "bytes": entry.size}
