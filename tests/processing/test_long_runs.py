"""Long runs of one kind of character: the ids are tiktoken's where that works, else a refusal."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

import emu3
from emu3.errors import InputError
from emu3.processing.tokenizer import MAX_COMBINING, PATTERN, TextTokenizer, split_long_spaces
from emu3.testing import byte_tokenizer

NANO = TextTokenizer.from_folder(Path(emu3.__file__).parent / "nano")
TIKTOKEN = tiktoken.Encoding(
    "plain", pat_str=PATTERN, mergeable_ranks=NANO.ranks, special_tokens={}
)
RUNS = st.tuples(st.sampled_from(" \t\u3000\n\r\x85\xa0\x1c.a1é\u0301"), st.integers(1, 9))
TEXTS = st.lists(RUNS, max_size=12).map(lambda runs: "".join(c * n for c, n in runs))


def encode_split(text: str, limit: int) -> list[int]:
    ids: list[int] = []
    for part, is_one_piece in split_long_spaces(text, limit):
        encoding = NANO._one_piece if is_one_piece else TIKTOKEN
        ids += encoding.encode_ordinary(part)
    return ids


@given(TEXTS, st.integers(1, 6))
@settings(max_examples=500, deadline=None)
def test_split_texts_have_the_ids_of_whole_texts(text: str, limit: int) -> None:
    assert encode_split(text, limit) == TIKTOKEN.encode_ordinary(text)


@pytest.mark.parametrize("character", [" ", "\t", "\u3000", "\n", "\r\n", " \n", "\xa0"])
@pytest.mark.parametrize("around", ["{}", "a{}a", "!{}!", "1{}1"])
def test_runs_beyond_the_limit_have_tiktokens_ids(character: str, around: str) -> None:
    text = around.format(character * 12_000)
    assert NANO.encode(text) == TIKTOKEN.encode_ordinary(text)


@pytest.mark.parametrize("character", [" ", "\t", "\u3000", "\n", "a", "1", "!"])
def test_a_million_of_one_character(character: str) -> None:
    start = time.perf_counter()
    text = "a" + character * 1_000_000 + "b"
    try:
        ids = NANO.encode(text)
    except InputError as error:
        assert character not in " \t\u3000\n"
        assert "cannot be tokenized" in str(error)  # noqa: PT017
    else:
        assert NANO.decode(ids) == text
    assert time.perf_counter() - start < 60


def test_combining_marks_are_bounded() -> None:
    assert byte_tokenizer().encode("a" + "\u0301" * 100)
    with pytest.raises(InputError, match="combining marks"):
        byte_tokenizer().encode("a" + "\u0301\u0316" * MAX_COMBINING)


def test_a_git_lfs_pointer_is_called_that(tmp_path: Path) -> None:
    NANO.save(tmp_path)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "emu3.tiktoken").write_bytes(pointer)
    with pytest.raises(InputError, match="Git LFS pointer"):
        TextTokenizer.from_folder(tmp_path)
