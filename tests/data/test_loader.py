"""Packed rows of a mixture, resuming, and sharing rows between processes."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emu3.data.dataset import TokenDataset, request_digest
from emu3.data.loader import PackedLoader
from emu3.data.packing import PackedRow
from emu3.data.shards import write_shard
from emu3.data.token_roles import ANSWER, TEXT, VISION
from emu3.data.tokenization import TokenizedDocument, text_tokenizer_fingerprint
from emu3.errors import InputError
from emu3.testing import byte_tokenizer

CONTEXT = 40
LONG_TEXT, IMAGE, LARGE_IMAGE = 100, 30, 41  # ids of a text, and of two documents with an image


def write_dataset(folder: Path, documents: list[TokenizedDocument]) -> TokenDataset:
    folder.mkdir()
    request = {"model": text_tokenizer_fingerprint(byte_tokenizer())}
    write_shard(folder / "a", request_digest(request), documents, [])
    index = {"version": 1, "request": request, "shards": {"a": len(documents)}}
    (folder / "index.json").write_text(json.dumps(index))
    return TokenDataset.open(folder)


def document(first: int, length: int, role: int) -> TokenizedDocument:
    """A document whose ids count up, so that each span shows its position."""
    roles = torch.full((length,), TEXT, dtype=torch.uint8)
    roles[length // 2] = role
    return TokenizedDocument(torch.arange(first, first + length), roles)


@pytest.fixture
def datasets(tmp_path: Path) -> list[TokenDataset]:
    short = [document(1000 * n, 3 + n, TEXT) for n in range(1, 20)]
    texts = write_dataset(tmp_path / "texts", [*short, document(50_000, LONG_TEXT, TEXT)])
    images = [document(100_000, IMAGE, VISION), document(200_000, LARGE_IMAGE, VISION)]
    return [texts, write_dataset(tmp_path / "images", images)]


def loader(datasets: list[TokenDataset], **changes: Any) -> PackedLoader:
    return PackedLoader(
        datasets, **{"weights": [3, 1], "context": CONTEXT, "seed": 5, "buffer_size": 30} | changes
    )


def parts(pack: PackedRow) -> list[Tensor]:
    return list(pack.ids.split(list(pack.lengths)))


def test_rows_hold_whole_images_and_split_texts(datasets: list[TokenDataset]) -> None:
    packed = loader(datasets)
    packs = list(islice(packed, 100))
    assert packed.num_excluded == 1
    for pack in packs:
        assert len(pack.ids) == len(pack.roles) == sum(pack.lengths) <= CONTEXT
        for part in parts(pack):
            first = int(part[0])
            assert part.tolist() == list(range(first, first + len(part)))
            assert first < 100_000 or (first, len(part)) == (100_000, IMAGE)
    assert sum(len(pack.ids) for pack in packs) >= 0.97 * 100 * CONTEXT


def test_all_ids_of_a_text_are_targets_equally_often(
    datasets: list[TokenDataset],
) -> None:
    packed = loader(datasets)
    taken = [part for pack in islice(packed, 100) for part in parts(pack)]
    taken += [packed.read_row((piece,)).ids for piece in packed.packer.buffer]
    learned = Counter(int(at) for part in taken for at in part[1:])
    for text in (packed.datasets[0][number].ids[1:].tolist() for number in range(20)):
        assert len({learned[at] for at in text}) == 1


def test_conversations_are_split_only_if_too_long(tmp_path: Path) -> None:
    answered = [document(1000 * n, n, ANSWER) for n in (CONTEXT - 5, CONTEXT + 9)]
    packed = loader([write_dataset(tmp_path / "a", answered)], weights=[1])
    lengths = {len(part) for pack in islice(packed, 20) for part in parts(pack)}
    assert lengths == {CONTEXT - 5, CONTEXT, 10}


@pytest.mark.parametrize("stop", [0, 1, 17])
def test_resuming_gives_the_same_rows(datasets: list[TokenDataset], stop: int) -> None:
    whole = list(islice(loader(datasets), 40))
    first = loader(datasets)
    before = list(islice(first, stop))
    second = loader(datasets)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    again = before + list(islice(second, 40 - stop))
    for expected, actual in zip(whole, again, strict=True):
        assert torch.equal(expected.ids, actual.ids)
        assert torch.equal(expected.roles, actual.roles)
        assert expected.lengths == actual.lengths


def test_processes_share_the_rows_of_one_loader(datasets: list[TokenDataset]) -> None:
    alone, every = loader(datasets), [loader(datasets) for _ in range(2)]
    whole = [alone.read_row(alone.next_row()).ids.tolist() for _ in range(20)]
    rows = [[each.next_row() for _ in range(20)] for each in every]
    shared = [every[at % 2].read_row(rows[at % 2][at]).ids.tolist() for at in range(20)]
    assert shared == whole
    assert every[0].state_dict() == every[1].state_dict() == alone.state_dict()


def test_invalid_settings_raise(datasets: list[TokenDataset]) -> None:
    with pytest.raises(InputError, match="none of its 2 documents fits"):
        loader(datasets, context=20)
    with pytest.raises(InputError, match="at least 2 ids"):
        loader(datasets, context=1)
    with pytest.raises(InputError, match="another loader: buffer_size 30 instead of 31"):
        loader(datasets, buffer_size=31).load_state_dict(loader(datasets).state_dict())
