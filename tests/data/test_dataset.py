"""Shards and token data sets: round trips, and errors on corrupt files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from emu3.data.dataset import TokenDataset, request_digest
from emu3.data.shards import SkippedSample, map_shard, read_shard_summary, write_shard
from emu3.data.tokenization import TokenizedDocument, text_tokenizer_fingerprint
from emu3.errors import InputError
from emu3.testing import byte_tokenizer

NAMES = ["00000-000000.safetensors", "00000-000001.safetensors", "00001-000000.safetensors"]


def documents(seed: int, count: int = 5) -> list[TokenizedDocument]:
    torch.manual_seed(seed)
    lengths = torch.randint(1, 9, (count,)).tolist()
    return [
        TokenizedDocument(torch.randint(500, (n,)), torch.randint(4, (n,), dtype=torch.uint8))
        for n in lengths
    ]


def write_dataset(folder: Path) -> list[TokenizedDocument]:
    """Write a data set of three shards, one of them empty; returns its documents."""
    folder.mkdir()
    request = {"model": text_tokenizer_fingerprint(byte_tokenizer()), "sources": []}
    shards = [documents(0), [], documents(1)]
    for name, each in zip(NAMES, shards, strict=True):
        write_shard(folder / name, request_digest(request), each, [SkippedSample("a", "b", "c")])
    index = {
        "version": 1,
        "request": request,
        "shards": dict(zip(NAMES, map(len, shards), strict=True)),
        "ids": {"context": 1, "text": 2, "vision": 3, "answer": 4},
    }
    (folder / "index.json").write_text(json.dumps(index))
    return [document for each in shards for document in each]


def test_round_trip(tmp_path: Path) -> None:
    written = write_dataset(tmp_path / "dataset")
    dataset = TokenDataset.open(tmp_path / "dataset", byte_tokenizer())
    assert len(dataset) == len(written) == 10
    assert dataset.lengths.tolist() == [len(document.ids) for document in written]
    for number, document in enumerate(written):
        assert dataset.document_length(number) == len(document.ids)
        read = dataset[number]
        assert (read.ids.dtype, read.roles.dtype) == (torch.int64, torch.uint8)
        assert torch.equal(read.ids, document.ids)
        assert torch.equal(read.roles, document.roles)
    for number in (-1, 10):
        with pytest.raises(IndexError):
            dataset[number]
    assert dataset.id_counts["vision"] == 3


def test_equal_documents_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / name, "x", documents(3), [SkippedSample("s", "k", "r")] * 3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_shard_summary(tmp_path / "a").samples == 5
    assert sum(read_shard_summary(tmp_path / "a").ids.values()) == len(
        map_shard(tmp_path / "a")["ids"]
    )


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def without_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def with_another_request(path: Path) -> None:
    write_shard(path, "another", documents(0), [])


def with_other_ends(path: Path) -> None:
    write_shard(path, read_shard_summary(path).request, documents(0), [])
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        marks = file.metadata()
    tensors = load_file(path)
    tensors["ends"][-1] += 1
    save_file(tensors, path, metadata=marks)


def without_shards(path: Path) -> None:
    index = json.loads((path.parent / "index.json").read_text())
    del index["shards"]
    (path.parent / "index.json").write_text(json.dumps(index))


INVALID: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "corrupt or truncated"),
    "missing": (Path.unlink, "no such shard"),
    "without metadata": (without_metadata, "not a shard written by"),
    "another request": (with_another_request, "another request"),
    "inconsistent ends": (with_other_ends, "do not match the token ids"),
    "another number of documents": (
        lambda path: shutil.copy(path.parent / NAMES[1], path),
        "another",
    ),
    "no index": (lambda path: (path.parent / "index.json").unlink(), "no index.json"),
    "not complete": (without_shards, "not complete"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_datasets_raise(case: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset")
    do, message = INVALID[case]
    do(tmp_path / "dataset" / NAMES[0])
    with pytest.raises(InputError, match=message):
        TokenDataset.open(tmp_path / "dataset")


def test_another_vocabulary_raises(tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset")
    with pytest.raises(InputError, match="another vocabulary"):
        TokenDataset.open(tmp_path / "dataset", byte_tokenizer(codebook_size=128))
