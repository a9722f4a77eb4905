"""What the doctor found in a whole cluster, for a person: a row for each tier of each kind of nodes."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ray_anystorage.cli.tables import tier_lines
from ray_anystorage.cli.text import console, prose
from ray_anystorage.diagnosis.cluster_fold import Group
from ray_anystorage.diagnosis.cluster_report import ClusterReport
from ray_anystorage.diagnosis.nodes import counted, listed

_NAMED = 4  # nodes of a group that its heading names; the problems name all


def show_cluster(report: ClusterReport) -> None:
    """Show the kinds of nodes there are, and each problem with the nodes where it is."""
    out = console()
    for group in report.groups:
        out.print(prose(_heading(group)))
        if group.tiers:
            out.print(tier_lines(group.tiers, elsewhere=group.alone), soft_wrap=True)
        else:
            out.print(Text("nothing is known of their storage", style="red"))
        out.print()
    for problem in report.problems:
        out.print(prose(str(problem)))
        out.print()
    out.print(prose(_clocks(report), style="default"))
    out.print(prose(f"Credentials for the bucket: {report.credentials}", style="default"))
    for note in report.notes:
        out.print(prose(note, style="default"))
    _show_verdict(out, report)


def _heading(group: Group) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in group.versions)
    nodes = f"{counted(len(group.nodes))}: {listed(group.nodes, most=_NAMED)}"
    return f"{nodes} ({versions})" if versions else nodes


def _clocks(report: ClusterReport) -> str:
    read = [answer.clock for answer in report.answers if answer.clock is not None]
    if not read:
        return "Clocks: no node told the time"
    offsets, error = [clock.offset for clock in read], max(clock.error for clock in read)
    return f"Clocks: {max(offsets) - min(offsets):.2f} s apart at most, as read to within ± {error:.2f} s"


def _show_verdict(out: Console, report: ClusterReport) -> None:
    every, odd = len(report.answers), {node for problem in report.problems for node in problem.nodes}
    if report.exit_code == 0:
        out.print(Text(f"Every tier that is there works, on {counted(every)}.", style="green"))
    elif report.exit_code == 1:
        out.print(Text(f"Something is wrong on {len(odd)} of {counted(every)}.", style="yellow"))
    else:
        out.print(Text(f"No tier can serve a run on most of {counted(every)}.", style="red"))
