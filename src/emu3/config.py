"""The JSON config files of a checkpoint as frozen dataclasses with the same keys.

Reading is strict: an unknown key, or a value that the implementation does not support, raises
InputError instead of being ignored, because ignoring it would change the results. Keys that only
record how a file was made (`METADATA_KEYS`) are skipped.

Sources: `configuration_emu3.py` and `configuration_emu3visionvq.py` of baaivision/Emu3.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from emu3.errors import InputError

METADATA_KEYS = frozenset(
    {
        "_from_model_config",
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Keys that record how a file was made and do not affect computation."""

QUANT_METHOD = "emu3"  # `quant_method` of this library; those of others are refused


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises InputError if the file is missing, unreadable or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the folder is not a checkpoint") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


@dataclass(frozen=True)
class FileConfig:
    """Base of config dataclasses: keys must be known, required keys present, values supported."""

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "config") -> Self:
        """Build from a JSON object. Raises InputError that names the invalid key."""
        known = {f.name: f for f in fields(cls)}
        given = {k: v for k, v in raw.items() if k not in METADATA_KEYS}
        for key in given:
            if key not in known:
                raise InputError(
                    f"{where}: unknown key {key!r} = {given[key]!r}; ignoring it could change "
                    "the results, so this checkpoint is not supported"
                )
        for name, field in known.items():
            if name not in given and field.default is MISSING and field.default_factory is MISSING:
                raise InputError(f"{where}: key {name!r} is missing")
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        try:
            config = cls(**values)
            config.check()
        except (ValueError, TypeError) as error:
            raise InputError(f"{where}: {error}") from None
        return config

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read one JSON file. Raises InputError as `from_dict` does."""
        return cls.from_dict(read_json(path), where=str(path))

    def to_dict(self) -> dict[str, Any]:
        """The keys and values of the JSON file, without metadata keys."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def check(self) -> None:
        """Raise ValueError on an unsupported value."""


def _only(name: str, value: object, allowed: object) -> None:
    if value != allowed:
        raise ValueError(f"{name} = {value!r} is not supported; it must be {allowed!r}")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{name} = {value!r} must be a number above 0")


def _probability(**values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float) or not 0 <= value < 1:
            raise ValueError(f"{name} = {value!r} must be in [0, 1)")


def _check_quantization(quantization: dict[str, Any] | None) -> None:
    if quantization is None:
        return
    if not isinstance(quantization, dict) or quantization.keys() != {
        "quant_method",
        "bits",
        "group_size",
    }:
        raise ValueError("quantization_config must have quant_method, bits and group_size")
    if quantization["quant_method"] != QUANT_METHOD or quantization["bits"] not in (4, 8):
        raise ValueError(
            f"quantization_config {quantization} is not supported; "
            "quantize the original checkpoint with emu3 quantize"
        )
    _positive(group_size=quantization["group_size"])


@dataclass(frozen=True)
class DecoderConfig(FileConfig):
    """`config.json` of Emu3-Gen, -Chat and -Stage1. Defaults are those of the 8.5 B model."""

    vocab_size: int = 184622
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    hidden_act: str = "silu"
    max_position_embeddings: int = 9216
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1e6
    rope_scaling: None = None
    attention_dropout: float = 0.1
    tie_word_embeddings: bool = False
    pretraining_tp: int = 1
    image_area: int = 518400  # default pixels of a generated image: 720 * 720
    pad_token_id: int = 151643
    bos_token_id: int = 151849
    eos_token_id: int = 151850
    img_token_id: int = 151851
    boi_token_id: int = 151852
    eoi_token_id: int = 151853
    eol_token_id: int = 151846
    eof_token_id: int = 151847
    model_type: str = "Emu3"
    quantization_config: dict[str, Any] | None = (
        None  # not in BAAI's files: written by `emu3 quantize`
    )

    def to_dict(self) -> dict[str, Any]:
        """The keys and values of the JSON file, without metadata keys."""
        values = super().to_dict()
        if self.quantization_config is None:
            del values["quantization_config"]
        return values

    @property
    def head_dim(self) -> int:
        """Channels per attention head."""
        return self.hidden_size // self.num_attention_heads

    def check(self) -> None:
        """Raise ValueError on an unsupported value."""
        _only("model_type", self.model_type, "Emu3")
        _only("hidden_act", self.hidden_act, "silu")
        _only("rope_scaling", self.rope_scaling, None)
        _only("tie_word_embeddings", self.tie_word_embeddings, False)
        _only("pretraining_tp", self.pretraining_tp, 1)
        _check_quantization(self.quantization_config)
        _probability(attention_dropout=self.attention_dropout)
        _positive(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            max_position_embeddings=self.max_position_embeddings,
            rms_norm_eps=self.rms_norm_eps,
            rope_theta=self.rope_theta,
            image_area=self.image_area,
        )
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise ValueError("hidden_size must be num_attention_heads times an even number")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")


