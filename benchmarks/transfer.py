"""Save and restore against Ray's own path and other clients, side by side: ``python -m benchmarks.transfer [--quick]``.

Every cell is a place (loopback, a far store, a directory), an operation and a shape. Its ceiling comes first: what a
plain client that only moves bytes reaches with as many connections as help. Then each client runs once untimed, through
a proxy that counts, and every byte is checked. Then come the rounds: in each, every client and the plain one run once
in random order, in a fresh process, and the result is checked again.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from benchmarks import clients, machine, plot, proxy_ceiling, shapes, table
from benchmarks.cell import Runner
from benchmarks.figures import Figures, figures
from benchmarks.stage import staged

_RESULTS = Path(__file__).parent / "results"
_OPERATIONS = ("save", "restore")
_NAMES = [place.name for place in shapes.PLACES]
_ROUNDS, _QUICK_ROUNDS = 7, 3


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Two small shapes, three rounds.")
@click.option("--copies", is_flag=True, help="Files, by ray-anystorage cp and other commands, on the far store.")
@click.option("--latest", is_flag=True, help="Also keep the picture as latest.svg, which the README shows.")
@click.option("--place", "places", type=click.Choice(_NAMES), multiple=True, help="Only here; may be repeated.")
@click.option("--operation", "operations", type=click.Choice(_OPERATIONS), multiple=True, help="Only this one.")
@click.option("--shape", "wanted", multiple=True, help="Only shapes whose name starts so, such as '512 x'.")
@click.option("--client", "names", multiple=True, help="Only these clients; stock Ray always runs.")
@click.option("--rounds", type=click.IntRange(min=1), help="Pairs per cell; 7 unless told, 3 with --quick.")
@click.option(
    "--mount", type=click.Path(exists=True, file_okay=False, path_type=Path), help="The directory to measure."
)
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS, show_default=True)
@click.option(
    "--onto",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Go on with this report: the cells that it has are not measured again.",
)
def main(
    quick: bool,
    copies: bool,
    latest: bool,
    places: tuple[str, ...],
    operations: tuple[str, ...],
    wanted: tuple[str, ...],
    names: tuple[str, ...],
    rounds: int | None,
    mount: Path | None,
    results: Path,
    onto: Path | None,
) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the server is ended as well
    console = Console(width=170)
    report = json.loads(onto.read_text()) if onto else _new_report(mount)
    path = (
        onto or results / f"{time.strftime('%Y-%m-%d-%H%M%S')}{'-quick' if quick else '-copies' if copies else ''}.json"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    rounds = rounds or (_QUICK_ROUNDS if quick else _ROUNDS)
    with staged(mount) as stage:
        for place in _places(places, copies=copies):
            there = clients.COPIERS if copies else clients.competitors(bucket=place.is_bucket)
            chosen = [name for name in there if not names or name in (*names, clients.STOCK)]
            for shape in shapes.COPIED if copies else shapes.shapes(place, quick=quick):
                left = tuple(name for name in operations or _OPERATIONS if not _has(report, place, name, shape))
                if not left or (wanted and not str(shape).startswith(wanted)):
                    continue
                before = machine.load()
                for cell in Runner(stage, place, shape, chosen, rounds, console.print).cells(left):
                    measured = figures(cell) | {"load": [before, before := machine.load()]}
                    report["cells"].append(measured)
                    table.show(measured, console)
                    path.write_text(json.dumps(report, indent=1))  # what is done is kept if the rest is interrupted
    if report["cells"]:
        plot.draw_report(report, path)
        if latest:
            shutil.copyfile(path.with_suffix(".svg"), results / "latest.svg")
    console.print(f"figures: {path}")


def _places(wanted: tuple[str, ...], *, copies: bool) -> list[shapes.Place]:
    there = (shapes.FAR,) if copies else shapes.PLACES
    return [place for place in there if place.name in (wanted or _NAMES)]


def _new_report(mount: Path | None) -> Figures:
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {"started": started, "machine": machine.describe(mount), "proxy": proxy_ceiling.measure(), "cells": []}


def _has(report: Figures, place: shapes.Place, operation: str, shape: shapes.Shape) -> bool:
    wanted = (place.name, operation, str(shape))
    return any((cell["place"], cell["operation"], cell["shape"]) == wanted for cell in report["cells"])


if __name__ == "__main__":
    main()
