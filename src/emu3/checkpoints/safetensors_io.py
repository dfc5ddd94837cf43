"""Read and write safetensors files block by block: one file, or shards with an index.

The `safetensors` package maps a file into memory, and mapped pages count as memory of the process
until the file is closed. A published shard has 4.7 GB. This module uses plain file operations
instead: rows pass through a buffer of a few MiB, whatever the size of the tensor.

Format: eight bytes with the header length, a JSON header with dtype, shape and byte range of each
tensor, then the data.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from emu3.config import read_json
from emu3.errors import InputError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 100 * 2**20  # the limit of the safetensors package
BLOCK_BYTES = 8 * 2**20  # of rows in memory at a time; larger blocks fragment the heap
READAHEAD_BYTES = 128 * 2**20  # announced to the kernel in advance; reads three times as fast
SHARD_BYTES = 5 * 10**9  # published shards have up to 4.7 GB


@dataclass(frozen=True)
class TensorSpec:
    """Dtype and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    @property
    def row_nbytes(self) -> int:
        """Bytes of one entry of the first dimension; of a scalar, all its bytes."""
        return self.dtype.itemsize * torch.Size(self.shape[1:]).numel()


@dataclass(frozen=True)
class TensorLocation:
    """The file of a tensor and the byte at which its data starts."""

    path: Path
    spec: TensorSpec
    start: int


