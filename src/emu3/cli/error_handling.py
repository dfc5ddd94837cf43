"""How commands fail: one line on stderr and an exit code; only a bug shows a traceback."""

from __future__ import annotations

import errno
from typing import Any

import typer
from typer.core import TyperGroup

from emu3.errors import InputError

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

OUTSIDE = frozenset({errno.EACCES, errno.EDQUOT, errno.ENAMETOOLONG, errno.ENOSPC, errno.EROFS})
"""Errors of the file system that are nobody's bug: no room, no right, too long a name."""

NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")
"""How PyTorch says it in a plain RuntimeError."""


class CommandGroup(TyperGroup):
    """A group of commands that fail in one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command asked for; what a person can put right ends in one line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            # Whoever catches a Ctrl-C after something was written says so and raises it again.
            told = str(interrupt) or "nothing written"
            _say(f"interrupted; {told}")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            message = explanation(error)
            if message is None:
                raise
            _say(f"error: {message}")
            raise typer.Exit(BAD_INPUT) from None


def explanation(error: Exception) -> str | None:
    """What to tell a person about an error that is no bug; None for one that is."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in OUTSIDE:
        return f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
    said = str(error).lower()
    full = isinstance(error, RuntimeError) and any(words in said for words in NO_MEMORY)
    if full or isinstance(error, MemoryError):
        return "not enough memory; use fewer pictures at a time, a smaller area or --dtype bf16"
    return None


def _say(message: str) -> None:
    typer.echo(" ".join(message.split()), err=True)
