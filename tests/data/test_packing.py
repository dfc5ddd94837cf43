"""Packing of document spans into rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch

from emu3.data.packing import (
    DocumentSpan,
    Packer,
    concat_documents,
    pack_rows,
    packing_efficiency,
    split_document,
)
from emu3.errors import InputError

CONTEXT = 5120  # of the paper's first stage


def mixed_documents(count: int, seed: int = 0) -> list[DocumentSpan]:
    """Captioned images of many sizes, questions about small images, and texts of any length."""
    random = np.random.default_rng(seed)
    spans: list[DocumentSpan] = []
    for number in range(count):
        kind = random.choice(3, p=[0.3, 0.2, 0.5])
        if kind == 2:
            length = int(random.lognormal(6, 1.2)) + 3
            spans += split_document(0, number, length, CONTEXT)
        else:
            height, width = random.integers(*((40, 70) if kind == 0 else (16, 40)), 2)
            length = min(CONTEXT, int(height * (width + 1) + 7 + random.integers(10, 150)))
            spans.append(DocumentSpan(kind + 1, number, 0, length))
    return spans


def large_images_and_texts(count: int, seed: int = 0) -> list[DocumentSpan]:
    """Images of which no two fit in one row, and texts, as in the first training stage."""
    random = np.random.default_rng(seed)
    texts = [
        split_document(0, n, int(random.lognormal(6.4, 1.2)) + 3, CONTEXT) for n in range(count)
    ]
    images = [DocumentSpan(1, n, 0, 4200 + int(random.integers(30, 150))) for n in range(count)]
    return [span for text, image in zip(texts, images, strict=True) for span in (*text, image)]


def merge_spans(spans: Iterable[DocumentSpan]) -> list[tuple[int, int, int, int]]:
    """Source, number and the ids of every document, with its spans merged."""
    merged = list[tuple[int, int, int, int]]()
    for span in sorted(spans, key=lambda each: (each.source, each.document, each.start)):
        start = span.start
        if merged and merged[-1] == (span.source, span.document, merged[-1][2], start + 1):
            start = merged.pop()[2]
        merged.append((span.source, span.document, start, span.stop))
    return merged


@pytest.mark.parametrize("mixture", [mixed_documents, large_images_and_texts])
@pytest.mark.parametrize("seed", range(3))
def test_packing_efficiency_is_at_least_97_percent(
    seed: int, mixture: Callable[[int, int], list[DocumentSpan]]
) -> None:
    spans = mixture(4000, seed)
    rows = list(pack_rows(spans, CONTEXT))
    assert packing_efficiency(rows, CONTEXT) >= 0.97
    assert merge_spans(spans) == merge_spans(span for row in rows for span in row)
    assert all(sum(map(len, row)) <= CONTEXT for row in rows)
    alone = [(span,) for span in spans]
    assert packing_efficiency(alone, CONTEXT) < 0.6  # packing makes the difference


def test_longest_text_is_split_to_fill_a_row() -> None:
    packer = Packer(100)
    for number, (length, keep_whole) in enumerate(
        [(80, True), (30, True), (25, False), (60, False)]
    ):
        packer.add(DocumentSpan(0, number, 0, length, keep_whole))
    row = packer.next_row()
    assert row == (DocumentSpan(0, 0, 0, 80), DocumentSpan(0, 3, 0, 20, False))
    assert packer.buffer == [
        DocumentSpan(0, 1, 0, 30),
        DocumentSpan(0, 2, 0, 25, False),
        DocumentSpan(0, 3, 19, 60, False),  # overlaps by one id
    ]
    assert packer.next_row() == (
        DocumentSpan(0, 1, 0, 30),
        DocumentSpan(0, 3, 19, 60, False),
        DocumentSpan(0, 2, 0, 25, False),
    )


def test_texts_are_not_split_for_a_small_gap() -> None:
    packer = Packer(6400)
    for number, length in enumerate([6301, 200]):
        packer.add(DocumentSpan(0, number, 0, length, keep_whole=False))
    assert [len(span) for span in packer.next_row()] == [6301]
    packer.add(DocumentSpan(0, 2, 0, 6300))
    assert [len(span) for span in packer.next_row()] == [200]


def test_oldest_span_starts_the_row() -> None:
    packer = Packer(10)
    odd = DocumentSpan(0, 0, 0, 7)  # two spans of 5 would fill the row better
    packer.add(odd)
    for number in range(1, 5):
        packer.add(DocumentSpan(0, number, 0, 5))
    assert odd in packer.next_row()


def test_longest_fitting_span_is_added() -> None:
    packer = Packer(10)
    for number, length in enumerate([6, 2, 4, 3, 4, 9]):
        packer.add(DocumentSpan(0, number, 0, length))
    assert [span.document for span in packer.next_row()] == [0, 2]  # 6 and the older 4
    assert [span.document for span in packer.next_row()] == [1, 4, 3]  # 2, 4, 3
    assert [span.document for span in packer.next_row()] == [5]
    assert not len(packer)


@pytest.mark.parametrize("length", range(1, 30))
@pytest.mark.parametrize("context", [2, 3, 7, 10, 29])
def test_split_texts_have_every_id_but_the_first_as_target_once(length: int, context: int) -> None:
    spans = split_document(0, 0, length, context)
    assert all(len(span) <= context for span in spans)
    targets = [at for span in spans for at in range(span.start + 1, span.stop)]
    assert targets == list(range(1, length))


def test_context_of_one_raises() -> None:
    with pytest.raises(InputError, match="at least 2"):
        split_document(0, 0, 5, 1)


def test_concat_documents() -> None:
    roles = torch.zeros(5, dtype=torch.uint8)
    pack = concat_documents([(torch.arange(3), roles[:3]), (torch.arange(2), roles[:2])])
    assert (pack.ids.tolist(), pack.lengths) == ([0, 1, 2, 0, 1], (3, 2))
    assert len(pack.roles) == 5
