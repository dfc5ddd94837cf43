"""From the name of a model to a folder on this machine.

A name is `nano`, a folder, or a hub id: `BAAI/Emu3-Gen`, or at a branch, tag or commit
`BAAI/Emu3-Gen@v1`. A folder comes before a hub id of the same name.
"""

from __future__ import annotations

import re
from pathlib import Path

from emu3.checkpoints.download import HubRepository
from emu3.config import read_json
from emu3.errors import InputError

NANO = "nano"
HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?!.*\.\.)(?P<revision>\w[\w.+/-]*))?")
BAAI_VISION_TOKENIZER = "BAAI/Emu3-VisionTokenizer"
VISION_TOKENIZER_FOLDER = "vision_tokenizer"  # inside a checkpoint that brings its own

# What config.json calls itself.
DECODER_TYPE = "Emu3"
VISION_TOKENIZER_TYPE = "Emu3VisionVQ"
TRANSFORMERS_TYPE = "emu3"  # transformers' own: decoder and vision tokenizer in one folder


def find_model(name: str | Path, *, weights: bool = True) -> Path:
    """The folder of `"nano"`, of a path, or of a hub id, which is fetched into the hub's cache.

    A repository that is no Emu3 is refused before any of its weights is fetched; without `weights`
    none are. Raises InputError when there is no such model or it cannot be fetched.
    """
    return _find(name, (DECODER_TYPE, TRANSFORMERS_TYPE), weights)


def find_vision_tokenizer(
    folder: Path, name: str | Path | None, model: str | Path, *, weights: bool = True
) -> Path:
    """The folder of the vision tokenizer that goes with a decoder's folder.

    The one named; else the folder itself where it holds both; else the one inside; else BAAI's
    where `model` is a hub id; else the only one beside it.
    """
    if name is not None:
        return _find(name, (VISION_TOKENIZER_TYPE, TRANSFORMERS_TYPE), weights)
    if _kind(folder) == TRANSFORMERS_TYPE:
        return find_model(model) if weights else folder
    if (folder / VISION_TOKENIZER_FOLDER).is_dir():
        return folder / VISION_TOKENIZER_FOLDER
    if not Path(model).is_dir():
        return find_vision_tokenizer(folder, BAAI_VISION_TOKENIZER, model, weights=weights)
    beside = [
        path.parent
        for path in sorted(folder.resolve().parent.glob("*/preprocessor_config.json"))
        if not (path.parent / "generation_config.json").exists()
    ]
    if len(beside) == 1:
        return beside[0]
    found = ", ".join(path.name for path in beside) or "none"
    raise InputError(
        f"{folder}: name its vision tokenizer (vision=… or --vision …); found beside it: {found}"
    )


def _find(name: str | Path, kinds: tuple[str, ...], weights: bool) -> Path:
    if name == NANO:
        return Path(__file__).parents[1] / NANO
    if str(name) and Path(name).is_dir():
        return Path(name)
    hub_id = HUB_ID.fullmatch(name) if isinstance(name, str) else None
    if hub_id is None:
        raise InputError(
            f"no such model: {str(name)!r}; give nano, a folder, or a hub id such as BAAI/Emu3-Gen "
            "or, at a revision, BAAI/Emu3-Gen@main"
        )
    repository = HubRepository(hub_id["name"], hub_id["revision"])
    folder = repository.download_small_files()
    _check_kind(repository.name, _kind(folder), kinds)
    if weights:
        repository.download_weights(folder)
    return folder


def _kind(folder: Path) -> str | None:
    """What the config.json of a folder calls itself; None where there is none."""
    config = folder / "config.json"
    return str(read_json(config).get("model_type")) if config.exists() else None


def _check_kind(name: str, kind: str | None, wanted: tuple[str, ...]) -> None:
    """Raise InputError, saying what a repository is, unless it is what is wanted."""
    if kind in wanted:
        return
    if kind is None:
        raise InputError(f"{name} is no model: it has no config.json; try BAAI/Emu3-Gen")
    if kind == VISION_TOKENIZER_TYPE:
        raise InputError(f"{name} is a vision tokenizer alone; name it as vision=… or --vision …")
    if kind == DECODER_TYPE:
        raise InputError(
            f"{name} is a decoder and no vision tokenizer; try {BAAI_VISION_TOKENIZER}"
        )
    raise InputError(
        f"{name} is no Emu3: its config.json describes a {kind!r}; no weights were fetched; try "
        "BAAI/Emu3-Gen"
    )
