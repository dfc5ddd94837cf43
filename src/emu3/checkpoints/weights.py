"""Between weight files and models: strict, in any layout, a block of rows at a time.

Every tensor must be known, there, and of the right shape; anything else is an error that names it.
Rows go straight to their precision and device, quantised on the way if asked, so memory peaks at
the finished model plus some blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from emu3.checkpoints.formats.registry import BAAI, CheckpointFormat
from emu3.checkpoints.safetensors_io import (
    SHARD_BYTES,
    SafetensorsReader,
    TensorSpec,
    abbreviate,
    row_blocks,
    write_safetensors,
)
from emu3.errors import InputError
from emu3.models.precision import FP32, Precision, stored_precision
from emu3.models.quantization import Quantized, install_quantized_modules
from emu3.models.transformer import Transformer
from emu3.models.vq.tokenizer import VisionTokenizer

Model = TypeVar("Model", bound=nn.Module)
BATCH_COUNTER = TensorSpec(torch.int64, ())  # a counter of batches where a layout has none
OnBytes = Callable[[int, int], None]
"""Called with the bytes read so far and those to be read in all."""


def load_decoder(
    folder: Path,
    to: Precision,
    device: torch.device,
    layout: CheckpointFormat = BAAI,
    on_bytes: OnBytes = lambda done, total: None,
) -> Transformer:
    """The decoder of a checkpoint folder, in eval mode. Raises InputError on any disagreement.

    A folder that is quantised already is read in that precision, whatever `to` says.
    """
    config = layout.decoder_config(folder)
    with torch.device("meta"):
        model = Transformer(config)
    with SafetensorsReader(folder) as shards:
        source = NetworkWeights(shards, layout, decoder=True)
        stored = stored_precision(config)
        if stored is not None:
            install_quantized_modules(model, to := stored)
        source.check_matches(model)
        if stored is None:
            install_quantized_modules(model, to)
        return source.load_into(model, to, device, on_bytes)


def load_vision_tokenizer(
    folder: Path, device: torch.device, layout: CheckpointFormat = BAAI
) -> VisionTokenizer:
    """The vision tokenizer of a checkpoint folder, in eval mode. Raises InputError likewise.

    Always in float32: rounding moves codes.
    """
    with torch.device("meta"):
        model = VisionTokenizer(layout.vision_config(folder))
    with SafetensorsReader(folder) as shards:
        source = NetworkWeights(shards, layout, decoder=False)
        source.check_matches(model)
        return source.load_into(model, FP32, device, lambda done, total: None)


class NetworkWeights:
    """The weights of one network, in whatever layout, under our names."""

    def __init__(
        self, shards: SafetensorsReader, layout: CheckpointFormat, *, decoder: bool
    ) -> None:
        self.shards = shards
        self.rename: Callable[[str], str | None] = (
            layout.decoder_name if decoder else layout.vision_name
        )
        self.is_transposed = layout.is_transposed
        names = {layout.canonical_name(name): name for name in shards.entries}
        if layout.single_folder:  # the other network's tensors are checked when it is read
            inside = str(layout.vision_name(""))
            names = {c: name for c, name in names.items() if c.startswith(inside) != decoder}
        self.names, self.single_folder = names, layout.single_folder

    @property
    def nbytes(self) -> int:
        """Of the network's tensors in the files."""
        return sum(self.shards.entries[name].spec.nbytes for name in self.names.values())

    def __contains__(self, ours: str) -> bool:
        theirs = self.rename(ours)
        return theirs is None or theirs in self.names

    def spec(self, ours: str) -> TensorSpec:
        """Type and shape of a tensor, in our orientation."""
        stored = self._stored(ours)
        if stored is None:
            return BATCH_COUNTER
        spec = self.shards.entries[stored].spec
        return TensorSpec(spec.dtype, spec.shape[::-1]) if self.is_transposed(ours) else spec

    def read_rows(self, ours: str, first: int, last: int) -> Tensor:
        """Rows of a tensor, in our orientation and in its own precision."""
        stored = self._stored(ours)
        if stored is None:
            return torch.zeros(BATCH_COUNTER.shape, dtype=BATCH_COUNTER.dtype)
        if self.is_transposed(ours):
            return self.shards.read_columns(stored, first, last)
        return self.shards.read_rows(stored, first, last)

    def read_columns(self, ours: str, first: int, last: int) -> Tensor:
        """Columns of a matrix, as rows: what another orientation calls its rows."""
        stored = self._stored(ours)
        assert stored is not None
        if self.is_transposed(ours):
            return self.shards.read_rows(stored, first, last)
        return self.shards.read_columns(stored, first, last)

    def _stored(self, ours: str) -> str | None:
        theirs = self.rename(ours)
        return None if theirs is None else self.names[theirs]

    def check_matches(self, model: nn.Module) -> None:
        """Raise InputError unless the files hold exactly what a model needs."""
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        known = {self.rename(name) for name in wanted}
        for name, stored in self.names.items():
            if name not in known:
                path = self.shards.entries[stored].path
                raise InputError(
                    f"{path}: {stored} belongs to no part of the model that config.json describes"
                )
        missing = sorted(name for name in wanted if name not in self)
        if missing:
            raise InputError(
                f"{self.shards.folder}: {abbreviate(missing)} missing from the weights"
            )
        for name, shape in wanted.items():
            have = self.spec(name).shape
            if _without_trailing_ones(have) != _without_trailing_ones(shape):
                at = self._stored(name)
                path = self.shards.entries[at].path if at else self.shards.folder
                raise InputError(
                    f"{path}: {name} has shape {list(have)}, config.json asks for {list(shape)}"
                )

    @torch.no_grad()
    def load_into(
        self, model: Model, to: Precision, device: torch.device, on_bytes: OnBytes
    ) -> Model:
        """Give a model on the meta device its tensors; returns it in eval mode, frozen."""
        total = self.nbytes
        filled: dict[str, Tensor] = {}
        for path, module in model.named_modules():
            inside = {**module._parameters, **module._buffers}
            places = {
                name: torch.empty(tensor.shape, dtype=_dtype(tensor, to, module), device=device)
                for name, tensor in inside.items()
                if tensor is not None
            }
            for names, rows, first, last in self._blocks(path, module, places, device):
                for name in names:
                    target = places[name][first:last] if places[name].ndim else places[name]
                    target.copy_(rows[name].view(target.shape))
                on_bytes(self.shards.bytes_read, total)
            prefix = f"{path}." if path else ""
            filled |= {prefix + name: tensor for name, tensor in places.items()}
        model.load_state_dict(filled, strict=True, assign=True)
        return model.eval().requires_grad_(False)  # who trains says so

    def _blocks(
        self, path: str, module: nn.Module, places: dict[str, Tensor], device: torch.device
    ) -> Iterator[tuple[list[str], dict[str, Tensor], int, int]]:
        """Which tensors of a module get which rows, and where these go."""
        prefix = f"{path}." if path else ""
        if isinstance(module, Quantized) and f"{prefix}scale" not in self:
            for first, last in row_blocks(self.spec(f"{prefix}weight")):
                rows = self.read_rows(f"{prefix}weight", first, last).to(device)
                yield list(places), module.quantize(rows), first, last
            return
        for name in places:
            for first, last in row_blocks(self.spec(prefix + name)):
                yield [name], {name: self.read_rows(prefix + name, first, last)}, first, last


def _without_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones at its end: a 1x1 convolution and a linear layer are the same."""
    end = len(shape)
    while end > 1 and shape[end - 1] == 1:
        end -= 1
    return shape[:end]


def _dtype(tensor: Tensor, to: Precision, module: nn.Module) -> torch.dtype:
    keeps = isinstance(module, Quantized) or not tensor.is_floating_point()
    return tensor.dtype if keeps else to.dtype


def save_weights(model: nn.Module, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the weights as published: one `model.safetensors`, or shards and an index."""
    state = model.state_dict()
    specs = {name: TensorSpec(tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}

    def rows(name: str, first: int, last: int) -> Tensor:
        return state[name][first:last] if state[name].ndim else state[name]

    write_safetensors(folder, specs, rows, shard_bytes)
