"""The transformers format: tensor names and config files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emu3.checkpoints.formats import hf
from emu3.config import VisionConfig
from emu3.errors import InputError
from emu3.processing.vocabulary import SOV
from emu3.testing import tiny_decoder, tiny_vision

from .tiny_hf import DECODERS, PREPROCESSOR, VISIONS, edit, trained_tokenizer, write

# Names.


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("text_model.model.norm.weight", "model.text_model.norm.weight"),
        ("text_model.lm_head.weight", "lm_head.weight"),
        ("vqmodel.quantize.embedding.weight", "model.vqmodel.quantize.embedding.weight"),
    ],
)
def test_canonical_name_maps_old_names(old: str, new: str) -> None:
    assert hf.canonical_name(old) == new
    assert hf.canonical_name(new) == new


def test_names_of_single_tensors() -> None:
    q = "model.layers.0.self_attn.q_proj.weight"
    assert hf.decoder_name(q) == "model.text_model.layers.0.self_attn.q_proj.weight"
    assert hf.decoder_name("lm_head.weight") == "lm_head.weight"
    conv = "encoder.down.0.block.0.conv1.weight"
    assert hf.vision_name(conv) == f"model.vqmodel.{conv.replace('down.', 'down_block.down.')}"
    norm = "decoder.up.3.attn.2.norm.conv_y.bias"
    assert hf.vision_name(norm) == "model.vqmodel.decoder.up_block.up.3.attn_norms.2.conv_y.bias"


# Files.


@pytest.mark.parametrize("changes", DECODERS)
def test_decoder_config_round_trip(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny_decoder(**changes).config
    assert hf.decoder_config(write(tmp_path, decoder=config)) == config


@pytest.mark.parametrize("changes", VISIONS)
def test_vision_config_round_trip(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny_vision(**changes).config
    assert hf.vision_config(write(tmp_path, vision=config)) == config


def test_preprocessor_round_trip(tmp_path: Path) -> None:
    assert hf.preprocessor(write(tmp_path)) == PREPROCESSOR
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "other.json")
    inner = json.loads((tmp_path / "other.json").read_text())
    edit(tmp_path / "processor_config.json", image_processor=inner)  # as transformers 5 saves it
    assert hf.preprocessor(tmp_path) == PREPROCESSOR


def test_image_area_defaults_to_transformers_value(tmp_path: Path) -> None:
    write(tmp_path, decoder=tiny_decoder(image_area=512 * 512).config)
    assert hf.decoder_config(tmp_path).image_area == 512 * 512
    edit(tmp_path / "tokenizer_config.json", image_area=None)
    assert hf.decoder_config(tmp_path).image_area == 518400


def test_configs_of_transformers_4_are_read(tmp_path: Path) -> None:
    """They have RoPE in two keys, and keys that Emu3 does not read."""
    config = tiny_decoder(rope_theta=1e5).config
    path = write(tmp_path, decoder=config) / "config.json"
    edit(path, "text_config", rope_parameters=None, rope_scaling={"rope_type": "default"})
    edit(path, "text_config", torch_dtype="bfloat16", _attn_implementation_autoset=True, top_k=50)
    edit(path, transformers_version="4.48.0", torch_dtype="bfloat16", return_dict=True)
    assert hf.decoder_config(tmp_path) == config


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("text_config", {"attention_bias": True}, "attention_bias"),
        ("text_config", {"head_dim": 5}, "head_dim"),
        ("text_config", {"sliding_window": 64}, "sliding_window"),
        ("text_config", {"rope_parameters": {"rope_type": "linear", "factor": 2}}, "rope_param"),
        ("text_config", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("text_config", {"eos_token_id": [1, 2]}, "eos_token_id"),
        ("text_config", {"hidden_act": "gelu"}, "hidden_act"),
        ("vq_config", {"num_attention_heads": 2}, "num_attention_heads"),
        ("vq_config", {"double_latent": True}, "double_z"),
        ("vq_config", {"hidden_size": None}, "hidden_size = 1024"),
        ("vq_config", {"commitment": 0.25}, "commitment"),
        ("vocabulary_map", {SOV: None}, SOV),
        (None, {"model_type": "chameleon"}, "chameleon"),
        (None, {"quantization_config": {}}, "quantization_config"),
        (None, {"text_config": 3}, "text_config"),
    ],
)
def test_unsupported_values_raise(
    tmp_path: Path, section: str | None, changes: dict[str, Any], words: str
) -> None:
    path = write(tmp_path) / "config.json"
    edit(path, section, **changes)
    read = hf.vision_config if section == "vq_config" else hf.decoder_config
    with pytest.raises(InputError) as raised:
        read(tmp_path)
    assert words in str(raised.value)
    assert str(path) in str(raised.value)


def test_missing_image_mean_raises(tmp_path: Path) -> None:
    edit(write(tmp_path) / "preprocessor_config.json", image_mean=None)
    with pytest.raises(InputError, match="image_mean"):
        hf.preprocessor(tmp_path)


@pytest.mark.parametrize(
    "config", [VisionConfig(attn_resolutions=(0,)), VisionConfig(dropout=0.1), VisionConfig()]
)
def test_write_files_rejects_unsupported_vision_configs(
    tmp_path: Path, config: VisionConfig
) -> None:
    """The last config has another codebook size than the vocabulary."""
    size = config.codebook_size if config == VisionConfig() else 64
    with pytest.raises(InputError):
        write(tmp_path, vision=VisionConfig(**{**config.to_dict(), "codebook_size": size}))


def test_write_files_rejects_a_mismatched_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vocab_size"):
        write(tmp_path, trained_tokenizer(), decoder=tiny_decoder().config)
