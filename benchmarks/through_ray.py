"""Save and restore as users do, in real runs of Ray Train: ``python -m benchmarks.through_ray [--quick]``.

Two runs, stock Ray and ours, are alive side by side and take turns in random order: ``ray.train.report`` with a
directory and, after a restart of the run, ``Checkpoint.as_directory`` with an empty cache and with a warm one. Every
restored byte is checked. CPU and memory are the worker's; the ceiling is the plain client's in the same round. Every
file changes from round to round, so that nothing of a checkpoint can be taken from the one before.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import clients, machine, plot, shapes, table
from benchmarks.cell import Cell, Contestant, WrongBytesError
from benchmarks.clients import plain
from benchmarks.far_store import HOST
from benchmarks.figures import Figures, figures
from benchmarks.measure import Run, RunFailedError, anonymous_memory, answer
from benchmarks.shapes import Place, Shape, checksums, write_files
from benchmarks.stage import Stage, staged
from benchmarks.target import Target
from ray_anystorage.checkpoint.node import node_folder

_RESULTS = Path(__file__).parent / "results"
_NAMES = [place.name for place in shapes.PLACES]
_ROUNDS, _QUICK_ROUNDS = 7, 3
_CONNECTIONS = {"loopback": 8, "far": 32, "directory": 4}
_LOOK = 1.0  # seconds
_END = 20.0  # seconds that a driver has to say what went wrong
_PATIENCE = 300.0  # seconds until a worker must have called
_BOTH = (clients.STOCK, clients.OURS)


class Player:
    """The worker of a run, at the other end of a connection."""

    def __init__(self, listener: socket.socket) -> None:
        self._link, _ = listener.accept()
        self._link.settimeout(None)
        self._heard, self._said = self._link.makefile("r"), self._link.makefile("w")
        hello = json.loads(self._heard.readline())
        self.name, self._pid = hello["client"], hello["pid"]
        self._settings, self._durable = hello["settings"], hello["durable"]

    def play(self, source: str) -> tuple[Run, dict[str, Any]]:
        """One save or restore."""
        before = anonymous_memory(self._pid)
        print(json.dumps({"source": source}), file=self._said, flush=True)
        took, peak = answer(self._heard, self._pid)
        return Run(took["seconds"], took["cpu"], max(0, peak - before), self._settings, self._durable), took

    def end(self) -> None:
        """Let the training function return."""
        self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()


class Match:
    """The cells of one place and shape."""

    def __init__(self, stage: Stage, place: Place, shape: Shape, rounds: int, *, restores: bool = True) -> None:
        self._stage, self._place, self._shape, self._rounds = stage, place, shape, rounds
        self._restoring = restores
        self._source = stage.work / "source"
        self._chance = random.Random(2)  # noqa: S311 - the order of turns, the same in every session

    def cells(self) -> Iterator[Cell]:
        """Save, restore with an empty cache, restore with a warm one."""
        write_files(self._source, self._shape)
        plain.describe(self._source, self._stage.work / "goal")
        try:
            with self._stage.place(self._place) as target, contextlib.ExitStack() as stack:
                target = replace(target, connections=_CONNECTIONS[self._place.name])
                self._plain("save", str(self._source), "plain", target)
                listener = stack.enter_context(socket.create_server((HOST, 0)))
                runs = [stack.enter_context(self._run(name, target, listener)) for name in _BOTH]
                players = self._players(listener, runs)
                yield self._cell("report", target, players, lambda name: self._save(players[name]))
                if not self._restoring:
                    return
                sums = {name: list(value) for name, value in checksums(self._source).items()}
                yield from self._restores(target, listener, runs, players, sums)
                for run in runs:
                    run.wait()
        finally:
            shutil.rmtree(self._source, ignore_errors=True)

    def _restores(
        self,
        target: Target,
        listener: socket.socket,
        runs: list[subprocess.Popen[bytes]],
        saved: dict[str, Player],
        sums: dict[str, Any],
    ) -> Iterator[Cell]:
        for player in saved.values():
            player.end()
        players = self._players(listener, runs)
        yield self._cell("as_directory", target, players, lambda name: self._restore(players[name], sums, cold=True))
        yield self._cell("as_directory, warm", target, players, lambda name: self._restore(players[name], sums))
        for player in players.values():
            player.end()

    def _players(self, listener: socket.socket, runs: Iterable[subprocess.Popen[bytes]]) -> dict[str, Player]:
        """The workers of both runs, which call when they are ready."""
        players: dict[str, Player] = {}
        listener.settimeout(_LOOK)
        deadline = time.monotonic() + _PATIENCE
        while len(players) < len(_BOTH):
            if time.monotonic() > deadline or any(run.poll() is not None for run in runs):
                raise RunFailedError("a worker did not call")
            with contextlib.suppress(TimeoutError):
                player = Player(listener)
                players[player.name] = player
        return players

    def _log(self, name: str) -> Path:
        return self._stage.work / f"{name}.log"

    def _cell(self, operation: str, target: Target, players: dict[str, Player], play: Callable[[str], Run]) -> Cell:
        contestants = {name: Contestant() for name in (*players, clients.PLAIN)}
        cell = Cell(self._place, operation, self._shape, contestants, target.connections)
        turns: dict[str, Callable[[], Run]] = {name: lambda name=name: play(name) for name in players}  # type: ignore[misc]
        turns[clients.PLAIN] = lambda: self._ceiling(operation, target)
        for turn in turns.values():  # warm; the plain one is last: a report waits until Ray has taken the one before
            turn()
        for number in range(self._rounds):
            if operation == "report":
                _change(self._source, number)
            order = list(turns)
            self._chance.shuffle(order)
            for name in order:
                os.sync()
                contestants[name].runs.append(turns[name]())
            self._stage.reclaim()
        return cell

    def _save(self, player: Player) -> Run:
        return player.play(str(self._source))[0]

    def _restore(self, player: Player, sums: dict[str, Any], *, cold: bool = False) -> Run:
        if cold:
            shutil.rmtree(Path(node_folder(str(self._stage.work / "local")), "cache"), ignore_errors=True)
        run, answered = player.play("")
        if answered["sums"] != sums:
            raise WrongBytesError("the restored files differ")
        return run

    def _ceiling(self, operation: str, target: Target) -> Run:
        if operation == "report":
            return self._plain("save", str(self._source), "plain-again", target)
        goal = self._stage.work / "goal"
        goal.mkdir()
        try:
            return self._plain("restore", "plain", str(goal), target)
        finally:
            shutil.rmtree(goal)

    def _plain(self, operation: str, source: str, goal: str, target: Target) -> Run:
        return self._stage.run(clients.PLAIN, operation, source, goal, target)

    @contextlib.contextmanager
    def _run(self, name: str, target: Target, listener: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
        order = {"client": name, "target": asdict(target), "size": self._shape.total, "ray": _address()}
        order["referee"] = listener.getsockname()
        command = [sys.executable, "-m", "benchmarks.ray_player", json.dumps(order)]
        log = self._log(name).open("w")
        with log, subprocess.Popen(command, stderr=log, stdout=log, env=self._stage.site(target)) as process:
            try:
                yield process
            except RunFailedError as error:  # the driver says why, as soon as it knows
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_END)
                raise RunFailedError(f"{error}; {name} wrote: {self._log(name).read_text()[-3000:]}") from error
            finally:
                process.kill()


def _change(folder: Path, number: int) -> None:
    """Make every file another one, of the same size."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                file.write(b"%08d" % number)


