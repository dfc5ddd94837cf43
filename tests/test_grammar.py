"""Pictures written into ids and read back: every grid, every step, every way to be malformed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from emu3.grammar import Grammar, GrammarError
from emu3.prompt import Prompts
from emu3.testing import byte_tokenizer

CODEBOOK = 64
TEXT = byte_tokenizer(CODEBOOK)
GRAMMAR = Prompts.of(TEXT).grammar
V = TEXT.vocabulary
SMALL_GRIDS = [(height, width) for height in range(1, 9) for width in range(1, 9)]


@st.composite
def pictures(draw: st.DrawFn, largest: int = 12) -> Tensor:
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    codes = st.integers(0, CODEBOOK - 1)
    drawn = draw(st.lists(codes, min_size=height * width, max_size=height * width))
    return torch.tensor(drawn).view(height, width)


def test_a_picture_looks_as_the_paper_says() -> None:
    ids = GRAMMAR.write(torch.tensor([[3, 0, 63], [1, 2, 4]]))
    start = V.visual_start
    first, second = [start + 3, start, start + 63], [start + 1, start + 2, start + 4]
    closing = [V.eof, V.eov]
    assert ids.tolist() == [V.sov, *b"2*3", V.sot, *first, V.eol, *second, V.eol, *closing]


def test_every_small_grid_comes_back() -> None:
    for height, width in SMALL_GRIDS:
        codes = torch.randint(CODEBOOK, (height, width))
        assert torch.equal(GRAMMAR.read(GRAMMAR.write(codes)), codes)


@given(pictures(largest=20))
def test_read_undoes_write(codes: Tensor) -> None:
    assert torch.equal(GRAMMAR.read(GRAMMAR.write(codes)), codes)
    assert torch.equal(GRAMMAR.read_body(GRAMMAR.body(codes), *codes.shape), codes)


def test_what_is_written_is_what_is_allowed_and_nothing_less() -> None:
    """A code anywhere a code stands; one id only everywhere else; then EOS, then PAD for ever."""
    for height, width in SMALL_GRIDS:
        body = GRAMMAR.body(torch.randint(CODEBOOK, (height, width))).tolist()
        assert len(body) == GRAMMAR.length(height, width)
        steps = len(body) + 5
        for step, token in enumerate([*body, V.eos, V.pad, V.pad, V.pad, V.pad]):
            low, high = GRAMMAR.allowed(height, width, step)
            if token >= V.visual_start:
                assert (low, high) == (V.visual_start, V.size)
            else:
                assert (low, high) == (token, token + 1)
        intervals = [GRAMMAR.allowed(height, width, step) for step in range(steps)]
        forced = GRAMMAR.forced(height, width, steps).tolist()
        assert forced == [low if high == low + 1 else -1 for low, high in intervals]
        assert forced.count(-1) == height * width


@given(st.lists(st.one_of(pictures(4), st.binary(min_size=1, max_size=5)), max_size=6))
def test_a_document_falls_into_its_parts(parts: list[Tensor | bytes]) -> None:
    """Texts that touch become one; pictures come back as codes, wherever they stand."""
    written: list[Tensor] = []
    expected: list[Tensor] = []
    for part in parts:
        ids = GRAMMAR.write(part) if isinstance(part, Tensor) else torch.tensor(list(part))
        written.append(ids)
        if isinstance(part, Tensor):
            expected.append(part)
        elif expected and expected[-1].ndim == 1:
            expected[-1] = torch.cat([expected[-1], ids])
        else:
            expected.append(ids)
    found = GRAMMAR.split(torch.cat(written) if written else torch.empty(0, dtype=torch.long))
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_frame_of_a_document_is_text() -> None:
    codes = torch.randint(CODEBOOK, (2, 2))
    document = Prompts.of(TEXT).image_document("hi", codes)
    opening, picture, closing = GRAMMAR.split(document)
    assert opening.tolist() == [V.bos, *b"hi"]
    assert torch.equal(picture, codes)
    assert closing.tolist() == [V.eos]


GOOD = GRAMMAR.write(torch.arange(12).view(3, 4)).tolist()
HEADER = len(GRAMMAR.header(3, 4))


def changed(at: int, *tokens: int) -> list[int]:
    return [*GOOD[:at], *tokens, *GOOD[at + 1 :]]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (changed(HEADER + 4, V.visual_start), "position 4"),  # a fifth code where EOL belongs
        (changed(HEADER + 2, V.eol), "position 2"),  # EOL too early
        (changed(HEADER, 65), "position 0"),  # text among the codes
        (changed(HEADER + 15, V.eov), "position 15"),  # EOV where EOF belongs
        (changed(HEADER + 16, V.eos), "position 16"),
        (changed(HEADER + 3, V.size), "position 3"),  # beyond the codebook
        (GOOD[:-1], "16 of 17"),
        (GOOD[:HEADER], "0 of 17"),
        (changed(HEADER - 1), "no SOT"),
        (GOOD[:1], "no SOT"),
        (changed(1), r"'\*4'"),
        (changed(1, ord("0")), r"'0\*4'"),
        (changed(1, ord("-"), ord("3")), r"'-3\*4'"),
        (changed(1, ord(" "), ord("3")), r"' 3\*4'"),
        (changed(2, ord("x")), "'3x4'"),
        (changed(3, ord("4"), ord("*"), ord("4")), r"'3\*4\*4'"),
        (changed(1, *"٣".encode()), "size of a picture"),  # a digit, but none of ours
        (changed(1, 0xFF), "size of a picture"),
        (changed(1, V.bos), "control tokens"),
        (changed(1, *b"999999"), "cut short"),
        (changed(1, *b"9999999"), "size of a picture"),
        ([65, *GOOD], "nothing else"),
        ([*GOOD, *GOOD], "nothing else"),
        ([65, 66], "nothing else"),
        ([], "nothing else"),
    ],
)
def test_malformed_ids_are_refused(ids: list[int], message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        GRAMMAR.read(torch.tensor(ids, dtype=torch.long))


@given(st.data())
def test_whatever_is_read_is_what_would_be_written(data: st.DataObject) -> None:
    """Ids with something exchanged or dropped: refused, or another well-formed picture."""
    ids = list(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(ids) - 1))
        new = data.draw(st.lists(st.integers(0, V.size - 1), max_size=2))
        ids[at : at + data.draw(st.integers(0, 2))] = new
    try:
        codes = GRAMMAR.read(torch.tensor(ids, dtype=torch.long))
    except GrammarError:
        return
    assert GRAMMAR.write(codes).tolist() == ids


@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_stretches_are_pieces_of_the_body(width: int) -> None:
    codes = torch.randint(CODEBOOK, (3, width))
    body, flat = GRAMMAR.body(codes).tolist(), codes.flatten().tolist()
    for index, code in enumerate(flat):
        place = Grammar.place(width, index)
        assert body[place] == V.visual_start + code
        for start in range(place + 1):
            stretch = GRAMMAR.stretch(flat[: index + 1], width, start, place + 1)
            assert stretch == body[start : place + 1]


def test_the_size_is_plain_text_in_any_vocabulary() -> None:
    """The grammar writes whatever ids it is handed for the size."""
    shifted = Grammar(V, lambda text: [ord(c) + 100 for c in text], lambda ids: "2*2")
    assert shifted.header(2, 2) == [V.sov, 150, 142, 150, V.sot]
    codes = torch.randint(CODEBOOK, (2, 2))
    assert torch.equal(shifted.read(shifted.write(codes)), codes)
