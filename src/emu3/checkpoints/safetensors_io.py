"""Weight files, row by row: safetensors, in one file or in shards with an index.

Read and written with plain file operations and not through a memory map. The pages of a map count
as memory of the process until its file is closed, and a published shard has 4.7 GB; rows go through
a buffer of some MiB, however large their matrix. The format is safetensors' own: eight bytes of
length, a JSON header with type, shape and place of each tensor, then the numbers.
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
MAX_HEADER_BYTES = 100 * 2**20  # bytes, safetensors' own bound
BLOCK_BYTES = 8 * 2**20  # of rows in hand at a time; larger ones leave holes in the heap
READAHEAD_BYTES = (
    128 * 2**20
)  # bytes that the system is told will be read: three times as fast, measured
SHARD_BYTES = 5 * 10**9  # published shards have up to 4.7 GB


@dataclass(frozen=True)
class TensorSpec:
    """Type and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of the whole tensor."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    @property
    def row_bytes(self) -> int:
        """Of one entry of the first dimension; of all of a scalar."""
        return self.dtype.itemsize * torch.Size(self.shape[1:]).numel()


@dataclass(frozen=True)
class TensorLocation:
    """Where a tensor lies."""

    path: Path
    spec: TensorSpec
    start: int


class SafetensorsReader:
    """The weight files of a folder, their headers read and checked. A context: closes its files.

    Raises InputError on files that are missing, broken, cut short, or not what the index says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, TensorLocation] = {}
        self.bytes_read = 0
        self._open: dict[Path, int] = {}
        self._announced: dict[Path, int] = {}
        for path, names in weight_files(folder).items():
            held = self._header(path)
            if names is not None and held.keys() != names:
                odd = sorted(held.keys() ^ names)
                raise InputError(
                    f"{path}: its tensors are not those of the index: {abbreviate(odd)}"
                )
            self.entries |= held

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
        """Entries `first` to `last` of the first dimension of a tensor, in its own precision."""
        entry = self.entries[name]
        size = (last - first, *entry.spec.shape[1:]) if entry.spec.shape else ()
        return self._read(entry, entry.start + first * entry.spec.row_bytes, size)

    def read_columns(self, name: str, first: int, last: int) -> Tensor:
        """Columns `first` to `last` of a matrix, as rows: [last - first, rows of the matrix]."""
        entry = self.entries[name]
        height, width = entry.spec.shape
        starts = (entry.start + (row * width + first) * entry.spec.dtype.itemsize
                  for row in range(height))  # fmt: skip
        return torch.stack([self._read(entry, start, (last - first,)) for start in starts], dim=1)

    def _read(self, entry: TensorLocation, start: int, shape: tuple[int, ...]) -> Tensor:
        count = torch.Size(shape).numel()
        buffer = bytearray(count * entry.spec.dtype.itemsize)
        if not count:
            return torch.empty(shape, dtype=entry.spec.dtype)
        if entry.path not in self._open:
            self._open[entry.path] = os.open(entry.path, os.O_RDONLY)
        self._announce(entry.path, start, start + len(buffer))
        view, done = memoryview(buffer), 0
        while done < len(buffer):
            got = os.preadv(self._open[entry.path], [view[done:]], start + done)
            if not got:
                raise _corrupt_file(entry.path, "it ended early")
            done += got
        self.bytes_read += done
        return torch.frombuffer(buffer, dtype=entry.spec.dtype).view(shape)

    def _announce(self, path: Path, start: int, end: int) -> None:
        """Let the system fetch what comes next while these bytes are being worked on."""
        until = self._announced.get(path, 0)
        if hasattr(os, "posix_fadvise") and not until - READAHEAD_BYTES <= start <= end <= until:
            os.posix_fadvise(self._open[path], start, READAHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            self._announced[path] = start + READAHEAD_BYTES

    def _header(self, path: Path) -> dict[str, TensorLocation]:
        """What a file holds, its places checked to fill it exactly."""
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > min(size - 8, MAX_HEADER_BYTES):
                    raise ValueError("shorter than its header")
                said: dict[str, Any] = json.loads(file.read(length))
            said.pop("__metadata__", None)
            entries = {name: _parse_location(path, one, 8 + length) for name, one in said.items()}
        except FileNotFoundError:
            raise InputError(f"{path}: no such file, though the index names it") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise _corrupt_file(path, str(error)) from None
        end = 8 + length
        for entry in sorted(entries.values(), key=lambda entry: entry.start):
            if entry.start != end:
                raise _corrupt_file(path, "gaps between its tensors")
            end += entry.spec.nbytes
        if end != size:
            raise _corrupt_file(path, f"{size} bytes instead of {end}")
        return entries


def _parse_location(path: Path, said: dict[str, Any], base: int) -> TensorLocation:
    if said["dtype"] not in DTYPES:
        raise InputError(f"{path}: numbers of type {said['dtype']} are not supported")
    spec = TensorSpec(DTYPES[said["dtype"]], tuple(map(int, said["shape"])))
    start, end = said["data_offsets"]
    if end - start != spec.nbytes:
        raise ValueError("a tensor's place does not have its size")
    return TensorLocation(path, spec, base + start)


def _corrupt_file(path: Path, why: str) -> InputError:
    return InputError(f"{path}: broken or cut short ({why}); download it again")


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The weight files of a folder, and which tensors each should hold (None: not said).

    Raises InputError when there are none, or an index that is none.
    """
    if (folder / INDEX_FILE).exists():
        index = read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(f, str) for f in index.values()):
            raise InputError(f"{folder / INDEX_FILE}: no weight_map in it")
        files: dict[Path, set[str] | None] = {}
        for file in sorted(set(index.values())):
            files[folder / file] = {name for name, where in index.items() if where == file}
        return files
    if (folder / SINGLE_FILE).exists():
        return {folder / SINGLE_FILE: None}
    raise InputError(
        f"{folder}: no {SINGLE_FILE} and no {INDEX_FILE}; is this folder a checkpoint?"
    )


