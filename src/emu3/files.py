"""Writing files so that nothing is ever half there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emu3.errors import InputError


def check_writable(path: Path) -> None:
    """Raise InputError when `path` could not be written; called before the long work, not after."""
    folder = path.parent
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; create it first")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file in it")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: not writable")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its suffix; takes its place only if all went well.

    A file replaces a file. A folder replaces a folder.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            old = path.with_name(f".{path.stem}.{os.getpid()}.old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
