"""Checkpoints in BAAI's published layout: read strictly, written the same way.

One file or shards with an index, float32 or bfloat16. Every tensor must be known, there, and of
the right shape; anything else is an error that names it. Tensors go one by one to their precision
and device, so memory peaks at the finished model plus one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from emu3.config import DecoderConfig, VisionConfig, read_json
from emu3.decoder.transformer import Transformer
from emu3.errors import InputError
from emu3.vision.tokenizer import VisionTokenizer

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

Model = TypeVar("Model", bound=nn.Module)


def load_decoder(folder: Path, dtype: torch.dtype, device: torch.device) -> Transformer:
    """The decoder of a checkpoint folder, in eval mode. Raises InputError on any disagreement."""
    config = DecoderConfig.from_file(folder / "config.json")
    with torch.device("meta"):
        model = Transformer(config)
    return _fill(model, folder, dtype, device)


def load_vision(folder: Path, dtype: torch.dtype, device: torch.device) -> VisionTokenizer:
    """The vision tokenizer of a checkpoint folder, in eval mode. Raises InputError likewise."""
    config = VisionConfig.from_file(folder / "config.json")
    with torch.device("meta"):
        model = VisionTokenizer(config)
    return _fill(model, folder, dtype, device)


def _fill(model: Model, folder: Path, dtype: torch.dtype, device: torch.device) -> Model:
    """Give a model on the meta device the tensors of a folder."""
    wanted = model.state_dict()
    found: dict[str, Tensor] = {}
    for path, names in weight_files(folder).items():
        for name, tensor in _tensors(path, names):
            _check(name, tensor, wanted, path)
            found[name] = tensor.to(device, dtype if tensor.is_floating_point() else None)
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise InputError(f"{folder}: {_some(missing)} missing from the weights")
    model.load_state_dict(found, strict=True, assign=True)
    return model.eval().requires_grad_(False)  # who trains says so


def _check(name: str, tensor: Tensor, wanted: dict[str, Tensor], path: Path) -> None:
    if name not in wanted:
        raise InputError(
            f"{path}: {name} belongs to no part of the model that config.json describes"
        )
    if tensor.shape != wanted[name].shape:
        have, want = list(tensor.shape), list(wanted[name].shape)
        raise InputError(f"{path}: {name} has shape {have}, config.json asks for {want}")


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The weight files of a folder, and which tensors each should hold (None: not said).

    Raises InputError when there are none, or an index that is none.
    """
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(f, str) for f in index.values()):
            raise InputError(f"{folder / INDEX}: no weight_map in it")
        files: dict[Path, set[str] | None] = {}
        for file in sorted(set(index.values())):
            files[folder / file] = {name for name, where in index.items() if where == file}
        return files
    if (folder / ONE_FILE).exists():
        return {folder / ONE_FILE: None}
    raise InputError(f"{folder}: no {ONE_FILE} and no {INDEX}; is this folder a checkpoint?")


def _tensors(path: Path, names: set[str] | None) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, one at a time, of a file that must hold exactly `names`."""
    try:
        with safe_open(path, framework="pt") as file:
            held = set(file.keys())
            if names is not None and held != names:
                odd = sorted(held ^ names)
                raise InputError(f"{path}: its tensors are not those of the index: {_some(odd)}")
            for name in sorted(held):
                yield name, file.get_tensor(name)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, though the index names it") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: broken or cut short ({error}); download it again") from None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def save_weights(model: nn.Module, folder: Path, max_shard: str = "5GB") -> None:
    """Write the weights as published: one `model.safetensors`, or shards and an index."""
    state: dict[str, Any] = {name: t.contiguous() for name, t in model.state_dict().items()}
    save_torch_state_dict(state, folder, max_shard_size=max_shard, metadata={"format": "pt"})
