"""Scripts and commands in processes of their own, which a server forks that has imported what takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_IMPORTED = ("ray_anystorage.cli.main", "ray_anystorage.train.run_config", "ray.tune", "botocore.session", "rich.table")
_LONGEST = 120.0  # seconds


def run_script(name: str, folder: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Run a Python script in its folder, with this environment alone; its exit status and what it printed."""
    return _forked(_script, (name,), folder, env)


def run_command(words: Sequence[str], folder: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Run ``ray-anystorage`` with these words, as :func:`run_script` does."""
    return _forked(_command, tuple(words), folder, env)


def _forked(
    run: Callable[[tuple[str, ...]], None], words: tuple[str, ...], folder: Path, env: Mapping[str, str]
) -> tuple[int, str]:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(_IMPORTED))
    with tempfile.NamedTemporaryFile("r", dir=folder.parent) as output:
        process = server.Process(target=_become, args=(run, words, str(folder), dict(env), output.name))
        process.start()
        process.join(_LONGEST)
        if process.exitcode is None:
            process.kill()
            process.join()
        return process.exitcode or 0, output.read()


def _become(
    run: Callable[[tuple[str, ...]], None], words: tuple[str, ...], folder: str, env: dict[str, str], output: str
) -> None:
    with open(output, "wb") as said, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    run(words)


def _script(words: tuple[str, ...]) -> None:
    runpy.run_path(words[0], run_name="__main__")


def _command(words: tuple[str, ...]) -> None:
    from ray_anystorage.cli.main import main

    main(list(words), prog_name="ray-anystorage")
