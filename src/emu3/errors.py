"""Exceptions for invalid input.

Every error that is caused by input (a file, an argument, a checkpoint) is an `InputError`. The
command line prints its message in one line and exits with 2; the server responds with status 400.
"""

from __future__ import annotations


class InputError(ValueError):
    """Invalid input. The message says what was wrong, the limit if there is one, and what to do."""


class InputWarning(UserWarning):
    """Input that could be used in part only. The message is one line, with figures."""


class MissingExtraError(InputError):
    """An optional dependency is not installed. The message names the extra to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f'{purpose} needs {package}, which is not installed: pip install "emu3[{extra}]"'
        )
