"""The manifest of a run: the settings that its weights depend on, in `manifest.json`.

A run resumes only with the same settings; different ones are refused with what differs.
"""

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

MANIFEST = "manifest.json"


def open_run_folder(
    folder: Path, manifest: Mapping[str, Any], distributed: DistributedContext
) -> None:
    """Create the folder of a run, or check that it holds a run with this manifest.

    Every rank must call it. `manifest` holds values that JSON can represent.

    Raises InputError if the folder holds a run with another manifest or other files.
    """
    normalized: dict[str, Any] = json.loads(json.dumps(manifest))  # as it is read back
    path = folder / MANIFEST
    _check(folder, normalized)
    distributed.barrier()  # no rank writes before all have checked
    if distributed.is_main and not path.exists():
        folder.mkdir(exist_ok=True)
        with atomic_write(path) as temporary:
            write_json(temporary, normalized)


def _check(folder: Path, manifest: dict[str, Any]) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"{folder.parent}: no such folder; create it first")
    if (folder / MANIFEST).exists():
        if differs := list(differences(read_json(folder / MANIFEST), manifest)):
            raise InputError(
                f"{folder}: holds a run with other settings ({'; '.join(differs[:3])}); use "
                "another folder, or delete this one"
            )
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"{folder}: holds other files; use a new folder")


def differences(saved: object, given: object, path: str = "") -> Iterator[str]:
    """Descriptions of where two JSON values differ."""
    if isinstance(saved, dict) and isinstance(given, dict):
        for key in sorted(saved.keys() | given.keys()):
            yield from differences(saved.get(key), given.get(key), f"{path} {key}".strip())
    elif saved != given:
        name = path.replace("_", " ")
        yield f"{name}: {json.dumps(saved)} in the run, {json.dumps(given)} given"
