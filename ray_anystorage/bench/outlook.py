"""What a benchmark will write, and roughly cost, before it starts: pure."""

from __future__ import annotations

from ray_anystorage.bench.on_node.place import FOLDER, FULL
from ray_anystorage.bench.wanted import Wanted
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.units import format_seconds, format_size

# US dollars for 1,000 requests to S3 Standard in us-east-1 (aws.amazon.com/s3/pricing); other regions and stores differ
# by some tens of percent. Storage of minutes, and traffic within a region, cost nothing to speak of.
_PUT_DOLLARS, _GET_DOLLARS = 0.005, 0.0004
_PROBES = 20_000  # small requests that the limits take at most, in the seconds that they have


def most_dollars(wanted: Wanted) -> float:
    """What its requests to a bucket cost at most, in US dollars."""
    parts = wanted.bytes / CHUNK_BYTES
    files = sum(len(shape.files) for shape in wanted.shapes) * 2 * (wanted.rounds + 1)
    requests = parts + files + _PROBES
    return requests / 1000 * (_PUT_DOLLARS + 2 * _GET_DOLLARS)


def outlook(wanted: Wanted) -> str:
    """In words."""
    tiers = ", ".join(wanted.tiers) or "every tier that is there"
    return "\n".join(
        (
            f"Measures {tiers} for about {format_seconds(wanted.seconds)}: its limits, then saves and restores.",
            f"- writes {format_size(wanted.bytes)} at most, to {FOLDER}/ in each tier and on each node's own disk, "
            f"leaves {1 - FULL:.0%} of each disk free, and removes all of it at the end",
            f"- costs ${most_dollars(wanted):.2f} at most for requests, where the bucket is S3 at its list price; "
            "reads from another region cost extra",
        )
    )
