"""``ray-anystorage promote``: a verified copy of a run's best checkpoint in another tier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ray_anystorage.cli.failure import failures_shown, write_json
from ray_anystorage.environment import TIERS, Tier

if TYPE_CHECKING:
    from ray_anystorage.catalog import Mode


@click.command(short_help="Copy a run's best checkpoint to another tier.")
@click.argument("run")
@click.argument("checkpoint", required=False)
@click.option("--to", type=click.Choice(TIERS), required=True, help="The tier that gets the copy.")
@click.option("--as", "name", help="The name of the run that holds the copy; RUN-promoted unless said.")
@click.option("--metric", help="Choose the best checkpoint by this metric.")
@click.option("--mode", type=click.Choice(["max", "min"]), help="Which is best; goes with --metric.")
@click.option("--credentials", metavar="MODE", help="For the bucket: auto, ambient, reference, broker or env.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, errors included.")
def promote(
    run: str,
    checkpoint: str | None,
    to: Tier,
    name: str | None,
    metric: str | None,
    mode: Mode | None,
    credentials: str | None,
    as_json: bool,
) -> None:
    """Copy a checkpoint of a run to another tier, and compare every byte of the copy with what was saved.

    RUN is its name, or the path or URI of its home; CHECKPOINT one that it keeps: the latest of a Train run unless
    said, or the best by --metric. The copy is a run of its own, whose results() and checkpoint open like any other's,
    and which a new run of that name goes on from. The original stays.

    \b
    Exit codes:
      0  the copy is there and was compared
      1  it could not be made
      2  an argument or a setting cannot be meant, or there is no such run or checkpoint
    """
    from ray_anystorage import stored
    from ray_anystorage.catalog import number_in
    from ray_anystorage.cli.text import console, prose, working
    from ray_anystorage.units import format_size

    with failures_shown(as_json=as_json), working("Copying"):
        made = stored.promote(
            run, to=to, checkpoint=checkpoint, name=name, metric=metric, mode=mode, credentials=credentials
        )
    if as_json:
        write_json({"source": made.source, "copy": made.uri, "run": made.run.name, "tier": to, "size": made.size})
        return
    which = f"\nThe {mode} of {metric}: {number_in(made.metrics, metric):g}" if metric is not None else ""
    text = f"Copied {made.source}\nto {made.uri}\n{format_size(made.size)}, every byte compared.{which}"
    console().print(prose(text))
