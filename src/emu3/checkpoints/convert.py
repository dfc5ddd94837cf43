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

from emu3.checkpoints.formats.base import BAAI, FORMATS, CheckpointFormat, detect_format
from emu3.checkpoints.generation_defaults import DEFAULTS_FILE, GenerationDefaults
from emu3.checkpoints.hub import VISION_FOLDER, find_model, find_vision
from emu3.checkpoints.loading import (
    load_text_tokenizer,
    write_decoder_files,
    write_json,
    write_vision_files,
)
from emu3.checkpoints.safetensors_io import Rows, Shards, Spec, blocks, write_shards
from emu3.checkpoints.weights import OnBytes, Source
from emu3.config import QUANT_METHOD, DecoderConfig, VisionConfig
from emu3.errors import InputError
from emu3.files import atomic_write, check_writable
from emu3.models.precision import Precision, stored_precision
from emu3.models.quantization import Quantized, install_quantized_modules
from emu3.models.transformer import Transformer
from emu3.models.vq.tokenizer import VisionTokenizer


def convert(
    model: str | Path,
    vision: str | Path | None,
    target: Path,
    *,
    layout: str = BAAI.name,
    to: Precision | None = None,
    on_bytes: OnBytes = lambda done, total: None,
) -> None:
    """Write a checkpoint in another layout or precision, its vision tokenizer with it.

    `layout` is `"baai"`, `"hf"` or `"paddle"`. Without `to` numbers stay what they are. The vision
    tokenizer stays in its precision; in BAAI's layout and Paddle's it goes to a folder inside.
    Raises InputError on a checkpoint or a target that will not do, before anything is written.
    """
    if layout not in FORMATS:
        raise InputError(f"no such layout: {layout!r}; one of {', '.join(FORMATS)}")
    into = FORMATS[layout]
    check_writable(target.parent / f"{target.name}.json")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target}: exists already; name a new folder")
    folder = find_model(model)
    vision_folder = find_vision(folder, vision, model)
    text, config = load_text_tokenizer(folder)
    _check_precision(folder, config, into, to)
    with Shards(folder) as shards, Shards(vision_folder) as vision_shards:
        decoder = _decoder(Source(shards, detect_format(folder), decoder=True), config, into, to)
        described = detect_format(vision_folder)
        vision_config = described.vision_config(vision_folder)
        pictures = _vision(Source(vision_shards, described, decoder=False), vision_config, into)
        total = decoder.bytes + pictures.bytes
        _check_space(target.parent, total)
        preprocessor = described.preprocessor(vision_folder)
        report = _Report(on_bytes, total)
        with atomic_write(target) as temporary:
            temporary.mkdir()
            if into.write_files is not None:
                both = decoder.join(pictures)
                both.write(temporary, report)
                into.write_files(
                    temporary, config, text, vision_config, preprocessor, both.dtype_name
                )
            else:
                inside = temporary / VISION_FOLDER
                inside.mkdir()
                decoder.write(temporary, report)
                write_decoder_files(_described(config, to), text, temporary, decoder.dtype_name)
                pictures.write(inside, report)
                write_vision_files(vision_config, preprocessor, inside, pictures.dtype_name)
            write_json(
                temporary / DEFAULTS_FILE, GenerationDefaults.of(folder, str(model)).to_dict()
            )
            if target.is_dir():
                target.rmdir()  # it was empty


def _check_precision(
    folder: Path, config: DecoderConfig, into: CheckpointFormat, to: Precision | None
) -> None:
    stored = stored_precision(config)
    if stored is not None:
        raise InputError(
            f"{folder}: quantised to {stored.name} already, which cannot be undone or done again; "
            "start from the checkpoint it was made of"
        )
    if to is not None and to.bits is not None and into is not BAAI:
        raise InputError(f"{to.name} weights are written in BAAI's layout only, not in {into.name}")


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; "
            "nothing was written"
        )


