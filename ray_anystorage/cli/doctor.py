"""``ray-anystorage doctor``: tries every tier from this node, or from every node of the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ray_anystorage.cli.failure import failures_shown, write_json
from ray_anystorage.cluster.nodes import NODE_TIMEOUT

if TYPE_CHECKING:
    from ray_anystorage.diagnosis.cluster_report import ClusterReport
    from ray_anystorage.diagnosis.report import Report


@click.command(short_help="Try every tier from this node, or from every node.")
@click.option("--cluster", is_flag=True, help="Ask every node of the Ray cluster that RAY_ADDRESS or this node names.")
@click.option(
    "--timeout", type=float, help=f"With --cluster: seconds that a node may take.  [default: {NODE_TIMEOUT:g}]"
)
@click.option("--artifact-storage", metavar="URI", help="The bucket folder, where the environment names another.")
@click.option("--credentials", metavar="MODE", help="For the bucket: auto, ambient, reference, broker or env.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, errors included.")
def doctor(
    cluster: bool, timeout: float | None, artifact_storage: str | None, credentials: str | None, as_json: bool
) -> None:
    """Try every tier from this node: what it is, how fast, and what to do about what does not work.

    With --cluster from every node at once, and also: whether each mount is the same one everywhere, and which nodes
    differ in versions or clocks. Takes some seconds for each tier, and leaves nothing behind.

    \b
    Exit codes:
      0  every tier that is there works
      1  something is wrong with a tier or a node, or no cluster can be reached
      2  no tier can serve a run, or a setting cannot be meant
    """
    from ray_anystorage.checkup import doctor as examine
    from ray_anystorage.cli.text import working

    if timeout is not None and not cluster:
        raise click.UsageError("--timeout is for the nodes of a cluster: say --cluster as well")
    limit = NODE_TIMEOUT if timeout is None else timeout
    report: Report | ClusterReport
    with failures_shown(as_json=as_json), working("Trying every tier"):
        if cluster:
            report = examine(cluster=True, credentials=credentials, artifact_storage=artifact_storage, timeout=limit)
        else:
            report = examine(credentials=credentials, artifact_storage=artifact_storage)
    if as_json:
        write_json(report.to_dict())
    else:
        _show(report)
    raise SystemExit(report.exit_code)


def _show(report: Report | ClusterReport) -> None:
    from ray_anystorage.cli.cluster_table import show_cluster
    from ray_anystorage.cli.tables import show_report
    from ray_anystorage.diagnosis.report import Report

    if isinstance(report, Report):
        show_report(report)
    else:
        show_cluster(report)
