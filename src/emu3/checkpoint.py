"""A checkpoint opened: decoder, text tokenizer, vision tokenizer, and what they were made for.

In BAAI's layout a checkpoint is one folder (`config.json`, weights, two vocabulary files) and a
second for the vision tokenizer (`config.json`, `preprocessor_config.json`, weights).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from emu3.card import CARD_FILE, Card
from emu3.codec import Codec
from emu3.config import DecoderConfig, PreprocessorConfig, VisionConfig, read_json
from emu3.decoder.transformer import Transformer
from emu3.errors import InputError
from emu3.files import check_writable, replacing
from emu3.fuse import is_ready
from emu3.hub import VISION_FOLDER, find_model, find_vision
from emu3.layouts.layout import layout_of
from emu3.memory import fitting
from emu3.precision import Precision, precision
from emu3.prompt import Prompts
from emu3.quantize import Quantized, precision_of
from emu3.text import TextTokenizer
from emu3.weights import OnBytes, load_decoder, load_vision, save_weights


@dataclass(frozen=True)
class Place:
    """Where a model runs and in which precision; None leaves that to the checkpoint."""

    device: torch.device
    precision: Precision | None

    @classmethod
    def choose(
        cls, device: str | torch.device | None, dtype: str | torch.dtype | Precision | None
    ) -> Place:
        """CUDA where there is one, else the CPU. Raises InputError."""
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(device)
        except RuntimeError:
            raise InputError(f"no such device: {device!r}; try cpu or cuda") from None
        if device.type not in ("cpu", "cuda"):
            raise InputError(f"device {device}: only cpu and cuda are supported")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise InputError(f"device {device}: PyTorch finds no CUDA GPU by that name; use cpu")
        return cls(device, None if dtype is None else precision(dtype))

    def precision_for(self, folder: Path, config: DecoderConfig, vision: VisionConfig) -> Precision:
        """What a checkpoint is held in: what was asked for; else as it is stored; else what fits.

        Raises InputError where weights of few bits should be others.
        """
        stored = config.precision
        if stored is None:
            return self.precision or fitting(config, vision, self.device)
        if self.precision is not None and self.precision.bits != stored.bits:
            raise InputError(
                f"{folder}: its weights are {stored.name} already, which {self.precision.name} "
                "cannot bring back; ask for no precision, or open the checkpoint it came from"
            )
        return stored


@dataclass(frozen=True)
class Checkpoint:
    """Everything read from the folders of a model."""

    name: str
    card: Card
    decoder: Transformer
    text: TextTokenizer
    codec: Codec

    @property
    def precision(self) -> str:
        """What the decoder is held in: "fp32", "bf16", "int8" or "int4"."""
        return precision_of(self.decoder)

    @property
    def prompts(self) -> Prompts:
        """The templates, with the grammar of this vocabulary."""
        return Prompts.of(self.text)

    def save(self, folder: Path) -> None:
        """Write the folder, with the vision tokenizer inside; whole or not at all.

        Weights keep their precision. Every file is in BAAI's layout; the card is one more file.
        Raises InputError on a model that is quantised, whose numbers may be in a kernel's order by
        now, or made ready to be run, whose are.
        """
        if is_ready(self.decoder):
            raise InputError(f"{self.name} is open to be run; open_checkpoint gives one to save")
        if any(isinstance(module, Quantized) for module in self.decoder.modules()):
            raise InputError(f"{self.name} is quantised in memory; `emu3 quantize` writes files")
        check_writable(folder.parent / f"{folder.name}.json")
        with replacing(folder) as temporary:
            (temporary / VISION_FOLDER).mkdir(parents=True)
            save_decoder(self.decoder, self.text, temporary)
            save_vision(self.codec, temporary / VISION_FOLDER)
            write_json(temporary / CARD_FILE, self.card.to_dict())


def open_checkpoint(
    model: str | Path,
    vision: str | Path | None,
    place: Place,
    on_bytes: OnBytes = lambda done, total: None,
) -> Checkpoint:
    """Read a model by name, folder or hub id; raises InputError on whatever is wrong with it."""
    text, _ = open_text(find_model(model, weights=False))  # small files say early what is wrong
    folder = find_model(model)
    config = layout_of(folder).decoder_config(folder)
    codec = open_codec(find_vision(folder, vision, model), place.device)
    to = place.precision_for(folder, config, codec.vision.config)
    if codec.vision.quantize.size != text.vocabulary.codebook_size:
        raise InputError(
            f"{folder} has ids for {text.vocabulary.codebook_size} codes, its vision tokenizer has "
            f"{codec.vision.quantize.size}; these two do not belong together"
        )
    return Checkpoint(
        name=str(model),
        card=Card.of(folder, str(model)),
        decoder=load_decoder(folder, to, place.device, layout_of(folder), on_bytes),
        text=text,
        codec=codec,
    )


def open_codec(folder: Path, device: torch.device) -> Codec:
    """Read the folder of a vision tokenizer, in float32; raises InputError likewise."""
    layout = layout_of(folder)
    preprocessor = layout.preprocessor(folder)
    vision = load_vision(folder, device, layout)
    if preprocessor.spatial_factor % vision.config.spatial_factor:
        raise InputError(
            f"{folder}: spatial_factor {preprocessor.spatial_factor} is no multiple of the "
            f"{vision.config.spatial_factor} pixels of a code"
        )
    return Codec(vision, preprocessor)


def open_text(folder: Path) -> tuple[TextTokenizer, DecoderConfig]:
    """The text tokenizer and the decoder's config of a folder, checked against each other."""
    layout = layout_of(folder)
    config = layout.decoder_config(folder)
    text = layout.text(folder)
    text.vocabulary.check(config)
    if (folder / "generation_config.json").exists():
        _check_generation(folder / "generation_config.json", config)
    return text, config