def _address() -> str:
    import ray

    address: str = ray.get_runtime_context().gcs_address
    return address


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Two small shapes, three rounds.")
@click.option("--place", "places", type=click.Choice(_NAMES), multiple=True, help="Only here; may be repeated.")
@click.option("--shape", "wanted", multiple=True, help="Only shapes whose name starts so, such as '512 x'.")
@click.option("--rounds", type=click.IntRange(min=1), help="Pairs per cell; 7 unless told, 3 with --quick.")
@click.option("--restores/--no-restores", default=True, show_default=True)
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS, show_default=True)
def main(
    quick: bool,
    places: tuple[str, ...],
    wanted: tuple[str, ...],
    rounds: int | None,
    restores: bool,
    results: Path,
) -> None:
    console = Console(width=170)
    report: Figures = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine.describe(None), "cells": []}
    path = results / f"{time.strftime('%Y-%m-%d-%H%M%S')}-through-ray{'-quick' if quick else ''}.json"
    results.mkdir(parents=True, exist_ok=True)
    with staged(None) as stage, ray_node(stage):
        for place in (place for place in shapes.PLACES if place.name in (places or _NAMES)):
            for shape in shapes.shapes(place, quick=quick):
                if wanted and not str(shape).startswith(wanted):
                    continue
                pairs = rounds or (_QUICK_ROUNDS if quick else _ROUNDS)
                for cell in Match(stage, place, shape, pairs, restores=restores).cells():
                    report["cells"].append(figures(cell))
                    table.show(report["cells"][-1], console)
                    path.write_text(json.dumps(report, indent=1))
    if report["cells"]:
        plot.draw_report(report, path)
    console.print(f"figures: {path}")


@contextlib.contextmanager
def ray_node(stage: Stage) -> Iterator[str]:
    """One node for all runs, with the environment of the stage; its address."""
    os.environ.update(stage.node_environment())
    import ray  # reads its environment when it is imported

    ray.init(_node_ip_address=HOST, num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="WARNING")
    try:
        yield _address()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
