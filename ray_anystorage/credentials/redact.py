"""Secret values that can be used but neither printed nor pickled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NoReturn

MASK = "***"
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|_SAS|CONNECTION_STRING|CREDENTIAL", re.IGNORECASE)
_HARMLESS = {  # although they sound so: paths, addresses and a mode
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "RAY_ANYSTORAGE_CREDENTIALS",
}


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
    """Mask every occurrence of the values, also as a ``repr`` escapes them; empty values are passed over."""
    forms = {form for value in values if value for form in (value, repr(value)[1:-1])}
    for form in sorted(forms, key=len, reverse=True):  # a value may hold another
        text = text.replace(form, MASK)
    return text


def shown(value: object) -> str:
    """A value for an error message: what is no text, such as a mapping in a wrong place, may hold secrets."""
    return repr(value) if isinstance(value, str) else f"<{type(value).__name__}>"


def sounds_secret(name: str) -> bool:
    """True for a variable whose value should not be shown, going by its name; names of files are harmless."""
    return bool(_SECRET_NAME.search(name)) and name not in _HARMLESS and not name.endswith(("_FILE", "_PATH"))
