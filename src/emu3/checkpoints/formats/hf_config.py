"""Read and write the config files of transformers' Emu3.

Reading is strict: an unknown key or an unsupported value is an error. For an absent key
transformers uses its default, which is the default of this package too for every key read here.

Sources, of transformers 5.23.0: `configuration_emu3.py`, `configuration_utils.py`,
`image_processing_emu3.py`, and for the sampling parameters `convert_emu3_weights_to_hf.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from emu3.checkpoints.formats.hf_tokenizer import IMAGE, IMAGE_AREA
from emu3.config import (
    METADATA_KEYS,
    DecoderConfig,
    PreprocessorConfig,
    VisionConfig,
    read_json,
)
from emu3.errors import InputError
from emu3.processing.vocabulary import EOF, EOL, EOV, SOT, SOV

GENERIC_KEYS = METADATA_KEYS | frozenset(
    [
        "_attn_implementation_autoset",
        "_commit_hash",
        "add_cross_attention",
        "bad_words_ids",
        "begin_suppress_tokens",
        "chunk_size_feed_forward",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "id2label",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_labels",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "prefix",
        "problem_type",
        "pruned_heads",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torchscript",
        "typical_p",
        "use_bfloat16",
    ]
)
"""Keys that any config of transformers 4 or 5 may have and that its Emu3 does not read."""

TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "attention_dropout",
    "tie_word_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
"""Keys of the decoder with the same name in both formats."""

TOKEN_KEYS = {
    "img_token_id": SOT,
    "boi_token_id": SOV,
    "eoi_token_id": EOV,
    "eol_token_id": EOL,
    "eof_token_id": EOF,
}
"""Keys of `DecoderConfig` whose values are in transformers' vocabulary map, by token name."""

VISION_KEYS = {
    "codebook_size": "codebook_size",
    "embed_dim": "embed_dim",
    "latent_channels": "z_channels",
    "double_latent": "double_z",
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "temporal_downsample_factor": "temporal_downsample_factor",
    "base_channels": "ch",
    "channel_multiplier": "ch_mult",
    "num_res_blocks": "num_res_blocks",
    "attn_resolutions": "attn_resolutions",
}
"""Keys of the vision tokenizer: in transformers, and in `VisionConfig`."""

VISION_HIDDEN_SIZE = 1024  # transformers' default of `hidden_size`, the width of attention
IMAGE_PROCESSOR_TYPES = {"Emu3ImageProcessor": "Emu3VisionVQImageProcessor"}
PREPROCESSOR_GENERIC_KEYS = METADATA_KEYS | {
    "_processor_class",
    "_valid_processor_keys",
    "do_pad",  # pads the images of a batch to one size; here images are encoded one by one
    "feature_extractor_type",
    "processor_class",
}


def decoder_config(folder: Path) -> DecoderConfig:
    """The decoder config in `config.json`.

    Ids of control tokens come from the vocabulary map. The area of generated images comes from
    `tokenizer_config.json` or `processor_config.json`. No published -hf repository has it there, so
    it is transformers' 518400, even for a Chat model, for which BAAI's config has 512 * 512.

    Raises InputError on a key or value that would have to be ignored.
    """
    path = folder / "config.json"
    raw = _read_config(path)
    section, where = raw.get("text_config") or {}, f"{path}: text_config"
    rope = ("rope_parameters", "rope_scaling", "rope_theta")
    biases = {"attention_bias": False, "mlp_bias": False}
    _check_keys(section, (*TEXT_KEYS, *rope, *biases, "head_dim", "model_type"), where)
    for key, supported in {**biases, "model_type": "emu3_text_model"}.items():
        _check_value(section, key, supported, where)
    names = raw.get("vocabulary_map") or {}
    missing = [name for name in TOKEN_KEYS.values() if name not in names]
    if missing:
        raise InputError(f"{path}: vocabulary_map is missing {', '.join(missing)}")
    values = {key: section[key] for key in TEXT_KEYS if key in section}
    values |= {key: names[name] for key, name in TOKEN_KEYS.items()}
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if not isinstance(values.get(key, 0), int):
            raise InputError(f"{where}: {key} = {values[key]!r} must be a single id")
    values |= {"rope_theta": _rope_theta(section, where), "image_area": _image_area(folder)}
    config = DecoderConfig.from_dict(values, where)
    _check_value(section, "head_dim", config.head_dim, where, allow_none=True)
    return config


def vision_config(folder: Path) -> VisionConfig:
    """The vision tokenizer config in `config.json`. Raises InputError like `decoder_config`."""
    path = folder / "config.json"
    section, where = _read_config(path).get("vq_config") or {}, f"{path}: vq_config"
    fixed = {"model_type": "emu3_vqgan", "num_attention_heads": 1, "attention_dropout": 0.0}
    _check_keys(section, (*VISION_KEYS, *fixed, "hidden_size"), where)
    for key, supported in fixed.items():
        _check_value(section, key, supported, where)
    values = {key: section[theirs] for theirs, key in VISION_KEYS.items() if theirs in section}
    if "attn_resolutions" in values:
        values["attn_resolutions"] = values["attn_resolutions"] or []  # null means no attention
    config = VisionConfig.from_dict(values, where)
    width = config.ch * config.ch_mult[-1]
    _check_value({"hidden_size": VISION_HIDDEN_SIZE, **section}, "hidden_size", width, where)
    return config