class SafetensorsReader:
    """The weight files of a folder. A context manager, which closes the files.

    The constructor reads and checks all headers. Raises InputError if a file is missing, corrupt or
    truncated, or if it disagrees with the index.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.locations: dict[str, TensorLocation] = {}
        self.bytes_read = 0
        self._open: dict[Path, int] = {}
        self._announced: dict[Path, int] = {}
        for path, expected in weight_files(folder).items():
            found = self._read_header(path)
            if expected is not None and found.keys() != expected:
                differing = sorted(found.keys() ^ expected)
                raise InputError(
                    f"{path}: tensors differ from the index: {abbreviate(differing)}; "
                    "download the checkpoint again"
                )
            self.locations |= found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for file in self._open.values():
            os.close(file)
        self._open.clear()

    def read_rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows `first` to `last` (exclusive) of a tensor, in its stored dtype."""
        location = self.locations[name]
        spec = location.spec
        shape = (last - first, *spec.shape[1:]) if spec.shape else ()
        return self._read(location, location.start + first * spec.row_nbytes, shape)

    def read_columns(self, name: str, first: int, last: int) -> Tensor:
        """Columns `first` to `last` of a matrix, transposed: [last - first, rows]."""
        location = self.locations[name]
        height, width = location.spec.shape
        itemsize = location.spec.dtype.itemsize
        starts = (location.start + (row * width + first) * itemsize for row in range(height))
        columns = [self._read(location, start, (last - first,)) for start in starts]
        return torch.stack(columns, dim=1)

    def _read(self, location: TensorLocation, start: int, shape: tuple[int, ...]) -> Tensor:
        path, dtype = location.path, location.spec.dtype
        count = torch.Size(shape).numel()
        buffer = bytearray(count * dtype.itemsize)
        if not count:
            return torch.empty(shape, dtype=dtype)
        if path not in self._open:
            self._open[path] = os.open(path, os.O_RDONLY)
        self._announce(path, start, start + len(buffer))
        view, done = memoryview(buffer), 0
        while done < len(buffer):
            count = os.preadv(self._open[path], [view[done:]], start + done)
            if not count:
                raise _corrupt_file(path, "unexpected end of file")
            done += count
        self.bytes_read += done
        return torch.frombuffer(buffer, dtype=dtype).view(shape)

    def _announce(self, path: Path, start: int, end: int) -> None:
        """Ask the kernel to prefetch the bytes that follow while these are processed."""
        until = self._announced.get(path, 0)
        if hasattr(os, "posix_fadvise") and not until - READAHEAD_BYTES <= start <= end <= until:
            os.posix_fadvise(self._open[path], start, READAHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            self._announced[path] = start + READAHEAD_BYTES

    def _read_header(self, path: Path) -> dict[str, TensorLocation]:
        """The tensors of a file. Their byte ranges must cover the file without gaps."""
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > min(size - 8, MAX_HEADER_BYTES):
                    raise ValueError("shorter than its header")
                header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            locations = {
                name: _parse_location(path, entry, 8 + length) for name, entry in header.items()
            }
        except FileNotFoundError:
            raise InputError(
                f"{path}: no such file, but the index lists it; download the checkpoint again"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise _corrupt_file(path, str(error)) from None
        end = 8 + length
        for location in sorted(locations.values(), key=lambda location: location.start):
            if location.start != end:
                raise _corrupt_file(path, "gaps between tensors")
            end += location.spec.nbytes
        if end != size:
            raise _corrupt_file(path, f"{size} bytes instead of {end}")
        return locations


def _parse_location(path: Path, entry: dict[str, Any], data_start: int) -> TensorLocation:
    if entry["dtype"] not in DTYPES:
        raise InputError(
            f"{path}: dtype {entry['dtype']} is not supported; supported: {', '.join(DTYPES)}"
        )
    spec = TensorSpec(DTYPES[entry["dtype"]], tuple(map(int, entry["shape"])))
    start, end = entry["data_offsets"]
    if end - start != spec.nbytes:
        raise ValueError("the byte range of a tensor does not match its shape")
    return TensorLocation(path, spec, data_start + start)


def _corrupt_file(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: corrupt or truncated ({reason}); download it again")


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The weight files of a folder with the tensor names the index gives; None without an index.

    Raises InputError if there is no weight file or the index is invalid.
    """
    if (folder / INDEX_FILE).exists():
        index = read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(f, str) for f in index.values()):
            raise InputError(f"{folder / INDEX_FILE}: weight_map is missing or invalid")
        files: dict[Path, set[str] | None] = {}
        for file in sorted(set(index.values())):
            files[folder / file] = {name for name, where in index.items() if where == file}
        return files
    if (folder / SINGLE_FILE).exists():
        return {folder / SINGLE_FILE: None}
    raise InputError(
        f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} found; is this folder a checkpoint?"
    )


def read_metadata(folder: Path) -> dict[str, str]:
    """The `__metadata__` of a folder's first weight file; empty if there is none to read."""
    for path in sorted(folder.glob("model*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
            return dict(header.get("__metadata__", {}))
        except (OSError, ValueError, AttributeError, TypeError, struct.error):
            return {}  # SafetensorsReader reports what is wrong with the file
    return {}


def abbreviate(names: list[str]) -> str:
    """The first three names, and the number of further ones."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def row_blocks(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """Split a tensor into row ranges of at most `BLOCK_BYTES`; a scalar counts as one row."""
    if not spec.shape:
        yield 0, 1
        return
    step = max(1, BLOCK_BYTES // max(1, spec.row_nbytes))
    for first in range(0, spec.shape[0], step):
        yield first, min(spec.shape[0], first + step)


ReadRows = Callable[[str, int, int], Tensor]
"""(name, first, last) to these rows of the tensor; a scalar counts as one row."""


def write_safetensors(
    folder: Path,
    tensors: Mapping[str, TensorSpec],
    read_rows: ReadRows,
    shard_bytes: int = SHARD_BYTES,
    on_bytes: Callable[[int], None] = lambda count: None,
    metadata_format: str = "pt",
) -> None:
    """Write tensors to an existing folder, as one file or as shards with an index.

    `read_rows` is called in order, one block at a time, and `on_bytes` with the size of each block
    written. Weight files already in the folder are removed. `metadata_format` is the framework that
    safetensors records in the file: "pt" is PyTorch.
    """
    shards: list[dict[str, TensorSpec]] = [{}]
    for name, spec in tensors.items():
        size = sum(other.nbytes for other in shards[-1].values())
        if shards[-1] and size + spec.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = spec
    for old in [*folder.glob("model*.safetensors"), folder / INDEX_FILE]:
        old.unlink(missing_ok=True)
    files = [SINGLE_FILE]
    if len(shards) > 1:
        files = [f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))]
        file_of = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        total = sum(spec.nbytes for spec in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for file, shard in zip(files, shards, strict=True):
        _write_file(folder / file, shard, read_rows, on_bytes, metadata_format)


def _write_file(
    path: Path,
    tensors: Mapping[str, TensorSpec],
    read_rows: ReadRows,
    on_bytes: Callable[[int], None],
    metadata_format: str,
) -> None:
    """Write one file. Tensors with the widest dtype come first, which keeps all data aligned."""
    header: dict[str, Any] = {"__metadata__": {"format": metadata_format}}
    end = 0
    for name, spec in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        offsets = [end, end := end + spec.nbytes]
        shape = list(spec.shape)
        header[name] = {"dtype": DTYPE_NAMES[spec.dtype], "shape": shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, spec in tensors.items():
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            for first, last in row_blocks(spec):
                block = read_rows(name, first, last).to(spec.dtype).contiguous().cpu()
                file.write(block.flatten().view(torch.uint8).numpy().data)
                on_bytes(block.nbytes)
        file.truncate(8 + len(text) + end)
