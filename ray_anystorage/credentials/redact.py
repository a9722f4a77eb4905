"""Secret values that can be used but neither printed nor pickled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NoReturn

MASK = "***"
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|_SAS", re.IGNORECASE)


class Secrets:
    """Environment variables whose values are secret: names show, values only through :meth:`reveal`.

    Pickling one raises ``TypeError``, so that no value can travel inside another object by accident.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._values = dict(values or {})

    @property
    def names(self) -> tuple[str, ...]:
        """The variables' names, sorted."""
        return tuple(sorted(self._values))

    def reveal(self) -> dict[str, str]:
        """The values, for the one place that hands them to the workers."""
        return dict(self._values)

    def redact(self, text: str) -> str:
        """The text with every one of these values masked."""
        return redact(text, self._values.values())

    def __repr__(self) -> str:
        return f"Secrets({', '.join(f'{name}={MASK}' for name in self.names)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"secret values are never pickled ({', '.join(self.names) or 'none'})")


def redact(text: str, values: Iterable[str]) -> str:
    """Mask every occurrence of the values, longest first; empty values are passed over."""
    for value in sorted((value for value in values if value), key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


def sounds_secret(name: str) -> bool:
    """True for a variable whose value should not be shown, going by its name; names of files are harmless."""
    return bool(_SECRET_NAME.search(name)) and not name.endswith(("_FILE", "_PATH"))
