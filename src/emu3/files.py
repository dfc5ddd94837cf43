"""Atomic writing of files and folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emu3.errors import InputError


def check_writable(path: Path) -> None:
    """Raise InputError if a file `path` cannot be written. Call it before long work."""
    folder = path.parent
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; create it first")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a file")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: not writable")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` if the block raises no error.

    The block creates a file or a folder there, with the same suffix. An existing file or folder is
    replaced by one of its kind. After an error, the temporary file or folder is deleted.
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
