"""Options that mean nothing together, in this process."""

from __future__ import annotations

from click.testing import CliRunner

from ray_anystorage.cli.main import main


def test_a_time_limit_for_nodes_means_nothing_without_them() -> None:
    done = CliRunner().invoke(main, ["doctor", "--timeout", "5"])
    assert (done.exit_code, "say --cluster as well" in done.output) == (2, True)
    shown = CliRunner().invoke(main, ["doctor", "--help"]).output
    assert "default: 60" in " ".join(shown.split())
