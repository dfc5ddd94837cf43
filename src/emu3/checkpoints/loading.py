"""A checkpoint opened: decoder, text tokenizer, vision tokenizer, and what they were made for.

In BAAI's layout a checkpoint is one folder (`config.json`, weights, two vocabulary files) and a
second for the vision tokenizer (`config.json`, `preprocessor_config.json`, weights).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from emu3.checkpoints.formats.registry import detect_format
from emu3.checkpoints.generation_defaults import DEFAULTS_FILE, GenerationDefaults
from emu3.checkpoints.hub import VISION_TOKENIZER_FOLDER, find_model, find_vision_tokenizer
from emu3.checkpoints.weights import OnBytes, load_decoder, load_vision_tokenizer, save_weights
from emu3.config import DecoderConfig, PreprocessorConfig, VisionConfig, read_json
from emu3.errors import InputError
from emu3.files import atomic_write, check_writable
from emu3.inference.optimize import is_optimized
from emu3.models.memory import widest_fitting_precision
from emu3.models.precision import Precision, parse_precision, stored_precision
from emu3.models.quantization import Quantized, precision_of
from emu3.models.transformer import Transformer
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.vision_processor import VisionProcessor


@dataclass(frozen=True)
class DeviceConfig:
    """Where a model runs and in which precision; None leaves that to the checkpoint."""

    device: torch.device
    precision: Precision | None

    @classmethod
    def resolve(
        cls, device: str | torch.device | None, dtype: str | torch.dtype | Precision | None
    ) -> DeviceConfig:
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
        return cls(device, None if dtype is None else parse_precision(dtype))

    def precision_for(self, folder: Path, config: DecoderConfig, vision: VisionConfig) -> Precision:
        """What a checkpoint is held in: what was asked for; else as it is stored; else what fits.

        Raises InputError where weights of few bits should be others.
        """
        stored = stored_precision(config)
        if stored is None:
            return self.precision or widest_fitting_precision(config, vision, self.device)
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
    defaults: GenerationDefaults
    decoder: Transformer
    text_tokenizer: TextTokenizer
    vision_processor: VisionProcessor

    @property
    def precision(self) -> str:
        """What the decoder is held in: "fp32", "bf16", "int8" or "int4"."""
        return precision_of(self.decoder)

    @property
    def prompts(self) -> PromptTemplates:
        """The templates, with the document_format of this vocabulary."""
        return PromptTemplates.from_tokenizer(self.text_tokenizer)

    def save(self, folder: Path) -> None:
        """Write the folder, with the vision tokenizer inside; whole or not at all.

        Weights keep their precision. Every file is in BAAI's layout; the card is one more file.
        Raises InputError on a model that is quantised, whose numbers may be in a kernel's order by
        now, or made ready to be run, whose are.
        """
        if is_optimized(self.decoder):
            raise InputError(f"{self.name} is open to be run; open_checkpoint gives one to save")
        if any(isinstance(module, Quantized) for module in self.decoder.modules()):
            raise InputError(f"{self.name} is quantised in memory; `emu3 quantize` writes files")
        check_writable(folder.parent / f"{folder.name}.json")
        with atomic_write(folder) as temporary:
            (temporary / VISION_TOKENIZER_FOLDER).mkdir(parents=True)
            save_decoder(self.decoder, self.text_tokenizer, temporary)
            save_vision_tokenizer(self.vision_processor, temporary / VISION_TOKENIZER_FOLDER)
            write_json(temporary / DEFAULTS_FILE, self.defaults.to_dict())


def load_checkpoint(
    model: str | Path,
    vision: str | Path | None,
    place: DeviceConfig,
    on_bytes: OnBytes = lambda done, total: None,
) -> Checkpoint:
    """Read a model by name, folder or hub id; raises InputError on whatever is wrong with it."""
    text, _ = load_text_tokenizer(
        find_model(model, weights=False)
    )  # small files say early what is wrong
    folder = find_model(model)
    config = detect_format(folder).decoder_config(folder)
    vision_processor = load_vision_processor(
        find_vision_tokenizer(folder, vision, model), place.device
    )
    to = place.precision_for(folder, config, vision_processor.vision.config)
    if vision_processor.vision.quantize.size != text.vocabulary.codebook_size:
        raise InputError(
            f"{folder} has ids for {text.vocabulary.codebook_size} codes, its vision tokenizer has "
            f"{vision_processor.vision.quantize.size}; these two do not belong together"
        )
    return Checkpoint(
        name=str(model),
        defaults=GenerationDefaults.from_folder(folder, str(model)),
        decoder=load_decoder(folder, to, place.device, detect_format(folder), on_bytes),
        text_tokenizer=text,
        vision_processor=vision_processor,
    )


def load_vision_processor(folder: Path, device: torch.device) -> VisionProcessor:
    """Read the folder of a vision tokenizer, in float32; raises InputError likewise."""
    layout = detect_format(folder)
    preprocessor = layout.preprocessor(folder)
    vision = load_vision_tokenizer(folder, device, layout)
    if preprocessor.spatial_factor % vision.config.spatial_factor:
        raise InputError(
            f"{folder}: spatial_factor {preprocessor.spatial_factor} is no multiple of the "
            f"{vision.config.spatial_factor} pixels of a code"
        )
    return VisionProcessor(vision, preprocessor)


def load_text_tokenizer(folder: Path) -> tuple[TextTokenizer, DecoderConfig]:
    """The text tokenizer and the decoder's config of a folder, checked against each other."""
    layout = detect_format(folder)
    config = layout.decoder_config(folder)
    text = layout.text(folder)
    text.vocabulary.check(config)
    if (folder / "generation_config.json").exists():
        _check_generation_config(folder / "generation_config.json", config)
    return text, config


def _check_generation_config(path: Path, config: DecoderConfig) -> None:
    """The stop and pad ids that transformers would use must be those of the config."""
    said = read_json(path)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if key in said and said[key] != getattr(config, key):
            raise InputError(
                f"{path}: {key} = {said[key]}, config.json says {getattr(config, key)}"
            )


def save_decoder(model: Transformer, text: TextTokenizer, folder: Path) -> None:
    """Write a decoder and its text tokenizer to an existing folder, in BAAI's layout."""
    write_decoder_files(model.config, text, folder, _dtype_name(model.dtype))
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


def save_vision_tokenizer(vision_processor: VisionProcessor, folder: Path) -> None:
    """Write a vision tokenizer to an existing folder, in BAAI's layout."""
    write_vision_tokenizer_files(
        vision_processor.vision.config,
        vision_processor.preprocessor,
        folder,
        _dtype_name(vision_processor.vision.dtype),
    )
    save_weights(vision_processor.vision, folder)


def write_vision_tokenizer_files(
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


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
