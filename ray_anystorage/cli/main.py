"""The command ``ray-anystorage``."""

from __future__ import annotations

import click

from ray_anystorage._version import __version__
from ray_anystorage.cli.bench import bench
from ray_anystorage.cli.copying import cp, mv, sync
from ray_anystorage.cli.demo import demo
from ray_anystorage.cli.doctor import doctor
from ray_anystorage.cli.files import cat, du, ls, rm
from ray_anystorage.cli.plan import plan
from ray_anystorage.cli.promote import promote
from ray_anystorage.cli.prune import prune
from ray_anystorage.cli.runs import runs
from ray_anystorage.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ray-anystorage")
def main() -> None:
    """The right storage for Ray Train and Ray Tune runs."""


main.add_command(plan)
main.add_command(doctor)
main.add_command(runs)
main.add_command(verify)
main.add_command(promote)
main.add_command(prune)
for _command in (ls, du, cat, cp, sync, mv, rm):
    main.add_command(_command)
main.add_command(bench)
main.add_command(demo)
