"""A reader of the documentation: types what a page says, in a folder of its own, and compares what it shows.

Its storage tiers are directories and a bucket of the test's S3 server. What a page calls ``/mnt``, its MinIO and its
keys stand for those, in commands and in what they print.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from ray_anystorage.testing.s3_server import S3Server
from tests.docs.blocks import ROOT, Block
from tests.docs.forked import run_command, run_script
from tests.harness.ray_cluster import clean_environment

BUCKET, FOLDER = "acme", "ray"
TIERS = ("local", "cluster", "user", "shared")
_ANYTHING = "…"
_PLAIN = re.compile(r"ray-anystorage ([^$|&;<>`~*]*)")  # a command of this package, with nothing for a shell to do
_SCRIPT = 'cd "$WHERE"\n{command}\n{{ code=$?; env -0 > "$ENV_FILE"; pwd > "$PWD_FILE"; exit $code; }} 2>/dev/null'


class Reader:
    """Someone who reads one page from its beginning."""

    def __init__(self, folder: Path, server: S3Server, *, site: bool = True) -> None:
        self.folder, self.mnt = folder, folder / "mnt"
        for tier in TIERS:
            (self.mnt / f"{tier}_storage").mkdir(parents=True)
        self._stand_ins = {
            "https://minio.example:9000": server.endpoint,
            "AKIAIOSFODNN7EXAMPLE": server.access_key,  # the examples of Amazon's own documentation
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": server.secret_key,
        }
        self._where = folder / "project"
        self._where.mkdir()
        self._env = clean_environment(
            {
                **server.env(),
                "HOME": str(folder),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "RAY_ANYSTORAGE_PROBE_TIMEOUT": "30",  # seconds; on a busy machine too, what works is found to
            }
        )
        if site:
            self.has(
                RAY_ANYSTORAGE_ARTIFACT_STORAGE=f"s3://{BUCKET}/{FOLDER}",
                **{f"RAY_ANYSTORAGE_{tier.upper()}_STORAGE": str(self.mnt / f"{tier}_storage") for tier in TIERS},
            )

    def has(self, **variables: str) -> None:
        """Set variables of the reader's shell."""
        self._env |= variables

    def saves(self, name: str, source: Path) -> None:
        """Have a file in the folder where commands are typed."""
        (self._where / name).write_bytes(source.read_bytes())

    def plays(self, block: Block) -> None:
        """Do what a block says.

        Raises
        ------
        AssertionError
            That did not go as the page shows; it names the block.
        """
        if block.elsewhere:
            return
        if block.file is not None:
            (self._where / block.file).write_text(self._here(block.text))
        elif block.language == "python":
            (self._where / "snippet.py").write_text(self._here(block.text))
            self._compared(block, "python snippet.py", *run_script("snippet.py", self._where, self._env), None)
        elif block.language == "bash":
            self._types(block, f"set -e\n{block.text}", None)
        elif block.language == "console":
            for command, shown in block.commands():
                self._types(block, command, shown)

    def _types(self, block: Block, command: str, shown: str | None) -> None:
        typed = self._here(command)
        plain = _PLAIN.fullmatch(typed)
        done = run_command(shlex.split(plain[1]), self._where, self._env) if plain else self._in_shell(typed)
        self._compared(block, command, *done, shown)

    def _compared(self, block: Block, command: str, code: int, output: str, shown: str | None) -> None:
        told = f"{block.where}: {command}\n{self._there(output)}"
        assert (code == 0) != bool(shown and failure_shown(shown)), told
        if shown:
            assert agrees(shown, self._there(squeezed(output))), f"{told}\n--- the page shows:\n{shown}"

    def _in_shell(self, command: str) -> tuple[int, str]:
        """Its exit status and what it printed; its variables and its folder stay for what is typed next."""
        env_file, pwd_file = self.folder / "env", self.folder / "pwd"
        files = {"WHERE": str(self._where), "ENV_FILE": str(env_file), "PWD_FILE": str(pwd_file)}
        done = subprocess.run(
            ["bash", "-c", _SCRIPT.format(command=command)], env={**self._env, **files}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=170, check=False,
        )  # fmt: skip
        if env_file.exists():
            self._env = dict(entry.split("=", 1) for entry in env_file.read_text().split("\0") if "=" in entry)
            self._where = Path(pwd_file.read_text().strip())
            env_file.unlink()
        return done.returncode, done.stdout

    def _here(self, text: str) -> str:
        for said, real in self._stand_ins.items():
            text = text.replace(said, real)
        return re.sub(r"/mnt(?=/\w+_storage)", str(self.mnt), text)

    def _there(self, text: str) -> str:
        for said, real in (("/mnt", str(self.mnt)), *self._stand_ins.items()):
            text = text.replace(real, said)
        return text


def failure_shown(shown: str) -> bool:
    """Whether a page shows an output that ends in failure."""
    return re.search(r'^(error: |Something is wrong|  "error": )', shown, re.MULTILINE) is not None


def agrees(shown: str, output: str) -> bool:
    """Whether an output is what a page shows, both squeezed, with ``…`` for anything."""
    pieces = [squeezed(piece) for piece in shown.split(_ANYTHING)]
    return re.fullmatch(".*".join(map(re.escape, pieces)), output, re.DOTALL) is not None


def squeezed(text: str) -> str:
    """A text without blanks and line ends: where lines end depends on how long a path is."""
    return "".join(text.split())
