"""The format of transformers' Emu3: one folder for `Emu3ForConditionalGeneration`.

Decoder, vision tokenizer, text tokenizer and preprocessor share a folder, as in
Emu3-community/Emu3-Gen-hf and -Chat-hf. This module has the tensor names and writes all files but
the weights; `hf_config` and `hf_tokenizer` have the content of the JSON files.

Sources, of transformers 5.23.0: `modeling_emu3.py`, `configuration_emu3.py`, `processing_emu3.py`,
`image_processing_emu3.py`, `conversion_mapping.py` for older repositories, and the script
`convert_emu3_weights_to_hf.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from emu3.checkpoints.formats.hf_config import (
    config_json,
    decoder_config,
    generation_config_json,
    preprocessor,
    preprocessor_config_json,
    vision_config,
)
from emu3.checkpoints.formats.hf_tokenizer import (
    IMAGE_AREA,
    special_tokens_map_json,
    text_tokenizer,
    tokenizer_config_json,
    tokenizer_json,
    vocabulary_map,
)
from emu3.config import DecoderConfig, PreprocessorConfig, VisionConfig
from emu3.errors import InputError
from emu3.processing.tokenizer import TextTokenizer

__all__ = [
    "canonical_name",
    "decoder_config",
    "decoder_name",
    "preprocessor",
    "stored_shape",
    "text_tokenizer",
    "vision_config",
    "vision_name",
    "write_files",
]

VISION_NAMES = (
    (r"^encoder\.down\.", "encoder.down_block.down."),
    (r"^decoder\.up\.", "decoder.up_block.up."),
    (r"^(encoder|decoder)\.mid\.", r"\1.middle_block."),
    (r"\.attn_1\.norm\.", ".attn_norm."),
    (r"\.attn\.(\d+)\.norm\.", r".attn_norms.\1."),
    (r"\.(attn_1|attn\.\d+)\.([qkv])\.", r".\1.\2_proj."),
    (r"\.(attn_1|attn\.\d+)\.proj_out\.", r".\1.out_proj."),
)
"""Patterns in names of the vision tokenizer and their replacements, applied in this order."""

OLD_PREFIXES = (
    ("text_model.model.", "model.text_model."),
    ("text_model.lm_head.", "lm_head."),
    ("vqmodel.", "model.vqmodel."),
)
"""Prefixes before transformers' pull request 37033, and the current ones."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}"
    "{% else %}{{ part['text'] + ' ' }}{% endif %}"
    "{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""Gives the text of the -hf repositories' template: images of a message before its text."""


def decoder_name(name: str) -> str:
    """`model.norm.weight` to `model.text_model.norm.weight`; `lm_head` keeps its name."""
    if name.startswith("model."):
        return f"model.text_model.{name.removeprefix('model.')}"
    return name


def vision_name(name: str) -> str:
    """`quantize.embedding.weight` to `model.vqmodel.quantize.embedding.weight`."""
    for pattern, replacement in VISION_NAMES:
        name = re.sub(pattern, replacement, name)
    return f"model.vqmodel.{name}"


def stored_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in the files of a tensor with `shape` in this package.

    The attention projections of the vision tokenizer are linear layers [C, C] in transformers and
    1x1 convolutions [C, C, 1, 1] here. The values are the same.
    """
    return shape[:2] if "_proj." in vision_name(name) and shape[2:] == (1, 1) else shape


def canonical_name(name: str) -> str:
    """The current name of a tensor in a repository of any release; current names are kept."""
    for old, new in OLD_PREFIXES:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def write_files(
    folder: Path,
    decoder: DecoderConfig,
    text: TextTokenizer,
    vision: VisionConfig,
    preprocessor: PreprocessorConfig,
    dtype: str,
) -> None:
    """Write all files but the weights into an existing folder, for transformers' `from_pretrained`.

    `dtype` is the dtype of the weights, as torch spells it. The tokenizer file splits and
    normalizes text as BAAI's tokenizer does, unlike the published -hf repositories, so token ids
    are the same. Raises InputError if transformers' model cannot represent the configuration.
    """
    text.vocabulary.check(decoder)
    if vision.codebook_size != text.vocabulary.codebook_size:
        raise InputError(
            f"the vocabulary has {text.vocabulary.codebook_size} visual codes and the vision "
            f"tokenizer {vision.codebook_size}; use the vision tokenizer the model was trained with"
        )
    _write(folder / "config.json", config_json(decoder, vision, vocabulary_map(text), dtype))
    _write(folder / "generation_config.json", generation_config_json(decoder))
    _write(folder / "preprocessor_config.json", preprocessor_config_json(preprocessor))
    _write(folder / "processor_config.json", {"processor_class": "Emu3Processor"})
    _write(folder / "tokenizer.json", tokenizer_json(text))
    area = (
        {} if decoder.image_area == DecoderConfig.image_area else {IMAGE_AREA: decoder.image_area}
    )
    _write(folder / "tokenizer_config.json", tokenizer_config_json() | area)
    _write(folder / "special_tokens_map.json", special_tokens_map_json())
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _write(path: Path, value: dict[str, Any]) -> None:
    """Write JSON with the keys in the given order: token names are ordered by id."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
