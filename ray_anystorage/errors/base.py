"""The base of every error: it keeps its fields through pickling, because errors cross from workers to the driver."""

from __future__ import annotations

from typing import Any


class AnyStorageError(Exception):
    """Base of every error that this package raises on purpose."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self._fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self._fields)


def _rebuild(cls: type[AnyStorageError], message: str, fields: dict[str, Any]) -> AnyStorageError:
    error = cls.__new__(cls)
    AnyStorageError.__init__(error, message, **fields)
    return error
