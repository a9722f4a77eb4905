"""Fixtures that every test may use; each lives in a module of ``tests/harness``."""

pytest_plugins = (
    "tests.harness.brokers",
    "tests.harness.s3",
    "tests.harness.bad_endpoints",
    "tests.harness.ray_cluster",
    "tests.harness.tiny_gcs",
    "tests.harness.azurite",
)
