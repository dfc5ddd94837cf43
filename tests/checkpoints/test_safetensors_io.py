"""Block-wise safetensors files, against the safetensors package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from emu3.checkpoints import safetensors_io as shards
from emu3.checkpoints.safetensors_io import (
    INDEX_FILE,
    SINGLE_FILE,
    SafetensorsReader,
    TensorSpec,
    row_blocks,
    write_safetensors,
)
from emu3.errors import InputError

TENSORS = {
    "matrix": torch.randn(37, 5),
    "half": torch.randn(4, 3, 2, 2).to(torch.bfloat16),
    "bytes": torch.arange(7, dtype=torch.uint8),
    "small": torch.randint(-9, 9, (3, 3), dtype=torch.int8),
    "count": torch.tensor(12),
    "nothing": torch.empty(0, 4),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK_BYTES", 64)


def write(folder: Path, tensors: dict[str, Tensor], shard_bytes: int = 10**9) -> None:
    specs = {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in tensors.items()}

    def rows(name: str, first: int, last: int) -> Tensor:
        return tensors[name][first:last] if tensors[name].ndim else tensors[name]

    write_safetensors(folder, specs, rows, shard_bytes)


def read(folder: Path) -> dict[str, Tensor]:
    with SafetensorsReader(folder) as reader:
        return {
            name: torch.cat([reader.read_rows(name, *block) for block in row_blocks(entry.spec)])
            if entry.spec.shape and entry.spec.shape[0]
            else reader.read_rows(name, 0, 0 if entry.spec.shape else 1)
            for name, entry in reader.locations.items()
        }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


def test_safetensors_reads_our_files(tmp_path: Path) -> None:
    write(tmp_path, TENSORS)
    assert same(load_file(tmp_path / SINGLE_FILE), TENSORS)


def test_files_of_safetensors_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE_FILE)
    assert same(read(tmp_path), TENSORS)


@pytest.mark.parametrize("shard_bytes", [1, 100, 200, 10**9])
def test_shards_round_trip(tmp_path: Path, shard_bytes: int) -> None:
    write(tmp_path, TENSORS, shard_bytes)
    assert same(read(tmp_path), TENSORS)
    files = list(tmp_path.glob("*.safetensors"))
    if len(files) > 1:
        index = json.loads((tmp_path / INDEX_FILE).read_text())
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in TENSORS.values())
        assert same({k: v for f in files for k, v in load_file(f).items()}, TENSORS)


def test_read_columns_is_transposed(tmp_path: Path) -> None:
    write(tmp_path, TENSORS)
    with SafetensorsReader(tmp_path) as reader:
        assert torch.equal(reader.read_columns("matrix", 1, 4), TENSORS["matrix"].T[1:4])
        assert reader.bytes_read == 3 * 37 * 4


@given(st.integers(0, 100), st.integers(1, 40))
def test_row_blocks_cover_every_row_once(rows: int, width: int) -> None:
    covered = [row for first, last in row_blocks(TensorSpec(torch.float32, (rows, width)))
               for row in range(first, last)]  # fmt: skip
    assert covered == list(range(rows))


def header(path: Path, **changes: object) -> None:
    """Write a file with eight bytes of data and a changed header."""
    tensor_header = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    text = json.dumps({"a": tensor_header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [3]},
        {"data_offsets": [0, 4]},
        {"data_offsets": [4, 12]},
        {"data_offsets": "ab"},
        {"shape": None},
        {"dtype": "F4"},
    ],
)
def test_invalid_header_raises(tmp_path: Path, changes: dict[str, object]) -> None:
    header(tmp_path / SINGLE_FILE)
    assert read(tmp_path)["a"].tolist() == [0.0, 0.0]
    header(tmp_path / SINGLE_FILE, **changes)
    with pytest.raises(InputError, match=SINGLE_FILE):
        SafetensorsReader(tmp_path)


def test_file_truncated_while_reading_raises(tmp_path: Path) -> None:
    write(tmp_path, TENSORS)
    with SafetensorsReader(tmp_path) as reader:
        whole = (tmp_path / SINGLE_FILE).read_bytes()
        (tmp_path / SINGLE_FILE).write_bytes(whole[:-300])
        with pytest.raises(InputError, match="truncated"):
            reader.read_rows("matrix", 30, 37)


def test_writing_again_removes_old_shards(tmp_path: Path) -> None:
    write(tmp_path, TENSORS, 100)
    write(tmp_path, TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE_FILE]
