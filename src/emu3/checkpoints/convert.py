"""One checkpoint to another: other names, other numbers, never all of it in memory.

Rows stream from the files of one layout to those of the next. The target folder is complete or
absent: it takes its name when the last byte is written.
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
    target: Path,
    *,
    format: str = BAAI.name,
    precision: Precision | None = None,
    on_bytes: OnBytes = lambda done, total: None,
) -> None:
    """Write a checkpoint in another layout or precision, its vision tokenizer with it.

    `format` is `"baai"`, `"hf"` or `"paddle"`. Without `precision` numbers stay what they are. The vision
    tokenizer stays in its precision; in BAAI's layout and Paddle's it goes to a folder inside.
    Raises InputError on a checkpoint or a target that will not do, before anything is written.
    """
    if format not in FORMATS:
        raise InputError(f"no such layout: {format!r}; one of {', '.join(FORMATS)}")
    into = FORMATS[format]
    check_writable(target.parent / f"{target.name}.json")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target}: exists already; name a new folder")
    folder = find_model(model)
    vision_folder = find_vision_tokenizer(folder, vision, model)
    text, config = load_text_tokenizer(folder)
    _check_precision(folder, config, into, precision)
    with SafetensorsReader(folder) as shards, SafetensorsReader(vision_folder) as vision_shards:
        decoder = _decoder(
            NetworkWeights(shards, detect_format(folder), decoder=True), config, into, precision
        )
        described = detect_format(vision_folder)
        vision_config = described.vision_config(vision_folder)
        pictures = _vision(
            NetworkWeights(vision_shards, described, decoder=False), vision_config, into
        )
        total = decoder.nbytes + pictures.nbytes
        _check_space(target.parent, total)
        preprocessor = described.preprocessor(vision_folder)
        report = _ByteCounter(on_bytes, total)
        with atomic_write(target) as temporary:
            temporary.mkdir()
            if into.write_files is not None:
                both = decoder.join(pictures)
                both.write(temporary, report)
                into.write_files(
                    temporary, config, text, vision_config, preprocessor, both.dtype_name
                )
            else:
                inside = temporary / VISION_TOKENIZER_FOLDER
                inside.mkdir()
                decoder.write(temporary, report)
                write_decoder_files(
                    _output_config(config, precision), text, temporary, decoder.dtype_name
                )
                pictures.write(inside, report)
                write_vision_tokenizer_files(
                    vision_config, preprocessor, inside, pictures.dtype_name
                )
            write_json(
                temporary / DEFAULTS_FILE,
                GenerationDefaults.from_folder(folder, str(model)).to_dict(),
            )
            if target.is_dir():
                target.rmdir()  # it was empty


def _check_precision(
    folder: Path, config: DecoderConfig, into: CheckpointFormat, precision: Precision | None
) -> None:
    stored = stored_precision(config)
    if stored is not None:
        raise InputError(
            f"{folder}: quantised to {stored.name} already, which cannot be undone or done again; "
            "start from the checkpoint it was made of"
        )
    if precision is not None and precision.bits is not None and into is not BAAI:
        raise InputError(
            f"{precision.name} weights are written in BAAI's layout only, not in {into.name}"
        )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; "
            "nothing was written"
        )


def _output_config(config: DecoderConfig, precision: Precision | None) -> DecoderConfig:
    """The config of what is written, its quantisation recorded."""
    if precision is None or precision.bits is None:
        return config
    said = {
        "quant_method": QUANT_METHOD,
        "bits": precision.bits,
        "group_size": precision.group_size,
    }
    return replace(config, quantization_config=said)


class _ByteCounter:
    """Adds up what is written."""

    def __init__(self, on_bytes: OnBytes, total: int) -> None:
        self.on_bytes, self.total, self.done = on_bytes, total, 0

    def __call__(self, count: int) -> None:
        self.done += count
        self.on_bytes(self.done, self.total)


class _TensorStream:
    """Tensors under their new names, and where their rows come from."""

    def __init__(
        self, specs: dict[str, TensorSpec], rows: ReadRows, shard_format: str, dtype: torch.dtype
    ) -> None:
        self.specs, self.read_rows, self.format, self.dtype = specs, rows, shard_format, dtype

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.specs.values())

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def join(self, other: _TensorStream) -> _TensorStream:
        """Both in the same files."""

        def rows(name: str, first: int, last: int) -> Tensor:
            return (self if name in self.specs else other).read_rows(name, first, last)

        widest = max(self.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
        return _TensorStream({**self.specs, **other.specs}, rows, self.format, widest)

    def write(self, folder: Path, on_bytes: Callable[[int], None]) -> None:
        write_safetensors(
            folder, self.specs, self.read_rows, on_bytes=on_bytes, metadata_format=self.format
        )


def _decoder(
    source: NetworkWeights,
    config: DecoderConfig,
    into: CheckpointFormat,
    precision: Precision | None,
) -> _TensorStream:
    with torch.device("meta"):
        model = Transformer(config)
    source.check_matches(model)
    if precision is not None:
        install_quantized_modules(model, precision)
    return _stream(source, model, into, into.decoder_name, precision)


def _vision(source: NetworkWeights, config: VisionConfig, into: CheckpointFormat) -> _TensorStream:
    with torch.device("meta"):
        model = VisionTokenizer(config)
    source.check_matches(model)
    return _stream(source, model, into, into.vision_name, None)


def _stream(
    source: NetworkWeights,
    model: nn.Module,
    into: CheckpointFormat,
    rename: Callable[[str], str | None],
    precision: Precision | None,
) -> _TensorStream:
    ours: dict[str, str] = {}
    specs: dict[str, TensorSpec] = {}
    parts = _QuantizedTensors(source, model)
    for name, tensor in model.state_dict().items():
        theirs = rename(name)
        if theirs is None:
            continue  # it has no place there
        spec = TensorSpec(tensor.dtype, tuple(tensor.shape))
        if name not in parts:
            dtype = source.spec(name).dtype
            floating = precision is not None and dtype.is_floating_point
            spec = TensorSpec(
                precision.dtype if precision and floating else dtype, into.shape(name, spec.shape)
            )
        ours[theirs], specs[theirs] = name, spec

    def rows(theirs: str, first: int, last: int) -> Tensor:
        name = ours[theirs]
        if name in parts:
            return parts.read_rows(name, first, last)
        if into.is_transposed(name):
            return source.read_columns(name, first, last)
        return source.read_rows(name, first, last)

    dtypes = [spec.dtype for spec in specs.values() if spec.dtype.is_floating_point]
    return _TensorStream(
        specs, rows, into.metadata_format, max(dtypes, key=lambda dtype: dtype.itemsize)
    )


class _QuantizedTensors:
    """The buffers of quantised matrices, made one matrix at a time."""

    def __init__(self, source: NetworkWeights, model: nn.Module) -> None:
        self.source = source
        self.modules = {
            path: module for path, module in model.named_modules() if isinstance(module, Quantized)
        }
        self.path, self.made = "", dict[str, Tensor]()

    def __contains__(self, name: str) -> bool:
        return name.rpartition(".")[0] in self.modules

    def read_rows(self, name: str, first: int, last: int) -> Tensor:
        path, _, part = name.rpartition(".")
        if path != self.path:
            self.path, self.made = path, self._make(path)
        return self.made[part][first:last]

    def _make(self, path: str) -> dict[str, Tensor]:
        module, dense = self.modules[path], f"{path}.weight"
        made = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype)
            for name, tensor in module.named_buffers()
        }
        for first, last in row_blocks(self.source.spec(dense)):
            for name, rows in module.quantize(self.source.read_rows(dense, first, last)).items():
                made[name][first:last] = rows
        return made