def _check_generation(path: Path, config: DecoderConfig) -> None:
    """The stop and pad ids that transformers would use must be those of the config."""
    said = read_json(path)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if key in said and said[key] != getattr(config, key):
            raise InputError(
                f"{path}: {key} = {said[key]}, config.json says {getattr(config, key)}"
            )


def save_decoder(model: Transformer, text: TextTokenizer, folder: Path) -> None:
    """Write a decoder and its text tokenizer to an existing folder, in BAAI's layout."""
    write_decoder_files(model.config, text, folder, _name(model.dtype))
    save_weights(model, folder)


def write_decoder_files(
    config: DecoderConfig, text: TextTokenizer, folder: Path, dtype: str
) -> None:
    """Write what belongs to a decoder in BAAI's layout, but for the weights."""
    described = {"architectures": ["Emu3ForCausalLM"], **config.to_dict()}
    write_json(folder / "config.json", {**described, "torch_dtype": dtype})
    ids = {key: getattr(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Emu3Tokenizer"})
    text.save(folder)


def save_vision(codec: Codec, folder: Path) -> None:
    """Write a vision tokenizer to an existing folder, in BAAI's layout."""
    write_vision_files(codec.vision.config, codec.preprocessor, folder, _name(codec.vision.dtype))
    save_weights(codec.vision, folder)


def write_vision_files(
    config: VisionConfig, preprocessor: PreprocessorConfig, folder: Path, dtype: str
) -> None:
    """Write what belongs to a vision tokenizer in BAAI's layout, but for the weights."""
    described = {"architectures": ["Emu3VisionVQModel"], **config.to_dict()}
    write_json(folder / "config.json", {**described, "torch_dtype": dtype})
    bounds = {"min_pixels": preprocessor.min_pixels, "max_pixels": preprocessor.max_pixels}
    said = {key: value for key, value in preprocessor.to_dict().items() if value is not None}
    write_json(folder / "preprocessor_config.json", {**said, "size": bounds})


def write_json(path: Path, value: dict[str, object]) -> None:
    """Write a JSON object with sorted keys and an end of line, as the published files have."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
