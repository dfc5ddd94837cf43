"""Exit codes and messages: expected errors end in one line, bugs show their traceback."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from emu3.errors import InputError, InputWarning

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, the convention of shells

ENVIRONMENT_ERRNOS = frozenset(
    {errno.EACCES, errno.EDQUOT, errno.ENAMETOOLONG, errno.ENOSPC, errno.EROFS}
)
"""File-system errors that are not bugs: permissions, quota, disk space, name length."""

OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")
"""Texts of the RuntimeErrors by which PyTorch reports that memory is exhausted."""


class CommandGroup(TyperGroup):
    """A Typer group that reports expected errors in one line on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Exits with 2 on an expected error and with 130 on Ctrl-C."""
        try:
            with _warnings_in_one_line():
                return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            # A command that had already written files raises it again with a message.
            _print_line(f"interrupted; {str(interrupt) or 'nothing written'}")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except Exception as error:
            message = error_message(error)
            if message is None:
                raise
            _print_line(f"error: {message}")
            raise typer.Exit(EXIT_BAD_INPUT) from None


def error_message(error: Exception) -> str | None:
    """The message for an expected error; None for a bug."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in ENVIRONMENT_ERRNOS:
        return f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
    text = str(error).lower()
    exhausted = isinstance(error, RuntimeError) and any(each in text for each in OUT_OF_MEMORY)
    if exhausted or isinstance(error, MemoryError):
        return "not enough memory; use fewer images at a time, a smaller area or --dtype bf16"
    return None


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print every InputWarning as one line on stderr, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        show = warnings.showwarning

        def show_in_one_line(message: Any, category: type[Warning], *args: Any, **kw: Any) -> None:
            if issubclass(category, InputWarning):
                _print_line(f"warning: {message}")
            else:
                show(message, category, *args, **kw)

        warnings.showwarning = show_in_one_line
        yield


def _print_line(message: str) -> None:
    typer.echo(" ".join(message.split()), err=True)
