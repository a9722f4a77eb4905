"""``ray-anystorage doctor``: tries every tier from this node."""

from __future__ import annotations

import click

from ray_anystorage.cli.failure import failures_shown, write_json


@click.command(short_help="Try every tier from this node.")
@click.option("--credentials", metavar="MODE", help='For the bucket: "auto", "ambient", "reference" or "env".')
@click.option("--json", "as_json", is_flag=True, help="Write JSON, errors included.")
def doctor(credentials: str | None, as_json: bool) -> None:
    """Try every tier from this node: what it is, how fast, and what to do about what does not work.

    Takes some seconds for each tier, and leaves nothing behind.

    \b
    Exit codes:
      0  every tier that is there works
      1  something is wrong with a tier
      2  no tier can serve a run, or a setting cannot be meant
    """
    from ray_anystorage import api
    from ray_anystorage.cli.text import working

    with failures_shown(as_json=as_json), working("Trying every tier"):
        report = api.doctor(credentials=credentials)
    if as_json:
        write_json(report.to_dict())
    else:
        from ray_anystorage.cli.tables import show_report

        show_report(report)
    raise SystemExit(report.exit_code)
