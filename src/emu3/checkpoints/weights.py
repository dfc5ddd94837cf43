"""Load the weights of a checkpoint into a model, and save a model's weights.

Loading is strict: a tensor that is missing, unknown or of the wrong shape is an error that names
it. Tensors are copied block by block to their device and dtype, and quantized on the way if
requested, so peak memory is the finished model plus a few blocks.
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
BATCH_COUNTER = TensorSpec(torch.int64, ())  # num_batches_tracked, which Paddle does not store
OnBytes = Callable[[int, int], None]
"""Progress callback: bytes read so far, and bytes in total."""


def load_decoder(
    folder: Path,
    precision: Precision,
    device: torch.device,
    format: CheckpointFormat = BAAI,
    on_bytes: OnBytes = lambda done, total: None,
) -> Transformer:
    """Load the decoder of a checkpoint folder, in eval mode and without gradients.

    Weights that are stored quantized keep their precision, whatever `precision` says. Raises
    InputError if config and weights do not match.
    """
    config = format.decoder_config(folder)
    with torch.device("meta"):
        model = Transformer(config)
    with SafetensorsReader(folder) as reader:
        weights = NetworkWeights(reader, format, decoder=True)
        stored = stored_precision(config)
        if stored is not None:
            install_quantized_modules(model, precision := stored)
        weights.check_matches(model)
        if stored is None:
            install_quantized_modules(model, precision)
        return weights.load_into(model, precision, device, on_bytes)


def load_vision_tokenizer(
    folder: Path, device: torch.device, format: CheckpointFormat = BAAI
) -> VisionTokenizer:
    """Load the vision tokenizer of a checkpoint folder, in eval mode and without gradients.

    It is always float32, because rounding changes visual codes. Raises InputError if config and
    weights do not match.
    """
    with torch.device("meta"):
        model = VisionTokenizer(format.vision_config(folder))
    with SafetensorsReader(folder) as reader:
        weights = NetworkWeights(reader, format, decoder=False)
        weights.check_matches(model)
        return weights.load_into(model, FP32, device, lambda done, total: None)


class NetworkWeights:
    """The stored weights of one network, under this package's names and in its orientation.

    Hides the checkpoint format: renamed and transposed tensors, and folders that hold both
    networks.
    """

    def __init__(
        self, reader: SafetensorsReader, format: CheckpointFormat, *, decoder: bool
    ) -> None:
        self.reader = reader
        self._stored_name_of: Callable[[str], str | None] = (
            format.decoder_name if decoder else format.vision_name
        )
        self._is_transposed = format.is_transposed
        names = {format.canonical_name(name): name for name in reader.locations}
        if format.single_folder:  # leave out the other network's tensors
            prefix = str(format.vision_name(""))
            names = {c: name for c, name in names.items() if c.startswith(prefix) != decoder}
        self.names = names
        self.single_folder = format.single_folder

    @property
    def nbytes(self) -> int:
        """Bytes of the network's tensors in the files."""
        return sum(self.reader.locations[name].spec.nbytes for name in self.names.values())

    def __contains__(self, name: str) -> bool:
        stored = self._stored_name_of(name)
        return stored is None or stored in self.names

    def spec(self, name: str) -> TensorSpec:
        """Stored dtype, and shape in this package's orientation."""
        stored = self._stored(name)
        if stored is None:
            return BATCH_COUNTER
        spec = self.reader.locations[stored].spec
        return TensorSpec(spec.dtype, spec.shape[::-1]) if self._is_transposed(name) else spec

    def read_rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows of a tensor in this package's orientation, in the stored dtype."""
        stored = self._stored(name)
        if stored is None:
            return torch.zeros(BATCH_COUNTER.shape, dtype=BATCH_COUNTER.dtype)
        if self._is_transposed(name):
            return self.reader.read_columns(stored, first, last)
        return self.reader.read_rows(stored, first, last)

    def read_columns(self, name: str, first: int, last: int) -> Tensor:
        """Columns of a matrix, transposed: the rows it has in a format that transposes it."""
        stored = self._stored(name)
        assert stored is not None
        if self._is_transposed(name):
            return self.reader.read_rows(stored, first, last)
        return self.reader.read_columns(stored, first, last)

    def _stored(self, name: str) -> str | None:
        stored = self._stored_name_of(name)
        return None if stored is None else self.names[stored]

    def check_matches(self, model: nn.Module) -> None:
        """Raise InputError unless the files hold exactly the tensors of the model."""
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        known = {self._stored_name_of(name) for name in expected}
        for name, stored in self.names.items():
            if name not in known:
                path = self.reader.locations[stored].path
                raise InputError(
                    f"{path}: unexpected tensor {stored}; the model that config.json describes "
                    "has no such weight"
                )
        missing = sorted(name for name in expected if name not in self)
        if missing:
            raise InputError(f"{self.reader.folder}: weights are missing: {abbreviate(missing)}")
        for name, shape in expected.items():
            found = self.spec(name).shape
            if _without_trailing_ones(found) != _without_trailing_ones(shape):
                stored = self._stored(name) or ""
                location = self.reader.locations.get(stored)
                path = self.reader.folder if location is None else location.path
                raise InputError(
                    f"{path}: {name} has shape {list(found)}, config.json requires {list(shape)}"
                )

    @torch.no_grad()
    def load_into(
        self, model: Model, precision: Precision, device: torch.device, on_bytes: OnBytes
    ) -> Model:
        """Load the weights into a model on the meta device; returns it in eval mode, frozen."""
        total = self.nbytes
        state: dict[str, Tensor] = {}
        for path, module in model.named_modules():
            own = {**module._parameters, **module._buffers}
            targets = {
                name: torch.empty(
                    tensor.shape, dtype=_target_dtype(tensor, precision, module), device=device
                )
                for name, tensor in own.items()
                if tensor is not None
            }
            for names, rows, first, last in self._blocks(path, module, targets, device):
                for name in names:
                    target = targets[name][first:last] if targets[name].ndim else targets[name]
                    target.copy_(rows[name].view(target.shape))
                on_bytes(self.reader.bytes_read, total)
            prefix = f"{path}." if path else ""
            state |= {prefix + name: tensor for name, tensor in targets.items()}
        model.load_state_dict(state, strict=True, assign=True)
        return model.eval().requires_grad_(False)

    def _blocks(
        self, path: str, module: nn.Module, targets: dict[str, Tensor], device: torch.device
    ) -> Iterator[tuple[list[str], dict[str, Tensor], int, int]]:
        """Tensor names of a module, their rows, and the row range these rows fill."""
        prefix = f"{path}." if path else ""
        if isinstance(module, Quantized) and f"{prefix}scale" not in self:
            for first, last in row_blocks(self.spec(f"{prefix}weight")):
                rows = self.read_rows(f"{prefix}weight", first, last).to(device)
                yield list(targets), module.quantize(rows), first, last
            return
        for name in targets:
            for first, last in row_blocks(self.spec(prefix + name)):
                yield [name], {name: self.read_rows(prefix + name, first, last)}, first, last


def _without_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Compare a 1x1 convolution [C, C, 1, 1] with a linear layer [C, C] as equal."""
    end = len(shape)
    while end > 1 and shape[end - 1] == 1:
        end -= 1
    return shape[:end]


def _target_dtype(tensor: Tensor, precision: Precision, module: nn.Module) -> torch.dtype:
    keeps_dtype = isinstance(module, Quantized) or not tensor.is_floating_point()
    return tensor.dtype if keeps_dtype else precision.dtype


def save_weights(model: nn.Module, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the weights to an existing folder: one file, or shards with an index."""
    state = model.state_dict()
    specs = {name: TensorSpec(tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}

    def read_rows(name: str, first: int, last: int) -> Tensor:
        return state[name][first:last] if state[name].ndim else state[name]

    write_safetensors(folder, specs, read_rows, shard_bytes)
