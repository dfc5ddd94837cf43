"""The text tokenizer matches BAAI's, and user text never becomes control tokens."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu3.errors import InputError
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import TextTokenizer
from emu3.testing import byte_tokenizer

TYPED = "a sign that says <|image start|>8*8<|image token|><|visual token 000017|><|endoftext|>"
SMALL = byte_tokenizer()


@pytest.fixture(scope="module")
def published(reference: Path) -> TextTokenizer:
    return TextTokenizer.from_folder(reference / "Emu3-Gen-tiny")


def test_texts_match_reference(published: TextTokenizer, reference: Path) -> None:
    texts = json.loads((reference / "golden.json").read_text(encoding="utf-8"))["texts"]
    assert len(texts) == 9
    for each in texts:
        assert published.encode(each["text"], allow_special=True) == each["ids"]
        assert published.decode(each["ids"]) == each["decoded"]


def test_control_token_names_are_plain_text(published: TextTokenizer) -> None:
    ids = published.encode(TYPED)
    assert max(ids) < published.vocabulary.text_size
    assert published.decode(ids) == TYPED


def test_prompts_encode_control_token_names_as_text() -> None:
    prompts, v = PromptTemplates.from_tokenizer(SMALL), SMALL.vocabulary
    image = prompts.image(TYPED, (2, 3))
    assert image == [v.bos, *TYPED.encode(), *prompts.document_format.header(2, 3)]
    chat = prompts.chat(TYPED, [])
    assert [token for token in chat if token >= v.text_size] == [v.bos]


def test_allow_special_encodes_control_tokens() -> None:
    v = SMALL.vocabulary
    ids = SMALL.encode(TYPED, allow_special=True)
    expected = [v.sov, *b"8*8", v.sot, v.visual_start + 17, v.pad]
    assert ids[-len(expected) :] == expected
    assert SMALL.decode(ids) == TYPED
    assert SMALL.decode(ids, skip_special=True) == "a sign that says 8*8"


@settings(max_examples=60)
@given(st.text())
def test_text_round_trips_normalized(text: str) -> None:
    ids = SMALL.encode(text)
    assert SMALL.decode(ids) == unicodedata.normalize("NFC", text)
    assert all(token < SMALL.vocabulary.text_size for token in ids)


@given(st.lists(st.integers(0, SMALL.vocabulary.size - 1)))
def test_any_ids_decode(ids: list[int]) -> None:
    shown = SMALL.decode(ids)
    hidden = SMALL.decode(ids, skip_special=True)
    assert len(hidden) <= len(shown)
    plain = [token for token in ids if token < SMALL.vocabulary.text_size]
    assert hidden == bytes(plain).decode(errors="replace")


@pytest.mark.parametrize("token", [-1, SMALL.vocabulary.size])
def test_ids_outside_vocabulary_raise(token: int) -> None:
    with pytest.raises(InputError, match=f"token id {token}"):
        SMALL.decode([65, token])


def test_saved_tokenizer_is_reloaded(tmp_path: Path) -> None:
    merged = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"abc": 257, b" a": 258}
    tokenizer = TextTokenizer(merged, SMALL.specials)
    tokenizer.save(tmp_path)
    read = TextTokenizer.from_folder(tmp_path)
    assert (read.ranks, read.specials) == (tokenizer.ranks, tokenizer.specials)
    assert read.encode("abc acab") == [257, 258, ord("c"), 256]


def test_published_files_round_trip(
    published: TextTokenizer, reference: Path, tmp_path: Path
) -> None:
    published.save(tmp_path)
    for name in ("emu3.tiktoken", "emu3_vision_tokens.txt"):
        original = (reference / "Emu3-Gen-tiny" / name).read_text(encoding="utf-8")
        assert (tmp_path / name).read_text(encoding="utf-8").strip() == original.strip()


@pytest.mark.parametrize("name", ["emu3.tiktoken", "emu3_vision_tokens.txt"])
def test_each_file_must_exist_once(tmp_path: Path, name: str) -> None:
    SMALL.save(tmp_path)
    (tmp_path / f"other_{name.removeprefix('emu3_')}").write_text("")
    if name.endswith("tiktoken"):
        (tmp_path / "other.tiktoken").write_text("")
    with pytest.raises(InputError, match=r"expected one file .*found .*other"):
        TextTokenizer.from_folder(tmp_path)
    for path in tmp_path.glob("*"):
        if path.suffix == Path(name).suffix:
            path.unlink()
    with pytest.raises(InputError, match="found none"):
        TextTokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one two three\n", "not a tiktoken vocabulary"),
        (b"YQ==\n", "not a tiktoken vocabulary"),
        (b"Y!Q== 0\n", "not a tiktoken vocabulary"),
        (b"YQ== x\n", "not a tiktoken vocabulary"),
        (b"\xff\xfe\x00", "not a tiktoken vocabulary"),
        (b"YQ== 0\nYg== 2\n", "without gaps"),
        (b"YQ== 0\nYg== 0\n", "without gaps"),
        (b"YQ== 0\nYQ== 1\n", "without gaps"),
    ],
)
def test_invalid_ranks_raise(tmp_path: Path, content: bytes, message: str) -> None:
    SMALL.save(tmp_path)
    (tmp_path / "emu3.tiktoken").write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        TextTokenizer.from_folder(tmp_path)
    assert "emu3.tiktoken" in str(raised.value)


@pytest.mark.parametrize("missing", [0, 200, 255])
def test_ranks_must_cover_every_byte(missing: int) -> None:
    """tiktoken panics on a text with a byte that has no rank."""
    ranks = {bytes([byte]): byte - (byte > missing) for byte in range(256) if byte != missing}
    with pytest.raises(InputError, match="byte"):
        TextTokenizer(ranks, SMALL.specials)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"<|image token|>\n"])
def test_invalid_special_token_file_raises(tmp_path: Path, content: bytes) -> None:
    SMALL.save(tmp_path)
    (tmp_path / "emu3_vision_tokens.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"special-token file|vision_tokens\.txt"):
        TextTokenizer.from_folder(tmp_path)