def read_metadata(folder: Path) -> dict[str, str]:
    """What the first weight file of a folder says of itself; nothing where there is none yet."""
    for path in sorted(folder.glob("model*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                said = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
            return dict(said.get("__metadata__", {}))
        except (OSError, ValueError, AttributeError, TypeError, struct.error):
            return {}  # reading the weights will say what is wrong
    return {}


def abbreviate(names: list[str]) -> str:
    """At most three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def row_blocks(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """First and last row of stretches of a tensor that fit in the hand; a scalar has one row."""
    if not spec.shape:
        yield 0, 1
        return
    step = max(1, BLOCK_BYTES // max(1, spec.row_bytes))
    for first in range(0, spec.shape[0], step):
        yield first, min(spec.shape[0], first + step)


ReadRows = Callable[[str, int, int], Tensor]
"""Name, first and last row of a tensor to be written, to these rows; a scalar has one."""


def write_safetensors(
    folder: Path,
    tensors: Mapping[str, TensorSpec],
    rows: ReadRows,
    shard_bytes: int = SHARD_BYTES,
    on_bytes: Callable[[int], None] = lambda count: None,
    metadata_format: str = "pt",
) -> None:
    """Write tensors to an existing folder as published: one file, or shards and an index.

    Rows are asked for in order, a block at a time. Weight files of before are removed.
    `metadata_format` is safetensors' mark of the framework: "pt" is PyTorch.
    """
    shards: list[dict[str, TensorSpec]] = [{}]
    for name, spec in tensors.items():
        if shards[-1] and sum(s.nbytes for s in shards[-1].values()) + spec.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = spec
    for old in [*folder.glob("model*.safetensors"), folder / INDEX_FILE]:
        old.unlink(missing_ok=True)
    files = [SINGLE_FILE]
    if len(shards) > 1:
        files = [f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))]
        places = {name: file for file, held in zip(files, shards, strict=True) for name in held}
        total = sum(spec.nbytes for spec in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for file, held in zip(files, shards, strict=True):
        _write_file(folder / file, held, rows, on_bytes, metadata_format)


def _write_file(
    path: Path,
    held: Mapping[str, TensorSpec],
    rows: ReadRows,
    on_bytes: Callable[[int], None],
    metadata_format: str,
) -> None:
    """One file. Tensors lie with the widest numbers first, which keeps all of them aligned."""
    header: dict[str, Any] = {"__metadata__": {"format": metadata_format}}
    end = 0
    for name, spec in sorted(held.items(), key=lambda one: (-one[1].dtype.itemsize, one[0])):
        place = [end, end := end + spec.nbytes]
        shape = list(spec.shape)
        header[name] = {"dtype": DTYPE_NAMES[spec.dtype], "shape": shape, "data_offsets": place}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, spec in held.items():
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            for first, last in row_blocks(spec):
                block = rows(name, first, last).to(spec.dtype).contiguous().cpu()
                file.write(block.flatten().view(torch.uint8).numpy().data)
                on_bytes(block.nbytes)
        file.truncate(8 + len(text) + end)
