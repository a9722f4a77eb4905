"""How a command fails: the error in words or as JSON, and its exit code."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import click

from ray_anystorage.errors import AnyStorageError, RequestError, StorageError

FAILED = 1
MISUSED = 2


@contextlib.contextmanager
def failures_shown(*, as_json: bool = False, of_system: bool = False) -> Iterator[None]:
    """Show an error of this package without a traceback and end the command; with ``of_system`` any ``OSError``, too.

    The exit code is 2 where an argument or a setting cannot be meant, else 1. As JSON the error goes to standard
    output, where a program looks for the answer.
    """
    try:
        yield
    except (AnyStorageError, OSError) as error:
        if not (of_system or isinstance(error, AnyStorageError)):
            raise
        if as_json:
            write_json({"error": error_dict(error)})
        else:
            complain(error)
        raise SystemExit(MISUSED if isinstance(error, RequestError) else FAILED) from None


def complain(error: Exception) -> None:
    """Write an error to standard error."""
    from ray_anystorage.cli.text import console, prose

    out, text = console(stderr=True), f"error: {error}"
    if out.is_terminal:
        out.print(prose(text))
    else:
        click.echo(text, err=True)


def error_dict(error: Exception) -> dict[str, str]:
    """Plain values for JSON; an error of a place also says which, what was tried and what to do."""
    values = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, StorageError):
        values |= {name: getattr(error, name) for name in ("tier", "place", "reason", "tried", "remedy")}
    return values


def write_json(value: dict[str, Any]) -> None:
    """Write a value to standard output, for programs."""
    click.echo(json.dumps(value, indent=2))
