"""``ray-anystorage plan``: where a run would go, and why."""

from __future__ import annotations

import click

from ray_anystorage.cli.failure import FAILED, complain, error_dict, failures_shown, write_json
from ray_anystorage.environment import TIERS, Tier
from ray_anystorage.policy.request import AUDIENCES, Audience


@click.command()
@click.argument("name", required=False)
@click.option("--checkpoint-size", metavar="SIZE", help='Of one checkpoint: "60GiB", "10 GB", or bytes.')
@click.option("--num-to-keep", type=click.IntRange(min=1), help="Checkpoints that are kept; all unless said.")
@click.option("--nodes", type=click.IntRange(min=1), help="Nodes of the cluster; one unless said.")
@click.option("--audience", type=click.Choice(AUDIENCES), default="cluster", show_default=True, help="Who sees it.")
@click.option("--tier", type=click.Choice(TIERS), help="Force one of the tiers.")
@click.option("--artifact-storage", metavar="URI", help="The bucket folder, where the environment names another.")
@click.option("--credentials", metavar="MODE", help="For the bucket: auto, ambient, reference, broker or env.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, errors included.")
def plan(
    name: str | None,
    checkpoint_size: str | None,
    num_to_keep: int | None,
    nodes: int | None,
    audience: Audience,
    tier: Tier | None,
    artifact_storage: str | None,
    credentials: str | None,
    as_json: bool,
) -> None:
    """Say where a run would go, and why.

    NAME is the run's; one of the same name that exists already is continued where it is. Nothing is started, and
    nothing but probe files is written. What is true on this node is taken for all of them.

    \b
    Exit codes:
      0  there is a plan
      1  no plan can be made, or it cannot be carried out: no credentials reach the bucket that it chose, or the bucket
         could not be searched for an earlier run of this name
      2  an argument or a setting cannot be meant
    """
    from ray_anystorage import api
    from ray_anystorage.resolve import search_obstacle, survey

    with failures_shown(as_json=as_json):
        found = survey(name, nodes=nodes, credentials=credentials, roots={"artifact": artifact_storage})
        made = api.plan(
            name,
            checkpoint_size=checkpoint_size,
            num_to_keep=num_to_keep,
            audience=audience,
            tier=tier,
            environment=found.environment,
        )
    obstacle = found.obstacle if made.bucket else search_obstacle(found, made, forced=tier is not None)
    if as_json:
        write_json({**made.to_dict(), **({"error": error_dict(obstacle)} if obstacle else {})})
    else:
        from ray_anystorage.cli.text import console, prose

        console().print(prose(made.explain()))
        if obstacle is not None:
            complain(obstacle)
    raise SystemExit(FAILED if obstacle else 0)
