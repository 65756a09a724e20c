"""The one error of making an image. Raised by every part, shown by `__main__`."""

from __future__ import annotations


class Failure(Exception):
    """message: what was wrong, and where. hint: what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
