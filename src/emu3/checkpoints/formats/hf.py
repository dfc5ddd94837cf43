"""The layout of transformers' own Emu3: one folder, `Emu3ForConditionalGeneration`.

Decoder, vision tokenizer, text tokenizer and preprocessor share a folder, as in
Emu3-community/Emu3-Gen-hf and -Chat-hf. Everything but the weights is here, as plain JSON: whoever
copies tensors takes their names from `decoder_name`, `vision_name` and `canonical_name`.

Sources: `configuration_emu3.py`, `processing_emu3.py`, `image_processing_emu3.py` of transformers
5.23.0, and the script `convert_emu3_weights_to_hf.py` of its repository.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from emu3.checkpoints.formats.hf_config import decoder_config, preprocessor, vision_config
from emu3.checkpoints.formats.hf_names import canonical_name, decoder_name, shape, vision_name
from emu3.checkpoints.formats.hf_tokenizer import (
    IMAGE_AREA,
    special_tokens,
    text,
    tokenizer_config_file,
    tokenizer_file,
    vocabulary_map,
)
from emu3.checkpoints.formats.hf_write import config_file, generation_file, preprocessor_file
from emu3.config import DecoderConfig, PreprocessorConfig, VisionConfig
from emu3.errors import InputError
from emu3.processing.tokenizer import TextTokenizer

__all__ = [
    "canonical_name",
    "decoder_config",
    "decoder_name",
    "preprocessor",
    "shape",
    "text",
    "vision_config",
    "vision_name",
    "write_files",
]

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
"""Says what the template of the -hf repositories says: pictures of a message before its words."""


def write_files(
    folder: Path,
    decoder: DecoderConfig,
    text: TextTokenizer,
    vision: VisionConfig,
    preprocessor: PreprocessorConfig,
    dtype: str,
) -> None:
    """Write all but the weights into an existing folder, for `from_pretrained` of transformers.

    `dtype` is the precision that the weights will have, as torch spells it. The tokenizer splits
    and normalises as ours does, which that of the published -hf repositories does not, so ids are
    the same. Raises InputError where transformers' model cannot say what ours does.
    """
    text.vocabulary.check(decoder)
    if vision.codebook_size != text.vocabulary.codebook_size:
        raise InputError(
            f"the vocabulary has ids for {text.vocabulary.codebook_size} codes, the vision "
            f"tokenizer has {vision.codebook_size}; these two do not belong together"
        )
    _write(folder / "config.json", config_file(decoder, vision, vocabulary_map(text), dtype))
    _write(folder / "generation_config.json", generation_file(decoder))
    _write(folder / "preprocessor_config.json", preprocessor_file(preprocessor))
    _write(folder / "processor_config.json", {"processor_class": "Emu3Processor"})
    _write(folder / "tokenizer.json", tokenizer_file(text))
    area = (
        {} if decoder.image_area == DecoderConfig.image_area else {IMAGE_AREA: decoder.image_area}
    )
    _write(folder / "tokenizer_config.json", tokenizer_config_file() | area)
    _write(folder / "special_tokens_map.json", special_tokens())
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _write(path: Path, value: dict[str, Any]) -> None:
    """Keys stay in their order, which is that of the ids where there are ids."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
