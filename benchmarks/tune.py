"""What storage costs an experiment of many short trials: ``python -m benchmarks.tune [--trials 200] [--place far]``.

Stock Tune and this package run the same experiment (ASHA, three reports with a checkpoint of four small files each, of
which each trial keeps the last) by turns, each in a fresh driver on one Ray node. The proxy before the store counts
requests and bytes.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import clients, machine, shapes
from benchmarks.stage import Stage, staged
from benchmarks.through_ray import ray_node
from ray_anystorage.bench.noise import ratio, spread

_RESULTS = Path(__file__).parent / "results"
_NAMES = [place.name for place in shapes.PLACES]
_REPORTS = 3
_COUNTED = ("requests", "bytes_up", "bytes_down")


def run(stage: Stage, place: shapes.Place, client: str, trials: int, address: str, longest: float) -> dict[str, Any]:
    """One experiment: its seconds, and the requests and bytes that it took; ended after ``longest`` seconds."""
    with stage.place(place) as target:
        target, proxy = stage.counting(place, target)
        before = proxy.counts() if proxy else None
        order = {"client": client, "target": asdict(target), "trials": trials, "reports": _REPORTS, "ray": address}
        answer = _drive(order, stage.site(target), longest)
        if proxy and before:
            used = proxy.counts().since(before)
            answer |= {"requests": sum(used.requests.values()), "by_method": used.requests}
            answer |= {"bytes_up": used.bytes_up, "bytes_down": used.bytes_down}
        return answer


def _drive(order: dict[str, Any], environment: dict[str, str], longest: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.tune_driver", json.dumps(order)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=longest,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"seconds": longest, "unfinished": True}
    if done.returncode:
        raise RuntimeError(f"{order['client']}: {done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if answer["errors"] or answer["trials"] != order["trials"] or not answer["opened"]:
        raise RuntimeError(f"{order['client']}: {answer}")
    return answer


def summary(place: shapes.Place, trials: int, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The figures of one place; requests and bytes per trial where a proxy counted them."""
    seconds = {client: [one["seconds"] for one in each] for client, each in runs.items()}
    per_trial = {
        client: {name: asdict(spread([one[name] / trials for one in each])) for name in _COUNTED if name in each[0]}
        for client, each in runs.items()
    }
    return {
        "place": place.name,
        "trials": trials,
        "seconds": {client: asdict(spread(values)) for client, values in seconds.items()},
        "per_trial": per_trial,
        "unfinished": {client: sum(one.get("unfinished", False) for one in each) for client, each in runs.items()},
        "times_as_fast_as_stock": asdict(ratio(seconds[clients.STOCK], seconds[clients.OURS])),
        "runs": runs,
    }


def show(figures: dict[str, Any], console: Console) -> None:
    """A line for each client, and what one is to the other."""
    for client, seconds in figures["seconds"].items():
        counted = (f"{value['median']:,.1f} {name}" for name, value in figures["per_trial"][client].items())
        ended = f" ({figures['unfinished'][client]} did not end)" if figures["unfinished"][client] else ""
        took = f"{seconds['median']:.1f} s{ended}"
        console.print(f"{figures['place']}: {client} {took}; per trial {', '.join(counted) or '-'}")
    faster = figures["times_as_fast_as_stock"]
    least = "at least " if figures["unfinished"][clients.STOCK] else ""
    console.print(f"{figures['place']}: {least}{faster['mean']:.2f} times as fast [{faster['low']}, {faster['high']}]")


@click.command(help=__doc__)
@click.option("--trials", default=200, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--longest", default=1800.0, show_default=True, help="Seconds after which an experiment is ended.")
@click.option("--place", "places", type=click.Choice(_NAMES), multiple=True, help="Only here; may be repeated.")
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS, show_default=True)
def main(trials: int, rounds: int, longest: float, places: tuple[str, ...], results: Path) -> None:
    """See the module."""
    console, chance = Console(width=150), random.Random(3)  # noqa: S311 - the order of turns
    report: dict[str, Any] = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine.describe(None)}
    report["tune"] = []
    path = results / f"{time.strftime('%Y-%m-%d-%H%M%S')}-tune.json"
    results.mkdir(parents=True, exist_ok=True)
    with staged(None) as stage, ray_node(stage) as address:
        for place in (place for place in shapes.PLACES if place.name in (places or _NAMES)):
            runs: dict[str, list[dict[str, Any]]] = {clients.STOCK: [], clients.OURS: []}
            for _ in range(rounds):
                for client in chance.sample(sorted(runs), len(runs)):
                    runs[client].append(run(stage, place, client, trials, address, longest))
                    console.print(f"{place.name}: {client} {runs[client][-1]}")
                stage.reclaim()
            report["tune"].append(summary(place, trials, runs))
            path.write_text(json.dumps(report, indent=1))
            show(report["tune"][-1], console)
    console.print(f"figures: {path}")


if __name__ == "__main__":
    main()
