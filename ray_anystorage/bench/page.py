"""x."""

from ray_anystorage.bench.results import BenchReport


def page(report: BenchReport) -> str:
    """."""
    return ""