@dataclass(frozen=True)
class VisionConfig(FileConfig):
    """`config.json` of Emu3-VisionTokenizer. Defaults are those of the published 270 M model."""

    codebook_size: int = 32768
    embed_dim: int = 4
    z_channels: int = 4
    double_z: bool = False
    in_channels: int = 3
    out_channels: int = 3
    temporal_downsample_factor: int = 4
    ch: int = 256
    ch_mult: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (3,)  # levels of ch_mult, not pixels
    dropout: float = 0.0
    model_type: str = "Emu3VisionVQ"

    @property
    def spatial_factor(self) -> int:
        """Side of one visual code in pixels: 8 for four levels."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def temporal_stages(self) -> int:
        """Number of temporal halvings: 2 for groups of four frames."""
        return self.temporal_downsample_factor.bit_length() - 1

    def check(self) -> None:
        """Raise ValueError on an unsupported value."""
        _only("model_type", self.model_type, "Emu3VisionVQ")
        _only("double_z", self.double_z, False)
        _only("in_channels", self.in_channels, 3)
        _only("out_channels", self.out_channels, 3)
        _probability(dropout=self.dropout)
        _positive(
            codebook_size=self.codebook_size,
            embed_dim=self.embed_dim,
            ch=self.ch,
            num_res_blocks=self.num_res_blocks,
        )
        if self.ch % 32:
            raise ValueError("ch must be a multiple of 32 (GroupNorm has 32 groups)")
        if not self.ch_mult or min(self.ch_mult) < 1:
            raise ValueError("ch_mult must list one integer of at least 1 per level")
        if self.embed_dim != self.z_channels:
            # The decoder passes both, stacked along the batch, through the same temporal blocks.
            raise ValueError("embed_dim and z_channels must be equal")
        if 2**self.temporal_stages != self.temporal_downsample_factor:
            raise ValueError("temporal_downsample_factor must be a power of two")
        if any(not 0 <= level < len(self.ch_mult) for level in self.attn_resolutions):
            raise ValueError(f"attn_resolutions must be levels from 0 to {len(self.ch_mult) - 1}")


@dataclass(frozen=True)
class PreprocessorConfig(FileConfig):
    """`preprocessor_config.json` of Emu3-VisionTokenizer: resizing and normalization of images."""

    min_pixels: int = 512 * 512
    max_pixels: int = 1024 * 1024
    spatial_factor: int = 8
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    rescale_factor: float = 1 / 255
    resample: int = 3  # Pillow's number for bicubic
    do_convert_rgb: bool = True
    do_normalize: bool = True
    do_rescale: bool = True
    do_resize: bool = True
    size: dict[str, int] | None = None  # a copy of min_pixels and max_pixels
    image_processor_type: str = "Emu3VisionVQImageProcessor"
    processor_class: str | None = None

    def check(self) -> None:
        """Raise ValueError on an unsupported value."""
        for name in ("do_convert_rgb", "do_normalize", "do_rescale", "do_resize"):
            _only(name, getattr(self, name), True)
        _only("image_processor_type", self.image_processor_type, "Emu3VisionVQImageProcessor")
        _positive(
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            spatial_factor=self.spatial_factor,
            rescale_factor=self.rescale_factor,
        )
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} > max_pixels {self.max_pixels}")
        pixels = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        if self.size is not None and self.size != pixels:
            raise ValueError(f"size {self.size} contradicts min_pixels and max_pixels")
        if self.resample not in range(6):
            raise ValueError(
                f"resample = {self.resample!r} must be one of Pillow's filters, 0 to 5"
            )
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or 0 in self.image_std:
            raise ValueError(
                "image_mean and image_std must have three values each, with no 0 in image_std"
            )
