"""The commands for files between tiers, as tests run them, and places for them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ray_anystorage.checkpoint import node
from ray_anystorage.cli.main import main
from ray_anystorage.testing.s3_server import S3Server
from tests.harness.ray_cluster import leave_clean
from tests.harness.s3 import artifact_env

MiB = 1 << 20
FILES = {"a.bin": 3 * MiB, "sub/b.bin": 17 * MiB, "sub/c.txt": 5, "sub/deep/d.txt": 0, "e f.txt": 7}


def make_site(tmp_path: Path, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three mounts, an artifact folder, and a folder with files in ``shared`` storage; this process in their midst."""
    leave_clean(monkeypatch)
    monkeypatch.setattr(node, "_state", {})  # its folder lies in the site of an earlier test
    for name, value in site_env(tmp_path, s3_server, bucket).items():
        monkeypatch.setenv(name, value)
    for tier in ("cluster", "shared", "local"):
        (tmp_path / tier).mkdir()
    make_files(tmp_path / "shared" / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def site_env(folder: Path, server: S3Server, bucket: str) -> dict[str, str]:
    return {
        **server.env(),
        **artifact_env(server, f"{bucket}/team"),
        "HOME": str(folder),
        **{f"RAY_ANYSTORAGE_{t.upper()}_STORAGE": str(folder / t) for t in ("cluster", "shared", "local")},
    }


def make_files(folder: Path) -> None:
    for name, size in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))


def run(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(main, list(arguments), input=answer)


def done(*arguments: str, answer: str = "") -> str:
    result = run(*arguments, answer=answer)
    assert result.exit_code == 0, result.output
    return result.stdout


def said(*arguments: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(done(*arguments, "--json"))
    return values


def refused(code: int, words: str, *arguments: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.output.split()), result.output