def preprocessor(folder: Path) -> PreprocessorConfig:
    """Read `preprocessor_config.json`; transformers 5 moves it into `processor_config.json`."""
    path = folder / "preprocessor_config.json"
    raw = read_json(path) if path.exists() else None
    if raw is None:
        path = folder / "processor_config.json"
        raw = read_json(path).get("image_processor")
    if not isinstance(raw, dict):
        raise InputError(
            f"{path}: no image_processor in it, and no preprocessor_config.json in the folder"
        )
    for key in ("image_mean", "image_std"):
        if raw.get(key) is None:  # transformers' default is CLIP's, which no Emu3 was trained with
            raise InputError(f"{path}: key {key!r} is missing")
    kind = raw.get("image_processor_type", "Emu3ImageProcessor")
    values = {key: value for key, value in raw.items() if key not in PREPROCESSOR_GENERIC_KEYS}
    values["image_processor_type"] = IMAGE_PROCESSOR_TYPES.get(kind, kind)
    return PreprocessorConfig.from_dict(values, str(path))


def _read_config(path: Path) -> dict[str, Any]:
    """Read `config.json` and check its top-level keys."""
    raw = read_json(path)
    fixed = {"model_type": "emu3", "tie_word_embeddings": False}
    inner = ("text_config", "vq_config", "vocabulary_map")
    _check_keys(raw, (*fixed, *inner, "image_token_id"), str(path))
    for key, supported in fixed.items():
        _check_value(raw, key, supported, str(path))
    for key in inner:
        if not isinstance(raw.get(key) or {}, dict):
            raise InputError(f"{path}: {key} must be an object")
    return raw


def _check_keys(section: dict[str, Any], keys: Collection[str], where: str) -> None:
    for key in section:
        if key not in keys and key not in GENERIC_KEYS:
            raise InputError(
                f"{where}: unknown key {key!r} = {section[key]!r}; loading would ignore it and "
                "could give wrong results"
            )


def _check_value(
    section: dict[str, Any], key: str, supported: object, where: str, *, allow_none: bool = False
) -> None:
    """Raise InputError if a key is given with another value than the supported one."""
    value = section.get(key, supported)
    if value != supported and not (allow_none and value is None):
        raise InputError(f"{where}: {key} = {value!r} is not supported; only {supported!r} is")


def _rope_theta(section: dict[str, Any], where: str) -> float:
    """The RoPE base: in `rope_parameters` since transformers 5, before that a key of its own."""
    theta = section.get("rope_theta")
    for key in ("rope_scaling", "rope_parameters"):
        rope = section.get(key) or {}
        if set(rope) - {"rope_type", "type", "rope_theta"} or any(
            rope.get(kind, "default") != "default" for kind in ("rope_type", "type")
        ):
            raise InputError(f"{where}: {key} = {rope!r} is not supported; only default RoPE is")
        theta = rope.get("rope_theta", theta)
    return DecoderConfig.rope_theta if theta is None else theta


def _image_area(folder: Path) -> int:
    """The area `Emu3Processor` would use: a key of the tokenizer config overrides its default."""
    for name in ("tokenizer_config.json", "processor_config.json"):
        path = folder / name
        area = read_json(path).get(IMAGE_AREA) if path.exists() else None
        if area is not None:
            return area
    return DecoderConfig.image_area


def config_json(
    decoder: DecoderConfig, vision: VisionConfig, vocabulary: dict[str, int], dtype: str
) -> dict[str, Any]:
    """The content of `config.json`.

    `vocabulary` maps token names to ids. Raises InputError on a value that transformers' model does
    not support.
    """
    if decoder.quantization_config is not None:
        raise InputError(
            "quantized weights cannot be written in the hf format: transformers cannot read them"
        )
    rope = {"rope_type": "default", "rope_theta": decoder.rope_theta}
    return {
        "architectures": ["Emu3ForConditionalGeneration"],
        "model_type": "emu3",
        "dtype": dtype,
        "tie_word_embeddings": False,
        "image_token_id": vocabulary[IMAGE],
        "text_config": {
            "model_type": "emu3_text_model",
            **{key: getattr(decoder, key) for key in TEXT_KEYS},
            "attention_bias": False,
            "mlp_bias": False,
            "rope_parameters": rope,
            "rope_theta": decoder.rope_theta,  # read by transformers 4
        },
        "vq_config": _vq_config(vision),
        "vocabulary_map": vocabulary,
    }


def _vq_config(config: VisionConfig) -> dict[str, Any]:
    """The vision tokenizer config under the keys of transformers."""
    widths = {config.ch_mult[level] for level in config.attn_resolutions}
    if widths - {config.ch_mult[-1]}:
        raise InputError(
            f"attn_resolutions = {list(config.attn_resolutions)}: transformers supports attention "
            "only at levels as wide as the last one"
        )
    if config.dropout:
        raise InputError(
            f"dropout = {config.dropout}: transformers' vision tokenizer supports no dropout"
        )
    values = config.to_dict()
    return {
        "model_type": "emu3_vqgan",
        **{theirs: values[key] for theirs, key in VISION_KEYS.items()},
        "hidden_size": config.ch * config.ch_mult[-1],
        "num_attention_heads": 1,
        "attention_dropout": 0.0,
    }


def generation_config_json(decoder: DecoderConfig) -> dict[str, Any]:
    """The content of `generation_config.json`: sampling as in BAAI's text-to-image example."""
    return {
        "bos_token_id": decoder.bos_token_id,
        "eos_token_id": decoder.eos_token_id,
        "pad_token_id": decoder.pad_token_id,
        "do_sample": True,
        "top_k": 2048,
        "max_new_tokens": decoder.max_position_embeddings,  # transformers would stop after 20
    }


def preprocessor_config_json(config: PreprocessorConfig) -> dict[str, Any]:
    """The content of `preprocessor_config.json`."""
    given = {key: value for key, value in config.to_dict().items() if value is not None}
    types = {"image_processor_type": "Emu3ImageProcessor", "processor_class": "Emu3Processor"}
    return given | types
