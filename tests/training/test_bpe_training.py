"""Learning a text vocabulary: what is written for tiktoken says what the library learned."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from emu3.errors import MissingExtraError
from emu3.training.bpe_training import train_bpe
from recipes.nano.emoji_world import BACKGROUNDS, OBJECTS
from recipes.nano.emoji_world.objects import with_article

tokenizers = pytest.importorskip("tokenizers", reason="needs pip install emu3[train]")

ODD = [
    "",
    " ",
    "  two  spaces\n\n",
    "naïve café",
    "你好，世界",
    "🙂👩‍👩‍👧",
    "1234 5x",
    "DON'T don't",
    "\t\r\n",
]


def captions(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    names, grounds = list(OBJECTS), list(BACKGROUNDS)
    return [
        f"{with_article(names[rng.integers(len(names))])} on a "
        f"{grounds[rng.integers(len(grounds))]} background, noto style"
        for _ in range(count)
    ]


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The library's own tokenizers, as `train_text` makes them."""
    made: list[Any] = []
    original = tokenizers.Tokenizer

    def remember(model: Any) -> Any:
        made.append(original(model))
        return made[-1]

    monkeypatch.setattr(tokenizers, "Tokenizer", remember)
    return made


def test_our_ids_are_those_of_the_library(learned: list[Any]) -> None:
    """On captions seen and unseen, and on text that is nothing like them."""
    known = captions(1000)
    ours = train_bpe(known[:500], 600, 8)
    (theirs,) = learned
    texts = [
        *known,
        *ODD,
        *(text.upper() for text in known[:50]),
        *(text[3:] for text in known[:50]),
    ]
    assert sum(len(ours.encode(text)) for text in known) < 0.5 * sum(map(len, known))
    for text in texts:
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids
        assert ours.decode(ids) == text


def test_every_byte_has_a_rank_and_codes_follow() -> None:
    tokenizer = train_bpe(captions(50), 300, 8)
    assert {bytes([byte]) for byte in range(256)} <= set(tokenizer.ranks)
    assert sorted(tokenizer.ranks.values()) == list(range(300))
    assert tokenizer.vocabulary.text_size == 300
    assert tokenizer.vocabulary.codebook_size == 8


def test_the_same_texts_teach_the_same() -> None:
    first, second = (train_bpe(captions(100), 400, 8) for _ in range(2))
    assert first.ranks == second.ranks
    assert first.specials == second.specials


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"emu3\[train\]"):
        train_bpe(["a"], 300, 8)
