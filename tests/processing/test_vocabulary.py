"""Token ids of control tokens and visual codes."""

from __future__ import annotations

import dataclasses

import pytest

from emu3.config import DecoderConfig
from emu3.errors import InputError
from emu3.processing.vocabulary import BASE_SPECIALS, EOV, SOT, SOV, Vocabulary, visual_token
from emu3.testing import byte_tokenizer, tiny_decoder


def codes(count: int) -> list[str]:
    return [visual_token(code) for code in range(count)]


def test_published_sizes_give_published_ids() -> None:
    """151,643 ranks and 32,768 codes give the token ids of the published config.json."""
    Vocabulary.build(151643, [SOT, SOV, EOV, *codes(32768)]).check(DecoderConfig())


def test_layout_of_token_ids() -> None:
    v = byte_tokenizer(codebook_size=10).vocabulary
    assert v.text_size == 256
    assert v.visual_start == 256 + len(BASE_SPECIALS) + 3
    assert (v.visual, v.codebook_size) == (slice(v.visual_start, v.visual_start + 10), 10)
    assert v.size == v.visual.stop
    control = [v.pad, v.eol, v.eof, v.bos, v.eos, v.sot, v.sov, v.eov]
    assert len(set(control)) == len(control)
    assert all(v.text_size <= token < v.visual_start for token in control)


def test_control_tokens_follow_file_order() -> None:
    one = Vocabulary.build(256, [SOT, SOV, EOV, *codes(4)])
    other = Vocabulary.build(256, ["<|more|>", EOV, SOV, SOT, *codes(4)])
    assert (other.eov, other.sov, other.sot) == (one.sot + 1, one.sov + 1, one.eov + 1)
    assert other.visual_start == one.visual_start + 1


@pytest.mark.parametrize("missing", [SOT, SOV, EOV, visual_token(0)])
def test_missing_token_is_named(missing: str) -> None:
    names = [name for name in (SOT, SOV, EOV, *codes(3)) if name != missing]
    with pytest.raises(InputError) as raised:
        Vocabulary.build(256, names)
    assert missing in str(raised.value)


@pytest.mark.parametrize(
    "visual",
    [
        [visual_token(0), visual_token(2)],
        [visual_token(0), "<|visual token 1|>"],
        [*codes(3), "<|after|>"],
    ],
)
def test_visual_tokens_must_be_last_and_in_order(visual: list[str]) -> None:
    with pytest.raises(InputError, match="last and in order"):
        Vocabulary.build(256, [SOT, SOV, EOV, *visual])


KEYS = ["vocab_size", *(f.name for f in dataclasses.fields(DecoderConfig) if "token_id" in f.name)]


def test_nine_keys_are_checked() -> None:
    assert len(KEYS) == 9


@pytest.mark.parametrize("key", KEYS)
def test_conflicting_config_key_is_named(key: str) -> None:
    config = tiny_decoder().config
    vocabulary = byte_tokenizer().vocabulary
    vocabulary.check(config)
    wrong = dataclasses.replace(config, **{key: getattr(config, key) + 1})
    with pytest.raises(InputError, match=key):
        vocabulary.check(wrong)
