"""Three small files of transformers' Emu3, written from our configs.

Source: `configuration_emu3.py` and `image_processing_emu3.py` of transformers 5.23.0; what to
sample with, its script `convert_emu3_weights_to_hf.py`.
"""

from __future__ import annotations

from typing import Any

from emu3.checkpoints.formats.hf_config import TEXT_KEYS, VISION_KEYS
from emu3.checkpoints.formats.hf_tokenizer import IMAGE
from emu3.config import DecoderConfig, PreprocessorConfig, VisionConfig
from emu3.errors import InputError


def config_file(
    decoder: DecoderConfig, vision: VisionConfig, names: dict[str, int], dtype: str
) -> dict[str, Any]:
    """The content of `config.json`; raises InputError on what transformers' model cannot be."""
    if decoder.quantization_config is not None:
        raise InputError("quantised weights are ours alone: transformers would not read them")
    rope = {"rope_type": "default", "rope_theta": decoder.rope_theta}
    return {
        "architectures": ["Emu3ForConditionalGeneration"],
        "model_type": "emu3",
        "dtype": dtype,
        "tie_word_embeddings": False,
        "image_token_id": names[IMAGE],
        "text_config": {
            "model_type": "emu3_text_model",
            **{key: getattr(decoder, key) for key in TEXT_KEYS},
            "attention_bias": False,
            "mlp_bias": False,
            "rope_parameters": rope,
            "rope_theta": decoder.rope_theta,  # transformers 4 looks here
        },
        "vq_config": _vision_section(vision),
        "vocabulary_map": names,
    }


def generation_file(decoder: DecoderConfig) -> dict[str, Any]:
    """The content of `generation_config.json`: samples as BAAI's examples of text to image do."""
    return {
        "bos_token_id": decoder.bos_token_id,
        "eos_token_id": decoder.eos_token_id,
        "pad_token_id": decoder.pad_token_id,
        "do_sample": True,
        "top_k": 2048,
        "max_new_tokens": decoder.max_position_embeddings,  # transformers would stop after 20
    }


def preprocessor_file(config: PreprocessorConfig) -> dict[str, Any]:
    """The content of `preprocessor_config.json`."""
    said = {key: value for key, value in config.to_dict().items() if value is not None}
    types = {"image_processor_type": "Emu3ImageProcessor", "processor_class": "Emu3Processor"}
    return said | types


def _vision_section(config: VisionConfig) -> dict[str, Any]:
    """Our `VisionConfig` in transformers' words."""
    widths = {config.ch_mult[level] for level in config.attn_resolutions}
    if widths - {config.ch_mult[-1]}:
        raise InputError(
            f"attn_resolutions = {list(config.attn_resolutions)}: in transformers every attention "
            "has the width of the last level"
        )
    if config.dropout:
        raise InputError(f"dropout = {config.dropout}: transformers' vision tokenizer has none")
    ours = config.to_dict()
    return {
        "model_type": "emu3_vqgan",
        **{theirs: ours[key] for theirs, key in VISION_KEYS.items()},
        "hidden_size": config.ch * config.ch_mult[-1],
        "num_attention_heads": 1,
        "attention_dropout": 0.0,
    }
