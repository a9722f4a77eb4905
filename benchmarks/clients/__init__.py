"""The competitors, one per module, each a class ``Client`` of the shape in :mod:`benchmarks.target`."""

from __future__ import annotations

import importlib.util

BUCKET = (
    *("ray_stock", "s3fs_client", "boto3_client", "s3torchconnector", "s5cmd", "obstore_plain"),
    *("multi_storage", "rclone"),
)
DIRECTORY = ("ray_stock", "ray_stock_synced", "obstore_plain")
COPIERS = ("s3fs_client", "s5cmd", "rclone", "anystorage_cp")  # of files, as people do it
SAVES_ONLY = {"ray_stock_synced"}
OURS = "anystorage"
STOCK = "ray_stock"
PLAIN = "plain"  # measures the ceiling; competes with nobody


def competitors(*, bucket: bool) -> list[str]:
    """Names of the modules here that serve a kind of place, ours last, where its engine is there."""
    names = list(BUCKET if bucket else DIRECTORY)
    return [*names, OURS] if importlib.util.find_spec("ray_anystorage.transfer.engine") else names
