"""The figures as a picture: one panel per cell, a bar per client, the ceiling as a line.

``python -m benchmarks.plot benchmarks/results/FILE.json`` draws the pictures of a report again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import clients

_OURS, _STOCK, _PEER, _CEILING = "#1b7f4b", "#c0504d", "#8fa3b8", "#333333"
_LABELS = {
    "ray_stock": "Ray (stock)",
    "ray_stock_synced": "Ray (stock), synced",
    "s3fs_client": "s3fs",
    "boto3_client": "boto3",
    "s3torchconnector": "s3torchconnector",
    "s5cmd": "s5cmd",
    "multi_storage": "multi-storage-client",
    "rclone": "rclone",
    "obstore_plain": "obstore, plain",
    "anystorage": "ray_anystorage",
}


def draw_report(report: dict[str, Any], path: Path) -> None:
    """Draw all cells of a report beside its JSON file ``path``, as PNG and as SVG."""
    cores = report["machine"]["cores"]
    heading = f"ray_anystorage transfer benchmark, {report['started'][:10]}, {cores} cores; longer is better"
    for suffix in (".png", ".svg"):
        _draw(report["cells"], heading, path.with_suffix(suffix))


def _draw(cells: list[dict[str, Any]], heading: str, path: Path) -> None:
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text
    columns = sorted({cell["shape"] for cell in cells}, key=lambda shape: [one["shape"] for one in cells].index(shape))
    rows = list(dict.fromkeys((cell["place"], cell["operation"]) for cell in cells))
    figure = Figure(figsize=(4.6 * len(columns) + 0.6, 2.5 * len(rows) + 0.7), layout="constrained")
    figure.suptitle(heading, fontsize=11)
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    places = {(cell["place"], cell["operation"], cell["shape"]): cell for cell in cells}
    for row, (place, operation) in enumerate(rows):
        for column, shape in enumerate(columns):
            cell = places.get((place, operation, shape))
            if cell is None:
                panels[row][column].set_axis_off()
            else:
                _panel(panels[row][column], cell)
    figure.savefig(path, dpi=150)


def _panel(axes: Axes, cell: dict[str, Any]) -> None:
    good = [(name, one) for name, one in cell["clients"].items() if "failure" not in one]
    for position, (name, one) in enumerate(reversed(good)):
        rate = one["rate"]
        error = [[rate["median"] - rate["lower"]], [rate["upper"] - rate["median"]]]
        colour = {clients.OURS: _OURS, clients.STOCK: _STOCK}.get(name, _PEER)
        axes.barh(
            position, rate["median"], color=colour, height=0.7, xerr=error, error_kw={"lw": 1, "ecolor": "#222222"}
        )
        axes.annotate(
            f"{rate['median']:,.0f}" if rate["median"] >= 100 else f"{rate['median']:.3g}",
            (rate["upper"], position),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )
    axes.set_yticks(range(len(good)), [_LABELS.get(name, name) for name, _ in reversed(good)], fontsize=8)
    ceiling = cell["ceiling"]["rate"]["median"]
    axes.axvline(ceiling, color=_CEILING, ls="--", lw=1)
    most = max([ceiling, *(one["rate"]["upper"] for _, one in good)])
    axes.set_xlim(0, most * 1.15)
    axes.set_title(f"{cell['place']}: {cell['operation']} {cell['shape']}", fontsize=9, loc="left")
    axes.set_xlabel("MB/s; dashed: ceiling; whiskers: quartiles", fontsize=7)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        draw_report(json.loads(Path(name).read_text()), Path(name))
