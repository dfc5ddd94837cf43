"""The one error that a person sees: something they gave us cannot be used, and what to do about it.

Everything raised on purpose because of an input (a file, a ratio, a checkpoint) is an `InputError`.
The command line prints its message on one line and exits with 2; a server answers 400 with it.
"""

from __future__ import annotations


class InputError(ValueError):
    """What a person gave cannot be used. The message says what was wrong and what to do."""


class MissingExtraError(InputError):
    """An optional dependency is not installed. The message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f'{purpose} needs {package}, which is not installed: pip install "emu3[{extra}]"'
        )
