"""Convert a checkpoint to another format or precision without loading all of it into memory.

Rows are streamed from the source files to the target files. The target folder gets its name when
the last byte is written, so it is complete or absent.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from emu3.checkpoints.formats.registry import BAAI, FORMATS, CheckpointFormat, detect_format
from emu3.checkpoints.generation_defaults import DEFAULTS_FILE, GenerationDefaults
from emu3.checkpoints.hub import VISION_TOKENIZER_FOLDER, find_model, find_vision_tokenizer
from emu3.checkpoints.loading import (
    load_text_tokenizer,
    write_decoder_files,
    write_json,
    write_vision_tokenizer_files,
)
from emu3.checkpoints.safetensors_io import (
    ReadRows,
    SafetensorsReader,
    TensorSpec,
    row_blocks,
    write_safetensors,
)
from emu3.checkpoints.weights import NetworkWeights, OnBytes
from emu3.config import QUANT_METHOD, DecoderConfig, VisionConfig
from emu3.errors import InputError
from emu3.files import atomic_write, check_writable
from emu3.models.precision import Precision, stored_precision
from emu3.models.quantization import Quantized, install_quantized_modules
from emu3.models.transformer import Transformer
from emu3.models.vq.tokenizer import VisionTokenizer


def convert_checkpoint(
    model: str | Path,
    vision: str | Path | None,
    output: Path,
    *,
    format: str = BAAI.name,
    precision: Precision | None = None,
    on_bytes: OnBytes = lambda done, total: None,
) -> None:
    """Write a checkpoint, with its vision tokenizer, in another format or precision.

    Args:
        model: `"nano"`, a folder, or a hub id, which is downloaded.
        vision: the vision tokenizer, likewise; None finds the one that belongs to the model.
        output: folder to create, which must not exist or must be empty. The BAAI and Paddle formats
            put the vision tokenizer into its subfolder `vision_tokenizer`.
        format: `"baai"`, `"hf"` (transformers) or `"paddle"`.
        precision: of the decoder; None keeps the stored one. The vision tokenizer keeps its own.
        on_bytes: called with the bytes written so far, and in total.

    Raises:
        InputError: the checkpoint or the arguments are invalid, or the disk is too full. Nothing
            was written.
    """
    if format not in FORMATS:
        raise InputError(
            f"unknown checkpoint format {format!r}; choose one of {', '.join(FORMATS)}"
        )
    target = FORMATS[format]
    check_writable(output.parent / f"{output.name}.json")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise InputError(f"{output}: already exists; choose a new folder")
    folder = find_model(model)
    vision_folder = find_vision_tokenizer(folder, vision, model)
    text_tokenizer, config = load_text_tokenizer(folder)
    _check_precision(folder, config, target, precision)
    with SafetensorsReader(folder) as reader, SafetensorsReader(vision_folder) as vision_reader:
        vision_format = detect_format(vision_folder)
        vision_config = vision_format.vision_config(vision_folder)
        preprocessor = vision_format.preprocessor(vision_folder)
        decoder = _decoder_stream(
            NetworkWeights(reader, detect_format(folder), decoder=True), config, target, precision
        )
        tokenizer = _vision_tokenizer_stream(
            NetworkWeights(vision_reader, vision_format, decoder=False), vision_config, target
        )
        total = decoder.nbytes + tokenizer.nbytes
        _check_disk_space(output.parent, total)
        count = _ByteCounter(on_bytes, total)
        with atomic_write(output) as temporary:
            temporary.mkdir()
            if target.write_files is not None:
                both = decoder.merge(tokenizer)
                both.write(temporary, count)
                target.write_files(
                    temporary, config, text_tokenizer, vision_config, preprocessor, both.dtype_name
                )
            else:
                subfolder = temporary / VISION_TOKENIZER_FOLDER
                subfolder.mkdir()
                decoder.write(temporary, count)
                write_decoder_files(
                    _output_config(config, precision), text_tokenizer, temporary, decoder.dtype_name
                )
                tokenizer.write(subfolder, count)
                write_vision_tokenizer_files(
                    vision_config, preprocessor, subfolder, tokenizer.dtype_name
                )
            defaults = GenerationDefaults.from_folder(folder, str(model))
            write_json(temporary / DEFAULTS_FILE, defaults.to_dict())
            if output.is_dir():
                output.rmdir()  # empty, as checked above


def _check_precision(
    folder: Path, config: DecoderConfig, target: CheckpointFormat, precision: Precision | None
) -> None:
    stored = stored_precision(config)
    if stored is not None:
        raise InputError(
            f"{folder}: already quantized to {stored.name}, which cannot be converted further; "
            "convert the original checkpoint"
        )
    if precision is not None and precision.bits is not None and target is not BAAI:
        raise InputError(
            f"{precision.name} weights can only be written in the baai format, not in {target.name}"
        )


def _check_disk_space(folder: Path, required: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < required:
        raise InputError(
            f"{folder}: {required / 1e9:.1f} GB required, {free / 1e9:.1f} GB free; "
            "nothing was written"
        )


def _output_config(config: DecoderConfig, precision: Precision | None) -> DecoderConfig:
    """The decoder config to write, with the quantization that was applied."""
    if precision is None or precision.bits is None:
        return config
    quantization = {
        "quant_method": QUANT_METHOD,
        "bits": precision.bits,
        "group_size": precision.group_size,
    }
    return replace(config, quantization_config=quantization)


class _ByteCounter:
    """Turns the sizes of written blocks into a running total for the progress callback."""

    def __init__(self, on_bytes: OnBytes, total: int) -> None:
        self.on_bytes, self.total, self.done = on_bytes, total, 0

    def __call__(self, count: int) -> None:
        self.done += count
        self.on_bytes(self.done, self.total)


class _TensorStream:
    """The tensors to write, under the names of the target format, and a function for their rows."""

    def __init__(
        self,
        specs: dict[str, TensorSpec],
        read_rows: ReadRows,
        metadata_format: str,
        dtype: torch.dtype,
    ) -> None:
        self.specs, self.read_rows = specs, read_rows
        self.metadata_format, self.dtype = metadata_format, dtype

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.specs.values())

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def merge(self, other: _TensorStream) -> _TensorStream:
        """The tensors of both streams, for one set of files."""

        def read_rows(name: str, first: int, last: int) -> Tensor:
            return (self if name in self.specs else other).read_rows(name, first, last)

        widest = max(self.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
        specs = {**self.specs, **other.specs}
        return _TensorStream(specs, read_rows, self.metadata_format, widest)

    def write(self, folder: Path, on_bytes: Callable[[int], None]) -> None:
        write_safetensors(
            folder,
            self.specs,
            self.read_rows,
            on_bytes=on_bytes,
            metadata_format=self.metadata_format,
        )


def _decoder_stream(
    weights: NetworkWeights,
    config: DecoderConfig,
    target: CheckpointFormat,
    precision: Precision | None,
) -> _TensorStream:
    with torch.device("meta"):
        model = Transformer(config)
    weights.check_matches(model)
    if precision is not None:
        install_quantized_modules(model, precision)
    return _stream(weights, model, target, target.decoder_name, precision)


def _vision_tokenizer_stream(
    weights: NetworkWeights, config: VisionConfig, target: CheckpointFormat
) -> _TensorStream:
    with torch.device("meta"):
        model = VisionTokenizer(config)
    weights.check_matches(model)
    return _stream(weights, model, target, target.vision_name, None)


def _stream(
    weights: NetworkWeights,
    model: nn.Module,
    target: CheckpointFormat,
    rename: Callable[[str], str | None],
    precision: Precision | None,
) -> _TensorStream:
    source_names: dict[str, str] = {}
    specs: dict[str, TensorSpec] = {}
    quantized = _QuantizedTensors(weights, model)
    for name, tensor in model.state_dict().items():
        target_name = rename(name)
        if target_name is None:
            continue  # the target format does not store this tensor
        spec = TensorSpec(tensor.dtype, tuple(tensor.shape))
        if name not in quantized:
            dtype = weights.spec(name).dtype
            if precision is not None and dtype.is_floating_point:
                dtype = precision.dtype
            spec = TensorSpec(dtype, target.shape(name, spec.shape))
        source_names[target_name], specs[target_name] = name, spec

    def read_rows(target_name: str, first: int, last: int) -> Tensor:
        name = source_names[target_name]
        if name in quantized:
            return quantized.read_rows(name, first, last)
        if target.is_transposed(name):
            return weights.read_columns(name, first, last)
        return weights.read_rows(name, first, last)

    dtypes = [spec.dtype for spec in specs.values() if spec.dtype.is_floating_point]
    widest = max(dtypes, key=lambda dtype: dtype.itemsize)
    return _TensorStream(specs, read_rows, target.metadata_format, widest)


class _QuantizedTensors:
    """The buffers of quantized modules, computed for one module at a time."""

    def __init__(self, weights: NetworkWeights, model: nn.Module) -> None:
        self.weights = weights
        self.modules = {
            path: module for path, module in model.named_modules() if isinstance(module, Quantized)
        }
        self.path, self.buffers = "", dict[str, Tensor]()

    def __contains__(self, name: str) -> bool:
        return name.rpartition(".")[0] in self.modules

    def read_rows(self, name: str, first: int, last: int) -> Tensor:
        path, _, buffer = name.rpartition(".")
        if path != self.path:
            self.path, self.buffers = path, self._quantize(path)
        return self.buffers[buffer][first:last]

    def _quantize(self, path: str) -> dict[str, Tensor]:
        module, weight = self.modules[path], f"{path}.weight"
        buffers = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype)
            for name, tensor in module.named_buffers()
        }
        for first, last in row_blocks(self.weights.spec(weight)):
            rows = self.weights.read_rows(weight, first, last)
            for name, quantized in module.quantize(rows).items():
                buffers[name][first:last] = quantized
        return buffers
