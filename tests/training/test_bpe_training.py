"""BPE training: the tiktoken vocabulary encodes like the tokenizers library."""

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
def created(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The library's tokenizers that `train_bpe` creates."""
    tokenizers_made: list[Any] = []
    original = tokenizers.Tokenizer

    def record(model: Any) -> Any:
        tokenizers_made.append(original(model))
        return tokenizers_made[-1]

    monkeypatch.setattr(tokenizers, "Tokenizer", record)
    return tokenizers_made


def test_token_ids_equal_the_library(created: list[Any]) -> None:
    """On training captions, other captions and unrelated text."""
    known = captions(1000)
    ours = train_bpe(known[:500], 600, 8)
    (theirs,) = created
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


def test_all_bytes_have_ranks_and_special_tokens_follow() -> None:
    tokenizer = train_bpe(captions(50), 300, 8)
    assert {bytes([byte]) for byte in range(256)} <= set(tokenizer.ranks)
    assert sorted(tokenizer.ranks.values()) == list(range(300))
    assert tokenizer.vocabulary.text_size == 300
    assert tokenizer.vocabulary.codebook_size == 8


def test_training_is_deterministic() -> None:
    first, second = (train_bpe(captions(100), 400, 8) for _ in range(2))
    assert first.ranks == second.ranks
    assert first.specials == second.specials


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"emu3\[train\]"):
        train_bpe(["a"], 300, 8)
