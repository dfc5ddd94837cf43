"""What a run was asked for, kept in its folder: the same request goes on, another is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from emu3.checkpoints.loading import write_json
from emu3.config import read_json
from emu3.errors import InputError
from emu3.files import atomic_write
from emu3.training.distributed import DistributedContext

MANIFEST = "request.json"


def open_run_folder(folder: Path, request: Mapping[str, Any], world: DistributedContext) -> None:
    """Make a run's folder, or see that it is this request's; every process must call it.

    `request` is written as JSON. Raises InputError where the folder holds something else.
    """
    said: dict[str, Any] = json.loads(json.dumps(request))  # as it will be read back
    path = folder / MANIFEST
    _check(folder, said)
    world.barrier()  # nobody writes before all have looked
    if world.is_main and not path.exists():
        folder.mkdir(exist_ok=True)
        with atomic_write(path) as temporary:
            write_json(temporary, said)


def _check(folder: Path, said: dict[str, Any]) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"{folder.parent}: no such folder; create it first")
    if (folder / MANIFEST).exists():
        if differs := list(differences(read_json(folder / MANIFEST), said)):
            raise InputError(
                f"{folder}: holds a run of another request ({'; '.join(differs[:3])}); name "
                "another folder, or remove this one"
            )
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"{folder}: holds other files; name a new folder")


def differences(old: object, new: object, at: str = "") -> Iterator[str]:
    """Where two JSON values differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{at} {key}".strip())
    elif old != new:
        yield f"{at.replace('_', ' ')}: it has {json.dumps(old)}, now {json.dumps(new)}"
