"""Writes ``anystorage.json``, the dashboard, by Grafana's own types (``pip install grafana-foundation-sdk``).

Counters of a worker end with it, and Prometheus sees no increase before a counter's second sample: so what is rare is
shown as a total of the processes that are alive, and only what flows as a rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import prometheus, timeseries
from grafana_foundation_sdk.builders.common import VizLegendOptions, VizTooltipOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, SortOrder, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

FILE = Path(__file__).with_name("anystorage.json")
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
LEGEND = (
    VizLegendOptions()
    .display_mode(LegendDisplayMode.LIST)
    .placement(LegendPlacement.BOTTOM)
    .show_legend(True)
    .calcs([])
)
TOOLTIP = VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
OWN = "ray_anystorage"
TIER = '{tier=~"$tier"}'
EVERY = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """A graph: title, unit, what it says, and its queries with the names of their lines."""

    title: str
    unit: str
    says: str
    queries: tuple[tuple[str, str], ...]


def rate(metric: str, by: str, labels: str = TIER) -> str:
    """Per second, of all processes together."""
    return f"sum by ({by}) (rate({OWN}_{metric}{labels}{EVERY}))"


def total(metric: str, by: str) -> str:
    """Of all processes that are alive."""
    return f"sum by ({by}) ({OWN}_{metric}{TIER})"


def quantile(share: float, metric: str, by: str) -> str:
    """Of a histogram."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', f'le, {by}')})"


PANELS = (
    Panel(
        "Throughput by tier",
        "Bps",
        "Bytes of checkpoints that all nodes together sent and fetched.",
        (
            (rate("transferred_bytes_total", "tier, direction"), "{{tier}} {{direction}}"),
            (rate("saved_bytes_total", "tier, store"), "{{tier}} saved to {{store}}"),
            (rate("restored_bytes_total", "tier, source"), "{{tier}} restored from {{source}}"),
        ),
    ),
    Panel(
        "Speed of one transfer",
        "Bps",
        "Bytes by the seconds that transfers took: what one process gets while it sends or fetches.",
        (
            (
                f"{rate('transferred_bytes_total', 'tier, direction, store')} / "
                f"{rate('transfer_seconds_total', 'tier, direction, store')}",
                "{{tier}} {{direction}} {{store}}",
            ),
        ),
    ),
    Panel(
        "Until a rank's part is durable",
        "s",
        "From the begin of a save to its manifest.",
        (
            (quantile(0.5, "save_seconds", "tier, store"), "{{tier}} {{store}} p50"),
            (quantile(0.95, "save_seconds", "tier, store"), "{{tier}} {{store}} p95"),
        ),
    ),
    Panel(
        "Stall of the training",
        "s",
        "How long training stood still for one checkpoint: its files moved aside, copied, or waited for.",
        (
            (quantile(0.5, "stall_seconds", "tier, how"), "{{tier}} {{how}} p50"),
            (quantile(0.95, "stall_seconds", "tier, how"), "{{tier}} {{how}} p95"),
        ),
    ),
    Panel(
        "Share of the time that training stands still",
        "percentunit",
        "Seconds of stall in a second, on average over the ranks that report.",
        (
            (
                f"{rate('stall_seconds_sum', 'tier')} / count by (tier) ({OWN}_stall_seconds_sum{TIER})",
                "{{tier}}",
            ),
        ),
    ),
    Panel(
        "Checkpoints committed, by where their data went",
        "short",
        "home: as planned. routed: too large for the mount. fallen_back: elsewhere, for a failure or a lack of room.",
        ((total("committed_checkpoints_total", "tier, placed"), "{{tier}} {{placed}}"),),
    ),
    Panel(
        "Parts of ranks that lie elsewhere than planned",
        "short",
        "Saves that took a detour, of all saves.",
        ((total("save_seconds_count", "tier, store, detour"), "{{tier}} {{store}} detour={{detour}}"),),
    ),
    Panel(
        "Restores, by source",
        "short",
        "cache: the node had it. place: read on the mount. store: fetched.",
        ((total("restore_seconds_count", "tier, source"), "{{tier}} {{source}}"),),
    ),
    Panel(
        "Cache hits, of all restores",
        "percentunit",
        "Restores that the node's own cache served.",
        (
            (
                f'sum by (tier) ({OWN}_restore_seconds_count{{tier=~"$tier", source="cache"}}) / '
                f"{total('restore_seconds_count', 'tier')}",
                "{{tier}}",
            ),
        ),
    ),
    Panel(
        "Until a checkpoint can be read",
        "s",
        "From opening it to a verified directory.",
        ((quantile(0.95, "restore_seconds", "tier, source"), "{{tier}} {{source}} p95"),),
    ),
    Panel(
        "Retries and throttles",
        "short",
        "Requests made again, and times that a store asked for fewer.",
        (
            (total("retries_total", "tier, direction, store"), "{{tier}} {{direction}} {{store}} retries"),
            (total("throttles_total", "tier, direction, store"), "{{tier}} {{direction}} {{store}} throttles"),
        ),
    ),
    Panel(
        "Errors, by operation",
        "short",
        "Operations that failed. An upload that failed and took a detour is one; its save is none.",
        ((total("failures_total", "tier, operation"), "{{tier}} {{operation}}"),),
    ),
)


def dashboard() -> str:
    """The dashboard as JSON."""
    made = (
        Dashboard("ray_anystorage")
        .uid("ray-anystorage")
        .tags(["ray", "storage"])
        .refresh("30s")
        .time("now-3h", "now")
        .readonly()
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            QueryVariable("tier")
            .label("Tier")
            .datasource(SOURCE)
            .query(f"label_values({OWN}_save_seconds_count, tier)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")
            .multi(True)
        )
    )
    for panel in PANELS:
        graph = timeseries.Panel().title(panel.title).description(panel.says).unit(panel.unit).min(0)
        graph = graph.datasource(SOURCE).height(8).span(12)
        graph = graph.legend(LEGEND).tooltip(TOOLTIP)
        for letter, (expression, name) in zip("ABC", panel.queries, strict=False):
            query = prometheus.Dataquery().expr(expression).legend_format(name).datasource(SOURCE)
            graph = graph.with_target(query.ref_id(letter))
        made = made.with_panel(graph)
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


if __name__ == "__main__":
    FILE.write_text(dashboard())