def _described(config: DecoderConfig, to: Precision | None) -> DecoderConfig:
    """The config of what is written, its quantisation recorded."""
    if to is None or to.bits is None:
        return config
    said = {"quant_method": QUANT_METHOD, "bits": to.bits, "group_size": to.group_size}
    return replace(config, quantization_config=said)


class _Report:
    """Adds up what is written."""

    def __init__(self, on_bytes: OnBytes, total: int) -> None:
        self.on_bytes, self.total, self.done = on_bytes, total, 0

    def __call__(self, count: int) -> None:
        self.done += count
        self.on_bytes(self.done, self.total)


class _Stream:
    """Tensors under their new names, and where their rows come from."""

    def __init__(
        self, specs: dict[str, Spec], rows: Rows, shard_format: str, dtype: torch.dtype
    ) -> None:
        self.specs, self.rows, self.format, self.dtype = specs, rows, shard_format, dtype

    @property
    def bytes(self) -> int:
        return sum(spec.bytes for spec in self.specs.values())

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def join(self, other: _Stream) -> _Stream:
        """Both in the same files."""

        def rows(name: str, first: int, last: int) -> Tensor:
            return (self if name in self.specs else other).rows(name, first, last)

        widest = max(self.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
        return _Stream({**self.specs, **other.specs}, rows, self.format, widest)

    def write(self, folder: Path, on_bytes: Callable[[int], None]) -> None:
        write_shards(folder, self.specs, self.rows, on_bytes=on_bytes, written_by=self.format)


def _decoder(
    source: Source, config: DecoderConfig, into: CheckpointFormat, to: Precision | None
) -> _Stream:
    with torch.device("meta"):
        model = Transformer(config)
    source.check(model)
    if to is not None:
        install_quantized_modules(model, to)
    return _stream(source, model, into, into.decoder_name, to)


def _vision(source: Source, config: VisionConfig, into: CheckpointFormat) -> _Stream:
    with torch.device("meta"):
        model = VisionTokenizer(config)
    source.check(model)
    return _stream(source, model, into, into.vision_name, None)


def _stream(
    source: Source,
    model: nn.Module,
    into: CheckpointFormat,
    rename: Callable[[str], str | None],
    to: Precision | None,
) -> _Stream:
    ours: dict[str, str] = {}
    specs: dict[str, Spec] = {}
    parts = _Parts(source, model)
    for name, tensor in model.state_dict().items():
        theirs = rename(name)
        if theirs is None:
            continue  # it has no place there
        spec = Spec(tensor.dtype, tuple(tensor.shape))
        if name not in parts:
            dtype = source.spec(name).dtype
            floating = to is not None and dtype.is_floating_point
            spec = Spec(to.dtype if to and floating else dtype, into.shape(name, spec.shape))
        ours[theirs], specs[theirs] = name, spec

    def rows(theirs: str, first: int, last: int) -> Tensor:
        name = ours[theirs]
        if name in parts:
            return parts.rows(name, first, last)
        if into.transposed(name):
            return source.columns(name, first, last)
        return source.rows(name, first, last)

    dtypes = [spec.dtype for spec in specs.values() if spec.dtype.is_floating_point]
    return _Stream(specs, rows, into.written_by, max(dtypes, key=lambda dtype: dtype.itemsize))


class _Parts:
    """The buffers of quantised matrices, made one matrix at a time."""

    def __init__(self, source: Source, model: nn.Module) -> None:
        self.source = source
        self.modules = {
            path: module for path, module in model.named_modules() if isinstance(module, Quantized)
        }
        self.path, self.made = "", dict[str, Tensor]()

    def __contains__(self, name: str) -> bool:
        return name.rpartition(".")[0] in self.modules

    def rows(self, name: str, first: int, last: int) -> Tensor:
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
        for first, last in blocks(self.source.spec(dense)):
            for name, rows in module.quantize(self.source.rows(dense, first, last)).items():
                made[name][first:last] = rows
        return made
