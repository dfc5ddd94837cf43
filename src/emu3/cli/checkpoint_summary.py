"""What can be said of a checkpoint from its small files and the headers of its weights.

No weight is read: the sizes come from the configs, and the headers are held against them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emu3.checkpoints.formats.registry import detect_format
from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.checkpoints.hub import find_model, find_vision_tokenizer
from emu3.checkpoints.loading import load_text_tokenizer
from emu3.checkpoints.safetensors_io import INDEX_FILE, SafetensorsReader, weight_files
from emu3.checkpoints.weights import NetworkWeights
from emu3.config import DecoderConfig, VisionConfig, read_json
from emu3.errors import InputError
from emu3.models.memory import kv_cache_bytes, weight_bytes
from emu3.models.precision import BF16, FP32, PRECISIONS, stored_precision
from emu3.models.quantization import install_quantized_modules
from emu3.models.transformer import Transformer
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.image import size_in_codes
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import TextTokenizer

HUB_SNAPSHOTS = "snapshots"  # the folder of the hub's cache that a model's files lie in


@dataclass(frozen=True)
class Part:
    """One network of a checkpoint: how many parameters, and bytes of its weight files."""

    config: dict[str, Any]
    parameters: int
    on_disk: int  # 0 where it is not known


@dataclass(frozen=True)
class Facts:
    """All that `emu3 info` says."""

    name: str
    folder: Path
    vision_folder: Path
    defaults: GenerationDefaults
    decoder: Part
    vision: Part
    vocabulary: dict[str, int]
    context: int
    picture: dict[str, Any]
    weight_bytes: dict[str, int]
    cache: dict[str, int]

    @classmethod
    def of(cls, model: str, vision: str | None) -> Facts:
        """Read a model's small files; raises InputError on whatever is wrong with them."""
        folder = find_model(model, weights=False)
        text, config = load_text_tokenizer(folder)
        vision_folder = find_vision_tokenizer(folder, vision, model, weights=False)
        vision_layout = detect_format(vision_folder)
        vision_config = vision_layout.vision_config(vision_folder)
        vision_layout.preprocessor(vision_folder)
        card = GenerationDefaults.from_folder(folder, model)
        picture = _picture(text, config, card, vision_config.spatial_factor)
        decoder = _part(folder, config)
        return cls(
            name=model,
            folder=folder,
            vision_folder=vision_folder,
            defaults=card,
            decoder=decoder,
            vision=_part(vision_folder, vision_config),
            vocabulary=_vocabulary(text),
            context=config.max_position_embeddings,
            picture=picture,
            weight_bytes=_weight_bytes(config),
            cache=_cache(config, picture["ids"] + picture["prompt_ids"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as what JSON can hold; sizes in bytes."""
        parts = {"decoder": self.decoder, "vision": self.vision}
        return {
            "name": self.name,
            "folder": str(self.folder.resolve()),
            "vision_folder": str(self.vision_folder.resolve()),
            "license": self.defaults.license,
            "tasks": list(self.defaults.tasks),
            "description": self.defaults.description,
            **{k: {**p.config, "parameters": p.parameters} for k, p in parts.items()},
            "vocabulary": self.vocabulary,
            "context": self.context,
            "picture": self.picture,
            "memory": {
                "decoder": self.weight_bytes,
                "vision": {"fp32": 4 * self.vision.parameters},  # it always runs so
                "cache_of_a_guided_picture": self.cache,
            },
            "on_disk": {k: p.on_disk for k, p in parts.items()},
        }


def _picture(
    text: TextTokenizer, config: DecoderConfig, card: GenerationDefaults, factor: int
) -> dict[str, Any]:
    """A square picture of the model's area: its codes, its ids, and the ids before it."""
    height, width = size_in_codes("1:1", config.image_area, factor)
    prompts = PromptTemplates.from_tokenizer(text)
    header = len(prompts.document_format.header(height, width))
    before = max(
        len(prompts.image(words, (height, width))) - header
        for words in (card.suffix, card.negative_prompt)
    )
    return {
        "area": config.image_area,
        "grid": [height, width],
        "pixels": [height * factor, width * factor],
        "ids": header + prompts.document_format.num_tokens(height, width),
        "prompt_ids": before,  # BOS, and the longer of suffix and negative prompt
    }


def _cache(config: DecoderConfig, ids: int) -> dict[str, int]:
    """Bytes of keys and values of a guided picture, with the number of ids they are for."""
    return {"ids": ids, **{to.name: kv_cache_bytes(config, ids, to) for to in (FP32, BF16)}}


def _vocabulary(text: TextTokenizer) -> dict[str, int]:
    v = text.vocabulary
    control = v.visual_start - v.text_size
    return {"text": v.text_size, "control": control, "visual": v.codebook_size, "total": v.size}


def _part(folder: Path, config: DecoderConfig | VisionConfig) -> Part:
    """Count a network's parameters, and hold its weight files against it, where they are here.

    Of a model on the hub only the small files are fetched; the index says how large the rest is.
    """
    model = _empty(config)
    parameters = sum(each.numel() for each in model.parameters())
    if HUB_SNAPSHOTS in folder.parts and not _complete(folder):
        index = folder / INDEX_FILE
        said = read_json(index).get("metadata", {}) if index.exists() else {}
        return Part(config.to_dict(), parameters, int(said.get("total_size", 0)))
    with SafetensorsReader(folder) as reader:
        source = NetworkWeights(
            reader, detect_format(folder), decoder=isinstance(config, DecoderConfig)
        )
        if isinstance(model, Transformer):
            precision = stored_precision(model.config)
            if precision is not None:
                install_quantized_modules(model, precision)
        source.check_matches(model)
        files = {reader.locations[name].path for name in source.names.values()}
        on_disk = sum(path.stat().st_size for path in files)
        return Part(
            config.to_dict(), parameters, source.nbytes if source.single_folder else on_disk
        )


def _complete(folder: Path) -> bool:
    """Whether all weight files of a folder are there."""
    return any(folder.glob("*.safetensors")) and all(map(Path.exists, weight_files(folder)))


def _empty(config: DecoderConfig | VisionConfig) -> nn.Module:
    """The network on the meta device: shapes without numbers."""
    with torch.device("meta"):
        return Transformer(config) if isinstance(config, DecoderConfig) else VisionTokenizer(config)


def _weight_bytes(config: DecoderConfig) -> dict[str, int]:
    """Bytes of a decoder in each precision that it can be held in."""
    sizes: dict[str, int] = {}
    stored = stored_precision(config)
    for to in PRECISIONS if stored is None else (stored,):
        with suppress(InputError):  # its widths do not divide into groups
            sizes[to.name] = weight_bytes(config, to)
    return sizes
