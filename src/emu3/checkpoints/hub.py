"""Resolve a model name to a local folder, downloading it if necessary.

A name is `nano`, a folder, or a hub id: `BAAI/Emu3-Gen`, or `BAAI/Emu3-Gen@v1` for a branch, tag or
commit. A local folder takes precedence over a hub id of the same name.
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
VISION_TOKENIZER_FOLDER = "vision_tokenizer"  # inside a checkpoint that includes its own

# Values of model_type in config.json.
DECODER_TYPE = "Emu3"
VISION_TOKENIZER_TYPE = "Emu3VisionVQ"
TRANSFORMERS_TYPE = "emu3"  # the transformers format: decoder and vision tokenizer in one folder


def find_model(name: str | Path, *, weights: bool = True) -> Path:
    """The folder of `"nano"`, of a path, or of a hub id, which is downloaded to the hub cache.

    The config is checked before any weights are downloaded; with `weights=False` none are. Raises
    InputError if there is no such model, if it is not an Emu3 model, or if the download fails.
    """
    return _find(name, (DECODER_TYPE, TRANSFORMERS_TYPE), weights)


def find_vision_tokenizer(
    folder: Path, name: str | Path | None, model: str | Path, *, weights: bool = True
) -> Path:
    """The folder of the vision tokenizer for a decoder's folder.

    In this order: the one named `name`; the decoder's folder if it holds both networks; its
    subfolder `vision_tokenizer`; BAAI's repository if `model` is a hub id; the only vision
    tokenizer in the same parent folder. Raises InputError if none of these applies.
    """
    if name is not None:
        return _find(name, (VISION_TOKENIZER_TYPE, TRANSFORMERS_TYPE), weights)
    if _model_type(folder) == TRANSFORMERS_TYPE:
        return find_model(model) if weights else folder
    if (folder / VISION_TOKENIZER_FOLDER).is_dir():
        return folder / VISION_TOKENIZER_FOLDER
    if not Path(model).is_dir():
        return find_vision_tokenizer(folder, BAAI_VISION_TOKENIZER, model, weights=weights)
    siblings = [
        path.parent
        for path in sorted(folder.resolve().parent.glob("*/preprocessor_config.json"))
        if not (path.parent / "generation_config.json").exists()
    ]
    if len(siblings) == 1:
        return siblings[0]
    found = ", ".join(path.name for path in siblings) or "none"
    raise InputError(
        f"{folder}: specify its vision tokenizer (vision=… or --vision …); found beside it: {found}"
    )


def _find(name: str | Path, accepted: tuple[str, ...], weights: bool) -> Path:
    if name == NANO:
        return Path(__file__).parents[1] / NANO
    if str(name) and Path(name).is_dir():
        return Path(name)
    hub_id = HUB_ID.fullmatch(name) if isinstance(name, str) else None
    if hub_id is None:
        raise InputError(
            f"no such model: {str(name)!r}; use nano, a folder, or a hub id such as BAAI/Emu3-Gen "
            "or, at a revision, BAAI/Emu3-Gen@main"
        )
    repository = HubRepository(hub_id["name"], hub_id["revision"])
    folder = repository.download_small_files()
    _check_model_type(repository.name, _model_type(folder), accepted)
    if weights:
        repository.download_weights(folder)
    return folder


def _model_type(folder: Path) -> str | None:
    """`model_type` of a folder's config.json; None if there is no config.json."""
    config = folder / "config.json"
    return str(read_json(config).get("model_type")) if config.exists() else None


def _check_model_type(name: str, model_type: str | None, accepted: tuple[str, ...]) -> None:
    """Raise InputError if a repository holds something else than what was requested."""
    if model_type in accepted:
        return
    if model_type is None:
        raise InputError(f"{name} is not a model: it has no config.json; try BAAI/Emu3-Gen")
    if model_type == VISION_TOKENIZER_TYPE:
        raise InputError(
            f"{name} is only a vision tokenizer; pass it as vision=… or --vision … and a decoder "
            "as the model"
        )
    if model_type == DECODER_TYPE:
        raise InputError(
            f"{name} is a decoder, not a vision tokenizer; try {BAAI_VISION_TOKENIZER}"
        )
    raise InputError(
        f"{name} is not an Emu3 model: its config.json has model_type {model_type!r}; no weights "
        "were downloaded; try BAAI/Emu3-Gen"
    )
