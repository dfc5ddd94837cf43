"""Load a checkpoint: decoder, text tokenizer, vision tokenizer and generation defaults.

In BAAI's format a checkpoint is one folder for the decoder (`config.json`, weights, two vocabulary
files) and one for the vision tokenizer (`config.json`, `preprocessor_config.json`, weights).
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
from emu3.models.memory import widest_fitting_precision
from emu3.models.precision import Precision, parse_precision, stored_precision
from emu3.models.quantization import Quantized, precision_of
from emu3.models.transformer import Transformer
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.vision_processor import VisionProcessor


@dataclass(frozen=True)
class DeviceConfig:
    """Device and precision of a model. Precision None is chosen when the checkpoint is loaded."""

    device: torch.device
    precision: Precision | None

    @classmethod
    def resolve(
        cls, device: str | torch.device | None, dtype: str | torch.dtype | Precision | None
    ) -> DeviceConfig:
        """Validate device and precision. Without a device: CUDA if available, else the CPU.

        Raises InputError on an unknown device or precision, or if CUDA is not available.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(device)
        except RuntimeError:
            raise InputError(f"unknown device {device!r}; use cpu or cuda") from None
        if device.type not in ("cpu", "cuda"):
            raise InputError(f"device {device} is not supported; use cpu or cuda")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise InputError(f"device {device}: PyTorch finds no CUDA GPU with that index; use cpu")
        return cls(device, None if dtype is None else parse_precision(dtype))

    def precision_for(self, folder: Path, config: DecoderConfig, vision: VisionConfig) -> Precision:
        """The precision to load a checkpoint in.

        In this order: the stored precision if the weights are quantized; the requested one; the
        widest that fits into memory. Raises InputError if quantized weights are requested in
        another precision.
        """
        stored = stored_precision(config)
        if stored is None:
            return self.precision or widest_fitting_precision(config, vision, self.device)
        if self.precision is not None and self.precision.bits != stored.bits:
            raise InputError(
                f"{folder}: its weights are stored as {stored.name} and cannot be converted to "
                f"{self.precision.name}; omit the precision, or load the original checkpoint"
            )
        return stored


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model: decoder, both tokenizers, and its generation defaults."""

    name: str
    defaults: GenerationDefaults
    decoder: Transformer
    text_tokenizer: TextTokenizer
    vision_processor: VisionProcessor

    @property
    def precision(self) -> str:
        """Precision of the decoder: "fp32", "bf16", "int8" or "int4"."""
        return precision_of(self.decoder)

    @property
    def prompts(self) -> PromptTemplates:
        """The prompt templates for this vocabulary."""
        return PromptTemplates.from_tokenizer(self.text_tokenizer)

    def save(self, folder: Path) -> None:
        """Write the checkpoint in BAAI's format, with the vision tokenizer and `emu3.json` inside.

        Weights keep their precision. The folder appears only when it is complete. Raises InputError
        if the folder cannot be written or if the decoder was quantized or optimized for inference:
        its weights may then be fused or in the memory order of a kernel.
        """
        if self.decoder.optimized_for_inference:
            raise InputError(
                f"{self.name} is optimized for inference and cannot be saved; load it with "
                "load_checkpoint, which leaves the weights unchanged"
            )
        if any(isinstance(module, Quantized) for module in self.decoder.modules()):
            raise InputError(
                f"{self.name} is quantized in memory and cannot be saved; use `emu3 quantize`"
            )
        check_writable(folder.parent / f"{folder.name}.json")
        with atomic_write(folder) as temporary:
            (temporary / VISION_TOKENIZER_FOLDER).mkdir(parents=True)
            save_decoder(self.decoder, self.text_tokenizer, temporary)
            save_vision_tokenizer(self.vision_processor, temporary / VISION_TOKENIZER_FOLDER)
            write_json(temporary / DEFAULTS_FILE, self.defaults.to_dict())


def load_checkpoint(
    model: str | Path,
    vision: str | Path | None,
    device_config: DeviceConfig,
    on_bytes: OnBytes = lambda done, total: None,
) -> Checkpoint:
    """Load a model by name, folder or hub id.

    Args:
        model: `"nano"`, a folder, or a hub id, which is downloaded.
        vision: the vision tokenizer, likewise; None finds the one that belongs to the model.
        device_config: device and precision of the decoder.
        on_bytes: called with the bytes of decoder weights read so far, and in total.

    Raises:
        InputError: the model is not found, invalid, or does not fit its vision tokenizer.
    """
    # Check the small files first: they show most errors before any weights are downloaded.
    text_tokenizer, _ = load_text_tokenizer(find_model(model, weights=False))
    folder = find_model(model)
    format = detect_format(folder)
    config = format.decoder_config(folder)
    vision_processor = load_vision_processor(
        find_vision_tokenizer(folder, vision, model), device_config.device
    )
    precision = device_config.precision_for(folder, config, vision_processor.vision.config)
    check_codebook_size(folder, text_tokenizer, vision_processor)
    return Checkpoint(
        name=str(model),
        defaults=GenerationDefaults.from_folder(folder, str(model)),
        decoder=load_decoder(folder, precision, device_config.device, format, on_bytes),
        text_tokenizer=text_tokenizer,
        vision_processor=vision_processor,
    )


def check_codebook_size(folder: Path, text: TextTokenizer, vision: VisionProcessor) -> None:
    """Raise InputError unless vocabulary and vision tokenizer have the same number of codes."""
    expected, found = text.vocabulary.codebook_size, vision.vision.quantize.size
    if expected != found:
        raise InputError(
            f"{folder}: the vocabulary has {expected} visual codes and the vision tokenizer "
            f"{found}; use the vision tokenizer the model was trained with"
        )


def load_vision_processor(folder: Path, device: torch.device) -> VisionProcessor:
    """Load a vision tokenizer, in float32, with its preprocessor. Raises InputError."""
    format = detect_format(folder)
    preprocessor = format.preprocessor(folder)
    vision = load_vision_tokenizer(folder, device, format)
    if preprocessor.spatial_factor % vision.config.spatial_factor:
        raise InputError(
            f"{folder}: spatial_factor {preprocessor.spatial_factor} of the preprocessor is not a "
            f"multiple of the {vision.config.spatial_factor} pixels of a visual code"
        )
    return VisionProcessor(vision, preprocessor)


def load_text_tokenizer(folder: Path) -> tuple[TextTokenizer, DecoderConfig]:
    """Load the text tokenizer and the decoder config, and check that they match.

    Raises InputError if the vocabulary, `config.json` and `generation_config.json` disagree.
    """
    format = detect_format(folder)
    config = format.decoder_config(folder)
    text = format.text_tokenizer(folder)
    text.vocabulary.check(config)
    if (folder / "generation_config.json").exists():
        _check_generation_config(folder / "generation_config.json", config)
    return text, config


def _check_generation_config(path: Path, config: DecoderConfig) -> None:
    """The special token ids that transformers would use must be those of config.json."""
    values = read_json(path)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if key in values and values[key] != getattr(config, key):
            raise InputError(
                f"{path}: {key} = {values[key]}, but config.json has {getattr(config, key)}"
            )


def save_decoder(model: Transformer, text: TextTokenizer, folder: Path) -> None:
    """Write a decoder and its text tokenizer to an existing folder, in BAAI's format."""
    write_decoder_files(model.config, text, folder, _dtype_name(model.dtype))
    save_weights(model, folder)


def write_decoder_files(
    config: DecoderConfig, text: TextTokenizer, folder: Path, dtype: str
) -> None:
    """Write the configs and vocabulary of a decoder, but no weights, in BAAI's format."""
    values = {"architectures": ["Emu3ForCausalLM"], **config.to_dict()}
    write_json(folder / "config.json", {**values, "torch_dtype": dtype})
    ids = {key: getattr(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Emu3Tokenizer"})
    text.save(folder)


def save_vision_tokenizer(vision_processor: VisionProcessor, folder: Path) -> None:
    """Write a vision tokenizer to an existing folder, in BAAI's format."""
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
    """Write the configs of a vision tokenizer, but no weights, in BAAI's format."""
    values = {"architectures": ["Emu3VisionVQModel"], **config.to_dict()}
    write_json(folder / "config.json", {**values, "torch_dtype": dtype})
    bounds = {"min_pixels": preprocessor.min_pixels, "max_pixels": preprocessor.max_pixels}
    given = {key: value for key, value in preprocessor.to_dict().items() if value is not None}
    write_json(folder / "preprocessor_config.json", {**given, "size": bounds})


def write_json(path: Path, value: dict[str, object]) -> None:
    """Write a JSON object with sorted keys and a final newline, as the published files have."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
