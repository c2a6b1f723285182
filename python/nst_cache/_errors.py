"""The two errors of the package."""

from __future__ import annotations

from typing import Any


class CacheError(Exception):
    """A cache that cannot be read: missing, incomplete, damaged, of a newer format or in use; or a
    request for what it does not hold.

    `hint` is the action that helps, or None.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class ToolError(Exception):
    """A command of the program that failed, or could not be started.

    `status` is its exit status (1 a check failed, 2 bad input or use, 101 a bug, 130 interrupted;
    negative: the signal that ended it; None: it did not start), `message` what stands after
    `error:`, `hint` the action that helps, or None, and `result` the JSON document that it wrote
    before it failed, or None.
    """

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        status: int | None = None,
        result: Any = None,
    ) -> None:
        super().__init__(message, hint, status, result)
        self.message = message
        self.hint = hint
        self.status = status
        self.result = result

    def __str__(self) -> str:
        text = self.message
        if self.status is not None:
            text += f" (exit status {self.status})"
        return text if self.hint is None else f"{text}\nhint: {self.hint}"
