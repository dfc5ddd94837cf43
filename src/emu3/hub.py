"""From the name of a model to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from emu3.errors import InputError

NANO = "nano"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SMALL = ["*.json", "*.tiktoken", "*_vision_tokens.txt"]
WANTED = [*SMALL, "*.safetensors"]
BAAI_VISION = "BAAI/Emu3-VisionTokenizer"
VISION_FOLDER = "vision_tokenizer"  # inside a checkpoint that brings its own


def find_model(name: str | Path, *, weights: bool = True) -> Path:
    """The folder of `"nano"`, of a path, or of a hub id, which is downloaded to the hub's cache.

    Without `weights` only the small files of a hub id are fetched.
    Raises InputError when there is no such model or it cannot be fetched.
    """
    if name == NANO:
        return Path(__file__).parent / NANO
    if str(name) and Path(name).is_dir():
        return Path(name)
    if isinstance(name, str) and HUB_ID.fullmatch(name):
        return _download(name, WANTED if weights else SMALL)
    raise InputError(
        f"no such model: {str(name)!r}; give nano, a folder, or a hub id such as BAAI/Emu3-Gen"
    )


def find_vision(
    folder: Path, name: str | Path | None, model: str | Path, *, weights: bool = True
) -> Path:
    """The folder of the vision tokenizer of a decoder's folder.

    The one named; else the one inside; else the only one beside it; else BAAI's for a hub id.
    """
    if name is not None:
        return find_model(name, weights=weights)
    if (folder / VISION_FOLDER).is_dir():
        return folder / VISION_FOLDER
    if not Path(model).is_dir():
        return find_model(BAAI_VISION, weights=weights)
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


def _download(name: str, patterns: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"no such model: {name!r} is no folder here and cannot be fetched ({reason})"
        ) from None
