"""`config.json` and `preprocessor_config.json` of transformers' Emu3, read strictly.

Where a key is absent transformers takes its default, which for every key read here is ours too.

Source: `configuration_emu3.py`, `configuration_utils.py` and `image_processing_emu3.py` of
transformers 5.23.0.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from emu3.checkpoints.formats.hf_tokenizer import IMAGE_AREA
from emu3.config import (
    METADATA_KEYS,
    DecoderConfig,
    PreprocessorConfig,
    VisionConfig,
    read_json,
)
from emu3.errors import InputError
from emu3.processing.vocabulary import EOF, EOL, EOV, SOT, SOV

GENERIC = METADATA_KEYS | frozenset(
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
"""Keys that any config of transformers 4 or 5 may have and that no line of its Emu3 looks at."""

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
"""Keys of the decoder that have one name in both layouts."""

TOKEN_KEYS = {
    "img_token_id": SOT,
    "boi_token_id": SOV,
    "eoi_token_id": EOV,
    "eol_token_id": EOL,
    "eof_token_id": EOF,
}
"""Keys of ours that transformers has as names in its vocabulary map."""

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
"""Keys of the vision tokenizer: theirs, ours."""

VISION_HIDDEN = 1024  # transformers' default of `hidden_size`, the width of every attention
PICTURE_TYPES = {"Emu3ImageProcessor": "Emu3VisionVQImageProcessor"}
PICTURE_GENERIC = METADATA_KEYS | {
    "_processor_class",
    "_valid_processor_keys",
    "do_pad",  # pads the pictures of a batch to one size; ours are encoded one by one
    "feature_extractor_type",
    "processor_class",
}


def decoder_config(folder: Path) -> DecoderConfig:
    """The decoder's half of `config.json`; raises InputError on what we would have to ignore.

    Ids of control tokens come from the vocabulary map. The area of a generated picture is that
    of `tokenizer_config.json` or `processor_config.json`; where neither says one, as in all
    published -hf repositories, it is transformers' 518400, even for a Chat model, for which BAAI
    says 512 * 512: a folder's name is no source.
    """
    path = folder / "config.json"
    raw = _sections(path)
    section, where = raw.get("text_config") or {}, f"{path}: text_config"
    rope = ("rope_parameters", "rope_scaling", "rope_theta")
    biases = {"attention_bias": False, "mlp_bias": False}
    _known(section, (*TEXT_KEYS, *rope, *biases, "head_dim", "model_type"), where)
    for key, only in {**biases, "model_type": "emu3_text_model"}.items():
        _only(section, key, only, where)
    names = raw.get("vocabulary_map") or {}
    missing = [name for name in TOKEN_KEYS.values() if name not in names]
    if missing:
        raise InputError(f"{path}: vocabulary_map lacks {', '.join(missing)}")
    values = {key: section[key] for key in TEXT_KEYS if key in section}
    values |= {key: names[name] for key, name in TOKEN_KEYS.items()}
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if not isinstance(values.get(key, 0), int):
            raise InputError(f"{where}: {key} = {values[key]!r} must be one id")
    values |= {"rope_theta": _rope_theta(section, where), "image_area": _image_area(folder)}
    config = DecoderConfig.from_dict(values, where)
    _only(section, "head_dim", config.head_dim, where, or_none=True)
    return config


def vision_config(folder: Path) -> VisionConfig:
    """The vision tokenizer's half of `config.json`; raises InputError likewise."""
    path = folder / "config.json"
    section, where = _sections(path).get("vq_config") or {}, f"{path}: vq_config"
    fixed = {"model_type": "emu3_vqgan", "num_attention_heads": 1, "attention_dropout": 0.0}
    _known(section, (*VISION_KEYS, *fixed, "hidden_size"), where)
    for key, only in fixed.items():
        _only(section, key, only, where)
    values = {ours: section[theirs] for theirs, ours in VISION_KEYS.items() if theirs in section}
    if "attn_resolutions" in values:
        values["attn_resolutions"] = values["attn_resolutions"] or []  # null means nowhere
    config = VisionConfig.from_dict(values, where)
    width = config.ch * config.ch_mult[-1]
    _only({"hidden_size": VISION_HIDDEN, **section}, "hidden_size", width, where)
    return config


def preprocessor(folder: Path) -> PreprocessorConfig:
    """`preprocessor_config.json`, or what transformers 5 keeps of it in `processor_config.json`."""
    path = folder / "preprocessor_config.json"
    raw = read_json(path) if path.exists() else None
    if raw is None:
        path = folder / "processor_config.json"
        raw = read_json(path).get("image_processor")
    if not isinstance(raw, dict):
        raise InputError(f"{path}: no image_processor in it, nor a preprocessor_config.json beside")
    for key in ("image_mean", "image_std"):
        if raw.get(key) is None:  # transformers would take CLIP's, which no Emu3 was trained with
            raise InputError(f"{path}: key {key!r} is missing")
    kind = raw.get("image_processor_type", "Emu3ImageProcessor")
    values = {key: value for key, value in raw.items() if key not in PICTURE_GENERIC}
    values["image_processor_type"] = PICTURE_TYPES.get(kind, kind)
    return PreprocessorConfig.from_dict(values, str(path))


def _sections(path: Path) -> dict[str, Any]:
    """The whole of `config.json`, its own keys checked."""
    raw = read_json(path)
    fixed = {"model_type": "emu3", "tie_word_embeddings": False}
    inner = ("text_config", "vq_config", "vocabulary_map")
    _known(raw, (*fixed, *inner, "image_token_id"), str(path))
    for key, only in fixed.items():
        _only(raw, key, only, str(path))
    for key in inner:
        if not isinstance(raw.get(key) or {}, dict):
            raise InputError(f"{path}: {key} must be an object")
    return raw


def _known(section: dict[str, Any], keys: Collection[str], where: str) -> None:
    for key in section:
        if key not in keys and key not in GENERIC:
            raise InputError(
                f"{where}: unknown key {key!r} = {section[key]!r}; "
                "it would be ignored, so this checkpoint is not run"
            )


def _only(
    section: dict[str, Any], key: str, only: object, where: str, *, or_none: bool = False
) -> None:
    """The key, where it is given, has the one value that we have the arithmetic of."""
    value = section.get(key, only)
    if value != only and not (or_none and value is None):
        raise InputError(f"{where}: {key} = {value!r} is not supported; only {only!r} is")


def _rope_theta(section: dict[str, Any], where: str) -> float:
    """The base of the rotation: since transformers 5 one of `rope_parameters`, before it alone."""
    theta = section.get("rope_theta")
    for key in ("rope_scaling", "rope_parameters"):
        rope = section.get(key) or {}
        if set(rope) - {"rope_type", "type", "rope_theta"} or any(
            rope.get(kind, "default") != "default" for kind in ("rope_type", "type")
        ):
            raise InputError(f"{where}: {key} = {rope!r} is not supported; only the default is")
        theta = rope.get("rope_theta", theta)
    return DecoderConfig.rope_theta if theta is None else theta


def _image_area(folder: Path) -> int:
    """What `Emu3Processor` would take: a key of the tokenizer's file overrides its default."""
    for name in ("tokenizer_config.json", "processor_config.json"):
        path = folder / name
        area = read_json(path).get(IMAGE_AREA) if path.exists() else None
        if area is not None:
            return area
    return DecoderConfig.image_area
