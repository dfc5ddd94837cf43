"""Images written into ids and read back: every grid, every step, every way to be malformed."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from emu3.processing.document_format import DocumentFormat, DocumentFormatError, VideoCodes
from emu3.processing.prompts import PromptTemplates
from emu3.testing import byte_tokenizer

CODEBOOK = 64
TEXT = byte_tokenizer(CODEBOOK)
FORMAT = PromptTemplates.from_tokenizer(TEXT).document_format
V = TEXT.vocabulary
SMALL_GRIDS = [(height, width) for height in range(1, 9) for width in range(1, 9)]


@st.composite
def images(draw: st.DrawFn, largest: int = 12) -> Tensor:
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    codes = st.integers(0, CODEBOOK - 1)
    codes_drawn = draw(st.lists(codes, min_size=height * width, max_size=height * width))
    return torch.tensor(codes_drawn).view(height, width)


def test_image_layout() -> None:
    ids = FORMAT.encode_image(torch.tensor([[3, 0, 63], [1, 2, 4]]))
    start = V.visual_start
    first, second = [start + 3, start, start + 63], [start + 1, start + 2, start + 4]
    closing = [V.eof, V.eov]
    assert ids.tolist() == [V.sov, *b"2*3", V.sot, *first, V.eol, *second, V.eol, *closing]


def test_small_grids_round_trip() -> None:
    for height, width in SMALL_GRIDS:
        codes = torch.randint(CODEBOOK, (height, width))
        assert torch.equal(FORMAT.decode_image(FORMAT.encode_image(codes)), codes)


@given(images(largest=20))
def test_decode_inverts_encode(codes: Tensor) -> None:
    assert torch.equal(FORMAT.decode_image(FORMAT.encode_image(codes)), codes)
    assert torch.equal(FORMAT.decode_body(FORMAT.body_token_ids(codes), *codes.shape), codes)


def test_encoded_ids_are_exactly_the_allowed_ones() -> None:
    """A code anywhere a code stands; one id only everywhere else; then EOS, then PAD for ever."""
    for height, width in SMALL_GRIDS:
        body = FORMAT.body_token_ids(torch.randint(CODEBOOK, (height, width))).tolist()
        assert len(body) == FORMAT.num_tokens(height, width)
        steps = len(body) + 5
        for step, token in enumerate([*body, V.eos, V.pad, V.pad, V.pad, V.pad]):
            low, high = FORMAT.allowed_range(height, width, step)
            if token >= V.visual_start:
                assert (low, high) == (V.visual_start, V.size)
            else:
                assert (low, high) == (token, token + 1)
        intervals = [FORMAT.allowed_range(height, width, step) for step in range(steps)]
        forced = FORMAT.forced_tokens(height, width, steps).tolist()
        assert forced == [low if high == low + 1 else -1 for low, high in intervals]
        assert forced.count(-1) == height * width


@given(st.lists(st.one_of(images(4), st.binary(min_size=1, max_size=5)), max_size=6))
def test_parse_document(parts: list[Tensor | bytes]) -> None:
    """Texts that touch become one; images come back as codes, wherever they stand."""
    written: list[Tensor] = []
    expected: list[Tensor] = []
    for part in parts:
        ids = FORMAT.encode_image(part) if isinstance(part, Tensor) else torch.tensor(list(part))
        written.append(ids)
        if isinstance(part, Tensor):
            expected.append(part)
        elif expected and expected[-1].ndim == 1:
            expected[-1] = torch.cat([expected[-1], ids])
        else:
            expected.append(ids)
    found = FORMAT.split(torch.cat(written) if written else torch.empty(0, dtype=torch.long))
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_frame_of_a_document_is_text() -> None:
    codes = torch.randint(CODEBOOK, (2, 2))
    document = PromptTemplates.from_tokenizer(TEXT).document("hi", codes)
    opening, image, closing = FORMAT.split(document)
    assert opening.tolist() == [V.bos, *b"hi"]
    assert torch.equal(image, codes)
    assert closing.tolist() == [V.eos]


GOOD = FORMAT.encode_image(torch.arange(12).view(3, 4)).tolist()
HEADER = len(FORMAT.header(3, 4))


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
        (changed(1, *"٣".encode()), "size of an image"),  # a digit, but none of ours
        (changed(1, 0xFF), "size of an image"),
        (changed(1, V.bos), "control tokens"),
        (changed(1, *b"999999"), "cut short"),
        (changed(1, *b"9999999"), "size of an image"),
        ([65, *GOOD], "nothing else"),
        ([*GOOD, *GOOD], "nothing else"),
        ([65, 66], "nothing else"),
        ([], "nothing else"),
    ],
)
def test_malformed_ids_are_refused(ids: list[int], message: str) -> None:
    with pytest.raises(DocumentFormatError, match=message):
        FORMAT.decode_image(torch.tensor(ids, dtype=torch.long))


@given(st.data())
def test_decodable_ids_are_canonical(data: st.DataObject) -> None:
    """Ids with something exchanged or dropped: refused, or another well-formed image."""
    ids = list(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(ids) - 1))
        new = data.draw(st.lists(st.integers(0, V.size - 1), max_size=2))
        ids[at : at + data.draw(st.integers(0, 2))] = new
    try:
        codes = FORMAT.decode_image(torch.tensor(ids, dtype=torch.long))
    except DocumentFormatError:
        return
    assert FORMAT.encode_image(codes).tolist() == ids


RATES = [1, 8, 12, 23.976, 24, 29.97, 30, 240, 999, 0.001, 0.5, 7.125]


def test_video_layout() -> None:
    ids = FORMAT.encode_video(torch.tensor([[[3, 0]], [[1, 2]]]), fps=8, frames=6)
    start = V.visual_start
    first, second = [start + 3, start, V.eol, V.eof], [start + 1, start + 2, V.eol, V.eof]
    assert ids.tolist() == [V.sov, *b"1*2 8fps 0.75s", V.sot, *first, *second, V.eov]


def test_small_videos_round_trip() -> None:
    grids = [(height, width) for height in range(1, 4) for width in range(1, 4)]
    for (height, width), frames, fps in product(grids, range(1, 14), RATES):
        codes = torch.randint(CODEBOOK, (FORMAT.num_groups(frames), height, width))
        found = FORMAT.decode_video(FORMAT.encode_video(codes, fps, frames))
        assert (found.fps, found.frames) == (fps, frames)
        assert torch.equal(found.codes, codes)


@example(1, 10**6)  # ten digits of seconds
@given(st.integers(1, 999_000), st.integers(1, 10**6))
def test_rate_and_duration_identify_the_number_of_frames(thousandths: int, frames: int) -> None:
    """Read as `read_video` reads it, and without any codes."""
    header = FORMAT.video_header(2, 3, thousandths / 1000, frames)
    with pytest.raises(DocumentFormatError) as raised:
        FORMAT.decode_video(torch.tensor(header))
    length = FORMAT.num_tokens(2, 3, FORMAT.num_groups(frames))
    assert str(raised.value) == f"video cut short: 0 of {length} ids"


def test_encoded_video_ids_are_exactly_the_allowed_ones() -> None:
    for height, width, groups in product(range(1, 5), range(1, 5), range(1, 4)):
        body = FORMAT.body_token_ids(torch.randint(CODEBOOK, (groups, height, width))).tolist()
        assert len(body) == FORMAT.num_tokens(height, width, groups)
        followed = [*body, V.eos, V.pad, V.pad, V.pad]
        for step, token in enumerate(followed):
            one = (token, token + 1)
            expected = (V.visual_start, V.size) if token >= V.visual_start else one
            assert FORMAT.allowed_range(height, width, step, groups) == expected
        forced = FORMAT.forced_tokens(height, width, len(followed), groups).tolist()
        assert forced == [-1 if token >= V.visual_start else token for token in followed]


def test_an_image_body_is_a_video_of_one_frame() -> None:
    codes = torch.randint(CODEBOOK, (3, 2))
    assert torch.equal(FORMAT.body_token_ids(codes), FORMAT.body_token_ids(codes[None]))


def test_parse_document_of_text_image_and_video() -> None:
    image, clip = torch.randint(CODEBOOK, (2, 3)), torch.randint(CODEBOOK, (2, 2, 2))
    ids = torch.cat(
        [torch.tensor([65]), FORMAT.encode_image(image), FORMAT.encode_video(clip, 12, 5)]
    )
    text, first, second = FORMAT.parse(ids)
    assert isinstance(text, Tensor)
    assert text.tolist() == [65]
    assert isinstance(first, Tensor)
    assert torch.equal(first, image)
    assert isinstance(second, VideoCodes)
    assert torch.equal(second.codes, clip)
    assert (second.fps, second.frames) == (12, 5)
    with pytest.raises(DocumentFormatError, match="only text and images"):
        FORMAT.split(ids)
    with pytest.raises(DocumentFormatError, match="one video and nothing else"):
        FORMAT.decode_video(ids)


CLIP = FORMAT.encode_video(torch.arange(12).view(2, 2, 3), 8, 7)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (b"2*3 8fps 0.8750s", "expected height"),
        (b"2*3 8.0fps 0.875s", "no whole number"),
        (b"2*3 8fps 0.9s", "no whole number"),
        (b"2*3 8fps .875s", "expected height"),
        (b"2*3 8fps", "expected height"),
        (b"2*3  8fps 0.875s", "expected height"),
        (b"2*3 8fps 0s", "at least one"),
        (b"2*3 0fps 1s", "must lie in 0.001 to 999"),
        (b"2*3 1000fps 1s", "must lie in 0.001 to 999"),
        (b"2*3 8fps 2s", "video cut short: 21 of 37"),
        (b"2*3 8fps 0.5s", "position 9 of a video"),  # one group, and another behind it
        (b"3*3 8fps 0.875s", "cut short"),
        (b"3*2 8fps 0.875s", "position 2 of a video"),
    ],
)
def test_malformed_video_headers_are_refused(meta: bytes, message: str) -> None:
    body = CLIP[-FORMAT.num_tokens(2, 3, 2) :]
    ids = torch.cat([torch.tensor([V.sov, *meta, V.sot]), body, torch.tensor([65, 65])])
    with pytest.raises(DocumentFormatError, match=message):
        FORMAT.decode_video(ids)


@given(st.data())
def test_decodable_video_ids_are_canonical(data: st.DataObject) -> None:
    ids = CLIP.tolist()
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(ids) - 1))
        new = data.draw(st.lists(st.integers(0, V.size - 1), max_size=2))
        ids[at : at + data.draw(st.integers(0, 2))] = new
    try:
        found = FORMAT.decode_video(torch.tensor(ids, dtype=torch.long))
    except DocumentFormatError:
        return
    assert FORMAT.encode_video(found.codes, found.fps, found.frames).tolist() == ids


@pytest.mark.parametrize("fps", [0, -1, 1 / 3, 30000 / 1001, 999.5, float("nan"), float("inf")])
def test_rates_that_no_header_holds_are_refused(fps: float) -> None:
    with pytest.raises(DocumentFormatError, match="fps = "):
        FORMAT.encode_video(torch.zeros(1, 1, 1, dtype=torch.long), fps)


@pytest.mark.parametrize("frames", [-1, 0, 4, 9])
def test_codes_stand_for_as_many_frames_as_they_can(frames: int) -> None:
    with pytest.raises(DocumentFormatError, match="2 groups"):
        FORMAT.encode_video(torch.zeros(2, 1, 1, dtype=torch.long), 8, frames)


def test_the_size_is_plain_text_in_any_vocabulary() -> None:
    """The document_format writes whatever ids it is handed for the size."""
    shifted = DocumentFormat(V, lambda text: [ord(c) + 100 for c in text], lambda ids: "2*2")
    assert shifted.header(2, 2) == [V.sov, 150, 142, 150, V.sot]
    codes = torch.randint(CODEBOOK, (2, 2))
    assert torch.equal(shifted.decode_image(shifted.encode_image(codes)), codes)
