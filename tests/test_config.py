"""Config files are read strictly: unknown keys and unsupported values raise, naming the key."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.config import METADATA_KEYS, DecoderConfig, FileConfig, PreprocessorConfig, VisionConfig
from emu3.errors import InputError
from emu3.models.precision import stored_precision

KINDS: list[type[FileConfig]] = [
    DecoderConfig,
    VisionConfig,
    PreprocessorConfig,
    GenerationDefaults,
]


@dataclass(frozen=True)
class WithRequired(FileConfig):
    """A config with a key that has no default."""

    needed: int
    other: int = 3


@pytest.mark.parametrize(
    "config",
    [
        *(kind() for kind in KINDS),
        DecoderConfig(vocab_size=99, hidden_size=24, num_attention_heads=6, num_key_value_heads=3),
        VisionConfig(ch=32, ch_mult=(1, 1, 2), attn_resolutions=(0, 2), dropout=0.1),
        PreprocessorConfig(min_pixels=64, max_pixels=128, image_mean=(0.1, 0.2, 0.3), resample=0),
        PreprocessorConfig(size={"min_pixels": 512 * 512, "max_pixels": 1024 * 1024}),
        GenerationDefaults(tasks=("chat",), suffix="", negative_prompt="ugly"),
    ],
)
def test_round_trip(config: FileConfig) -> None:
    written = json.dumps(config.to_dict())
    assert type(config).from_dict(json.loads(written)) == config


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_written(kind: type[FileConfig]) -> None:
    written = [field.name for field in dataclasses.fields(kind)]
    if kind is DecoderConfig:  # transformers fails on a null quantization_config
        written.remove("quantization_config")
    assert list(kind().to_dict()) == written


def test_quantization_config_round_trips() -> None:
    values = {"quant_method": "emu3", "bits": 4, "group_size": 32}
    config = DecoderConfig.from_dict({"quantization_config": values})
    assert DecoderConfig.from_dict(config.to_dict()) == config
    stored = stored_precision(config)
    assert stored is not None
    assert (stored.name, stored.group_size) == ("int4", 32)


@pytest.mark.parametrize(
    "change", [{"quant_method": "gptq"}, {"bits": 3}, {"group_size": 0}, {"sym": True}]
)
def test_other_quantization_is_refused(change: dict[str, object]) -> None:
    values = {"quant_method": "emu3", "bits": 4, "group_size": 32, **change}
    with pytest.raises(InputError, match=r"quantization_config|group_size"):
        DecoderConfig.from_dict({"quantization_config": values})


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_key_raises(kind: type[FileConfig]) -> None:
    with pytest.raises(InputError, match=r"here: unknown key 'sliding_window' = 128"):
        kind.from_dict({"sliding_window": 128}, where="here")


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_keys_are_ignored(kind: type[FileConfig]) -> None:
    assert kind.from_dict(dict.fromkeys(METADATA_KEYS, "any")) == kind()


def test_missing_key_is_named() -> None:
    assert WithRequired.from_dict({"needed": 1}) == WithRequired(1)
    with pytest.raises(InputError, match="'needed' is missing"):
        WithRequired.from_dict({"other": 1})


BAD: list[tuple[type[FileConfig], str, object]] = [
    (DecoderConfig, "model_type", "llama"),
    (DecoderConfig, "hidden_act", "gelu"),
    (DecoderConfig, "rope_scaling", {"type": "linear", "factor": 2.0}),
    (DecoderConfig, "tie_word_embeddings", True),
    (DecoderConfig, "pretraining_tp", 2),
    (DecoderConfig, "attention_dropout", 1.0),
    (DecoderConfig, "attention_dropout", -0.1),
    (DecoderConfig, "attention_dropout", "0.1"),
    (DecoderConfig, "vocab_size", 0),
    (DecoderConfig, "num_hidden_layers", -1),
    (DecoderConfig, "num_hidden_layers", True),
    (DecoderConfig, "image_area", 0),
    (DecoderConfig, "rms_norm_eps", float("nan")),
    (DecoderConfig, "rope_theta", "1e6"),
    (DecoderConfig, "hidden_size", 4097),
    (DecoderConfig, "hidden_size", 32 * 3),  # rotary embeddings need an even head dimension
    (DecoderConfig, "num_key_value_heads", 5),
    (VisionConfig, "model_type", "Emu3"),
    (VisionConfig, "double_z", True),
    (VisionConfig, "in_channels", 1),
    (VisionConfig, "out_channels", 4),
    (VisionConfig, "dropout", 1),
    (VisionConfig, "codebook_size", 0),
    (VisionConfig, "num_res_blocks", 0),
    (VisionConfig, "ch", 48),
    (VisionConfig, "ch", 0),
    (VisionConfig, "ch", -32),
    (VisionConfig, "ch_mult", []),
    (VisionConfig, "z_channels", 8),
    (VisionConfig, "temporal_downsample_factor", 3),
    (VisionConfig, "temporal_downsample_factor", 0),
    (VisionConfig, "attn_resolutions", [4]),
    (VisionConfig, "attn_resolutions", [-1]),
    (PreprocessorConfig, "do_convert_rgb", False),
    (PreprocessorConfig, "do_normalize", False),
    (PreprocessorConfig, "do_rescale", False),
    (PreprocessorConfig, "do_resize", False),
    (PreprocessorConfig, "image_processor_type", "CLIPImageProcessor"),
    (PreprocessorConfig, "min_pixels", 0),
    (PreprocessorConfig, "max_pixels", 512 * 512 - 1),
    (PreprocessorConfig, "spatial_factor", 0),
    (PreprocessorConfig, "rescale_factor", 0.0),
    (PreprocessorConfig, "size", {"min_pixels": 64, "max_pixels": 1024 * 1024}),
    (PreprocessorConfig, "size", {"shortest_edge": 224}),
    (PreprocessorConfig, "resample", 6),
    (PreprocessorConfig, "resample", None),
    (PreprocessorConfig, "image_mean", [0.5]),
    (PreprocessorConfig, "image_std", [0.5, 0.0, 0.5]),
    (GenerationDefaults, "tasks", ["image", "dance"]),
]


@pytest.mark.parametrize(("kind", "key", "value"), BAD)
def test_unsupported_value_raises(kind: type[FileConfig], key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^here: .*{key.rstrip('s')}"):
        kind.from_dict({key: value}, where="here")


def test_strides_follow_config() -> None:
    assert VisionConfig().spatial_factor == 8
    assert VisionConfig().temporal_stages == 2
    assert VisionConfig(ch_mult=(1, 1)).spatial_factor == 2
    assert VisionConfig(temporal_downsample_factor=1).temporal_stages == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[1, 2]", "expected a JSON object, found list"),
        (b'{"hidden_act": "gelu"}', "hidden_act"),
    ],
)
def test_invalid_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        DecoderConfig.from_file(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_published_files(reference: Path) -> None:
    decoder = DecoderConfig.from_file(reference / "Emu3-Gen-tiny" / "config.json")
    assert (decoder.hidden_size, decoder.vocab_size) == (32, 184622)
    folder = reference / "Emu3-VisionTokenizer-tiny"
    vision = VisionConfig.from_file(folder / "config.json")
    assert (vision.ch_mult, vision.spatial_factor) == ((1, 1, 2, 2), 8)
    preprocessor = PreprocessorConfig.from_file(folder / "preprocessor_config.json")
    assert (preprocessor.min_pixels, preprocessor.max_pixels) == (4096, 16384)


def test_defaults_of_published_names(tmp_path: Path) -> None:
    assert GenerationDefaults.from_folder(tmp_path, "BAAI/Emu3-Gen").tasks == ("image",)
    assert GenerationDefaults.from_folder(tmp_path, "BAAI/Emu3-Chat").tasks == ("chat",)
    assert GenerationDefaults.from_folder(tmp_path, "BAAI/Emu3-Stage1").tasks == ("image", "chat")
    (tmp_path / "emu3.json").write_text(json.dumps({"tasks": ["image", "chat"], "suffix": "!"}))
    assert GenerationDefaults.from_folder(tmp_path, "BAAI/Emu3-Gen") == GenerationDefaults(
        suffix="!"
    )
