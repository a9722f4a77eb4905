"""``ray-anystorage verify``: reads a run's checkpoints again and compares them with what was saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ray_anystorage.cli.failure import FAILED, failures_shown, write_json
from ray_anystorage.errors import RequestError

if TYPE_CHECKING:
    from rich.table import Table

    from ray_anystorage.checkpoint.audit import Finding
    from ray_anystorage.runs import Run
    from ray_anystorage.transfer.store import Store

_STYLES = {"ok": "green", "damaged": "red", "never committed": "red", "not readable": "red"}


@click.command(short_help="Read a run's checkpoints again and compare them.")
@click.argument("run")
@click.argument("checkpoint", required=False)
@click.option("--sizes", is_flag=True, help="Compare sizes alone: finds what is gone or cut short, and no flipped bit.")
@click.option("--credentials", metavar="MODE", help="For the bucket: auto, ambient, reference, broker or env.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, errors included.")
def verify(run: str, checkpoint: str | None, sizes: bool, credentials: str | None, as_json: bool) -> None:
    """Read the checkpoints of a run again, wherever they lie, and compare every byte with what was saved.

    RUN is its name, or the path or URI of its home; CHECKPOINT one of its checkpoints, all of them unless said. One
    that is damaged is marked, so that no run resumes from it; one that was marked before and is good byte by byte loses
    its mark.

    \b
    Exit codes:
      0  nothing wrong was found
      1  something is damaged, or cannot be read
      2  an argument or a setting cannot be meant, or there is no such run or checkpoint
    """
    from ray_anystorage.runs import find_run

    with failures_shown(as_json=as_json):
        found = find_run(run, credentials=credentials)
        findings = list(_findings(found, checkpoint, content=not sizes))
    if as_json:
        write_json(_as_dict(found, findings, content=not sizes))
    else:
        _show(found, findings, content=not sizes)
    raise SystemExit(0 if all(finding.good for finding in findings) else FAILED)


def _findings(run: Run, only: str | None, *, content: bool) -> Iterator[Finding]:
    from ray_anystorage.checkpoint.audit import audit
    from ray_anystorage.cli.text import working

    home = run.open_home()
    if only is not None and not _is_there(home, only):
        raise RequestError(f"run {run.name!r} at {run.uri} has no checkpoint {only!r}")
    for name in [only] if only is not None else sorted(_known(home)):
        opened = run.origin(name).opened(home)
        with working(f"Verifying {name}"):
            finding = audit(opened.sources, name, opened.folder, content=content)
        # Not where it could not be read: a mount that hangs would not answer this either.
        bad = not finding.good and finding.state != "not readable"
        if only is None and bad and name not in _known(home):
            finding = replace(finding, state="deleted meanwhile", reason="the run deleted it meanwhile", mark=None)
        yield finding


def _known(home: Store) -> frozenset[str]:
    from ray_anystorage.checkpoint.audit import recorded
    from ray_anystorage.train.snapshot import named_checkpoints

    return named_checkpoints(home) | recorded(home)


def _is_there(home: Store, checkpoint: str) -> bool:
    """Whether there is a checkpoint of this name, which may have slashes; a folder inside of one is none."""
    from ray_anystorage.checkpoint.small_files import names_below

    if any(not segment or segment.startswith(".") for segment in checkpoint.split("/")):
        return False
    return checkpoint in _known(home) if "/" in checkpoint else bool(names_below(home, checkpoint))


def _totals(findings: Sequence[Finding]) -> dict[str, int]:
    return {
        "checkpoints": len(findings),
        "ok": sum(finding.state == "ok" for finding in findings),
        "not_verifiable": sum(finding.state == "not verifiable" for finding in findings),
        "bad": sum(not finding.good for finding in findings),
        "bytes": sum(finding.size for finding in findings),
        "detours": sum(len(finding.detours) for finding in findings),
    }


def _as_dict(run: Run, findings: Sequence[Finding], *, content: bool) -> dict[str, Any]:
    return {
        "run": run.name,
        "home": run.uri,
        "tier": run.tier,
        "compared": "content" if content else "sizes",
        "checkpoints": [finding.to_dict() for finding in findings],
        "totals": _totals(findings),
    }


def _show(run: Run, findings: Sequence[Finding], *, content: bool) -> None:
    from rich.text import Text

    from ray_anystorage.cli.text import console, prose

    out = console()
    out.print(Text(f"Run {run.name!r}: {run.uri}", style="bold"), soft_wrap=True)
    if not findings:
        out.print("There is no checkpoint that Ray's snapshot names, and none with a record.")
        return
    out.print(_table(run, findings))
    for finding in findings:
        for line in _remarks(finding):
            out.print(prose(f"{finding.checkpoint}: {line}", style="default"))
    out.print()
    style = "green" if all(finding.good for finding in findings) else "red"
    out.print(prose(_verdict(_totals(findings), content=content), style=style))


def _table(run: Run, findings: Sequence[Finding]) -> Table:
    from rich.text import Text

    from ray_anystorage.cli.tables import plain_table
    from ray_anystorage.units import format_size

    table = plain_table()
    table.add_column("Checkpoint", overflow="fold")
    for title in ("Size", "Ranks", "Saved at", "Detours"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("Place")
    table.add_column("State")
    for finding in findings:
        table.add_row(
            finding.checkpoint,
            format_size(finding.size),
            f"{finding.ranks}/{finding.world_size}" if finding.world_size else "-",
            f"{format_size(finding.speed)}/s" if finding.speed else "-",
            str(len(finding.detours) or "-"),
            _place(run, finding),
            Text(finding.state, style=_STYLES.get(finding.state, "yellow")),
        )
    return table


def _place(run: Run, finding: Finding) -> str:
    home = f"{run.uri}/{finding.checkpoint}"
    return " and ".join(dict.fromkeys("run home" if place == home else "bucket" for place in finding.places)) or "-"


def _remarks(finding: Finding) -> Iterator[str]:
    if finding.reason is not None:
        yield f"{finding.state}: {finding.reason.removeprefix(f'checkpoint {finding.checkpoint} is damaged: ')}"
    if finding.mark == "set":
        yield "marked as damaged: no run resumes from it"
    if finding.mark == "lifted":
        yield "was marked as damaged before and is good: the mark is lifted"
    for why, ranks in Counter(why for _, why in finding.detours).items():
        whose = f"{ranks} ranks" if ranks > 1 else "a rank"
        yield f"the data of {whose} lies elsewhere than planned: {why}"


def _verdict(totals: dict[str, int], *, content: bool) -> str:
    from ray_anystorage.units import format_size

    parts = [f"{totals['ok']} good"]
    if totals["not_verifiable"]:
        parts.append(f"{totals['not_verifiable']} not verifiable")
    parts.append(f"{totals['bad']} not good")
    how = "every byte compared" if content else "sizes compared, and no content"
    return (
        f"Checkpoints: {totals['checkpoints']}, {format_size(totals['bytes'])}, {how}. {', '.join(parts)}. "
        f"Detours: {totals['detours']}."
    )
