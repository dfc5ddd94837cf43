"""tokenizer.json of the transformers format, against the `tokenizers` package."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu3.checkpoints.formats import hf
from emu3.checkpoints.formats.hf_tokenizer import byte_to_char, merges, token_name, tokenizer_json
from emu3.errors import InputError
from emu3.processing.tokenizer import TextTokenizer
from emu3.processing.vocabulary import SOV
from emu3.testing import byte_tokenizer

from .tiny_hf import NATURAL, trained_tokenizer, write


@pytest.mark.parametrize(
    "text", [byte_tokenizer(), trained_tokenizer()], ids=["bytes", "trained_pair"]
)
def test_tokenizer_round_trip(tmp_path: Path, text: TextTokenizer) -> None:
    read = hf.text_tokenizer(write(tmp_path, text))
    assert (read.ranks, read.specials) == (text.ranks, text.specials)
    assert read.vocabulary == text.vocabulary


def test_token_names_are_those_of_gpt2() -> None:
    assert len(set(byte_to_char().values())) == 256
    assert token_name(b" a\n\xc2\xad") == "ĠaĊÂŃ"


def test_merges_concatenate_to_their_tokens() -> None:
    ranks = trained_tokenizer().ranks
    made = merges(ranks)
    assert [left + right for left, right in made] == sorted(
        (token for token in ranks if len(token) > 1), key=ranks.__getitem__
    )
    assert all(max(ranks[a], ranks[b]) < ranks[a + b] for a, b in made)


def test_token_without_a_merge() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"abc": 256, b"xy": 257}
    assert merges(ranks) == [(b"x", b"y")]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"model": {}}, "byte-pair vocabulary"),
        ({"model": {"vocab": {"a": 0, "b": 2}}, "added_tokens": []}, "without gaps"),
        ({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []}, "endoftext"),
        ({"model": {"vocab": {"<|endoftext|>": 0}}, "added_tokens": []}, "consecutive ids"),
    ],
)
def test_invalid_vocabularies_raise(tmp_path: Path, broken: dict[str, Any], message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(broken))
    with pytest.raises(InputError, match=message) as raised:
        hf.text_tokenizer(tmp_path)
    assert "tokenizer.json" in str(raised.value)


def assert_same_ids(text: TextTokenizer, tokenizer: Any, samples: Iterable[str]) -> None:
    for sample in samples:
        ids = text.encode(sample, allow_special=True)
        assert tokenizer.encode(sample).ids == ids, sample
        assert tokenizer.decode(ids, skip_special_tokens=False) == text.decode(ids), sample


def tokenizers_tokenizer(text: TextTokenizer) -> Any:
    tokenizers = pytest.importorskip("tokenizers", reason="needs pip install emu3[train]")
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(text)))


@cache
def trained_pair() -> tuple[TextTokenizer, Any]:
    """A tokenizer with merges, and the same one loaded by `tokenizers`."""
    text = trained_tokenizer()
    return text, tokenizers_tokenizer(text)


@settings(max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs", "Cn"])),
            st.sampled_from(["the", " th", "'s", "\n ", "  ", "300", SOV, "<|extra_7|>", "\u0338"]),
        )
    )
)
def test_ids_equal_tokenizers_for_any_text(parts: list[str]) -> None:
    sample = "".join(parts)
    if "<image>" not in sample and "<|extra_0|>" not in sample:
        assert_same_ids(*trained_pair(), [sample])


def test_ids_equal_tokenizers_for_natural_text() -> None:
    assert_same_ids(*trained_pair(), NATURAL)


@pytest.mark.slow
def test_ids_equal_tokenizers_in_the_published_vocabulary(reference: Path) -> None:
    text = TextTokenizer.from_folder(reference / "Emu3-Gen-tiny")
    golden = json.loads((reference / "golden.json").read_text(encoding="utf-8"))
    words = "".join(each["text"] for each in golden["texts"])
    mixed = ["".join(random.choices(words, k=40)) for _ in range(200)]
    tokenizer = tokenizers_tokenizer(text)
    assert_same_ids(
        text, tokenizer, [*NATURAL, *(each["text"] for each in golden["texts"]), *mixed]
    )
