"""A summary of a checkpoint from its config files and the headers of its weight files.

Weights are not read: sizes follow from the configs and are checked against the headers.
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

HUB_SNAPSHOTS = "snapshots"  # folder of the hub cache that contains a model's files


@dataclass(frozen=True)
class NetworkSummary:
    """One network of a checkpoint: its config, parameters, and bytes of its weight files."""

    config: dict[str, Any]
    parameters: int
    on_disk: int  # 0 if unknown


@dataclass(frozen=True)
class CheckpointSummary:
    """Everything that `emu3 info` prints."""

    name: str
    folder: Path
    vision_folder: Path
    defaults: GenerationDefaults
    decoder: NetworkSummary
    vision: NetworkSummary
    vocabulary: dict[str, int]
    context: int
    image: dict[str, Any]
    weight_bytes: dict[str, int]
    kv_cache: dict[str, int]

    @classmethod
    def read(cls, model: str, vision: str | None) -> CheckpointSummary:
        """Read the small files of a model; raises InputError if they are missing or invalid."""
        folder = find_model(model, weights=False)
        tokenizer, config = load_text_tokenizer(folder)
        vision_folder = find_vision_tokenizer(folder, vision, model, weights=False)
        vision_format = detect_format(vision_folder)
        vision_config = vision_format.vision_config(vision_folder)
        vision_format.preprocessor(vision_folder)
        defaults = GenerationDefaults.from_folder(folder, model)
        image = _image(tokenizer, config, defaults, vision_config.spatial_factor)
        return cls(
            name=model,
            folder=folder,
            vision_folder=vision_folder,
            defaults=defaults,
            decoder=_network_summary(folder, config),
            vision=_network_summary(vision_folder, vision_config),
            vocabulary=_vocabulary(tokenizer),
            context=config.max_position_embeddings,
            image=image,
            weight_bytes=_weight_bytes(config),
            kv_cache=_kv_cache(config, image["tokens"] + image["prompt_tokens"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON output of `emu3 info --json`; sizes are in bytes."""
        networks = {"decoder": self.decoder, "vision": self.vision}
        return {
            "name": self.name,
            "folder": str(self.folder.resolve()),
            "vision_folder": str(self.vision_folder.resolve()),
            "license": self.defaults.license,
            "tasks": list(self.defaults.tasks),
            "description": self.defaults.description,
            **{key: {**n.config, "parameters": n.parameters} for key, n in networks.items()},
            "vocabulary": self.vocabulary,
            "context": self.context,
            "image": self.image,
            "memory": {
                "decoder": self.weight_bytes,
                "vision": {"fp32": 4 * self.vision.parameters},  # it always runs in fp32
                "kv_cache": self.kv_cache,
            },
            "on_disk": {key: n.on_disk for key, n in networks.items()},
        }


def _image(
    tokenizer: TextTokenizer, config: DecoderConfig, defaults: GenerationDefaults, factor: int
) -> dict[str, Any]:
    """Sizes of a square image of the model's default area, in pixels, codes and tokens.

    `prompt_tokens` counts BOS and the longer of the default suffix and negative prompt.
    """
    height, width = size_in_codes("1:1", config.image_area, factor)
    prompts = PromptTemplates.from_tokenizer(tokenizer)
    header = len(prompts.document_format.header(height, width))
    prompt_tokens = max(
        len(prompts.image(text, (height, width))) - header
        for text in (defaults.suffix, defaults.negative_prompt)
    )
    return {
        "area": config.image_area,
        "grid": [height, width],
        "pixels": [height * factor, width * factor],
        "tokens": header + prompts.document_format.num_tokens(height, width),
        "prompt_tokens": prompt_tokens,
    }


def _kv_cache(config: DecoderConfig, tokens: int) -> dict[str, int]:
    """Bytes of the KV cache of one image with guidance, per precision, and its `tokens`."""
    sizes = {each.name: kv_cache_bytes(config, tokens, each) for each in (FP32, BF16)}
    return {"tokens": tokens, **sizes}


def _vocabulary(tokenizer: TextTokenizer) -> dict[str, int]:
    v = tokenizer.vocabulary
    control = v.visual_start - v.text_size
    return {"text": v.text_size, "control": control, "visual": v.codebook_size, "total": v.size}


def _network_summary(folder: Path, config: DecoderConfig | VisionConfig) -> NetworkSummary:
    """Count a network's parameters and check its weight files, if present, against the config.

    For a model on the hub only the small files are downloaded; the weight index gives the size.
    """
    model = _without_weights(config)
    parameters = sum(each.numel() for each in model.parameters())
    if HUB_SNAPSHOTS in folder.parts and not _has_all_weights(folder):
        index = folder / INDEX_FILE
        metadata = read_json(index).get("metadata", {}) if index.exists() else {}
        return NetworkSummary(config.to_dict(), parameters, int(metadata.get("total_size", 0)))
    with SafetensorsReader(folder) as reader:
        weights = NetworkWeights(
            reader, detect_format(folder), decoder=isinstance(config, DecoderConfig)
        )
        if isinstance(model, Transformer):
            precision = stored_precision(model.config)
            if precision is not None:
                install_quantized_modules(model, precision)
        weights.check_matches(model)
        files = {reader.locations[name].path for name in weights.names.values()}
        on_disk = sum(path.stat().st_size for path in files)
        # In a single folder, files contain both networks: count the tensors of this one.
        size = weights.nbytes if weights.single_folder else on_disk
        return NetworkSummary(config.to_dict(), parameters, size)


def _has_all_weights(folder: Path) -> bool:
    """Whether all weight files of a folder are present."""
    return any(folder.glob("*.safetensors")) and all(map(Path.exists, weight_files(folder)))


def _without_weights(config: DecoderConfig | VisionConfig) -> nn.Module:
    """The network on the meta device, which has shapes but no data."""
    with torch.device("meta"):
        return Transformer(config) if isinstance(config, DecoderConfig) else VisionTokenizer(config)


def _weight_bytes(config: DecoderConfig) -> dict[str, int]:
    """Bytes of a decoder's weights in each precision that it can have."""
    sizes: dict[str, int] = {}
    stored = stored_precision(config)
    for precision in PRECISIONS if stored is None else (stored,):
        with suppress(InputError):  # its matrix widths are no multiple of the group size
            sizes[precision.name] = weight_bytes(config, precision)
    return sizes
