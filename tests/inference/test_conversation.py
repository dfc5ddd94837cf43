"""A conversation reads nothing twice, and answers as if it had read everything at once."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from emu3.errors import InputError
from emu3.inference.conversation import Conversation
from emu3.inference.reference import generate_text
from emu3.inference.sampling import SamplingParams
from emu3.models.transformer import Transformer
from emu3.testing import tiny_checkpoint

CHECKPOINT = tiny_checkpoint()
PROMPTS, V = CHECKPOINT.prompts, CHECKPOINT.text_tokenizer.vocabulary
IMAGE = Image.effect_noise((16, 16), 80).convert("RGB")
TURNS: list[tuple[str, list[Image.Image]]] = [
    ("what?", [IMAGE]),
    ("and why", []),
    ("b", [IMAGE]),
]


def uncached(new: int) -> list[str]:
    """The same turns, each asked anew with everything before it."""
    ids: list[int] = []
    answers = []
    for text, images in TURNS:
        codes = [CHECKPOINT.vision_processor.encode(image) for image in images]
        ids += PROMPTS.turn(text, codes) if ids else PROMPTS.chat(text, codes)
        out = generate_text(
            CHECKPOINT.decoder, [ids], V.eos, V.pad, new, SamplingParams(top_k=1), [0]
        )
        answer = [i for i in out[0].tolist() if i != V.eos]
        ids += answer
        answers.append(CHECKPOINT.text_tokenizer.decode(answer, skip_special=True).strip())
    return answers


@pytest.mark.parametrize("new", [1, 6])
def test_cached_equals_uncached(new: int) -> None:
    conversation = Conversation(CHECKPOINT)
    assert [conversation.say(t, images, max_new_tokens=new) for t, images in TURNS] == uncached(new)


def test_no_token_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = Transformer.forward_hidden

    def counted(self: Transformer, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        read.append(ids.numel())
        return plain(self, ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Transformer, "forward_hidden", counted)
    conversation = Conversation(CHECKPOINT)
    for text, images in TURNS:
        conversation.say(text, images, max_new_tokens=4)
    assert sum(read) == conversation.num_tokens - 1


def test_a_full_context_is_refused_and_the_conversation_continues() -> None:
    conversation = Conversation(CHECKPOINT)
    first = conversation.say("hi", max_new_tokens=3)
    length = conversation.num_tokens
    with pytest.raises(InputError, match="context of 512"):
        conversation.say("why? " * 200)
    assert conversation.num_tokens == length
    again = Conversation(CHECKPOINT)
    assert again.say("hi", max_new_tokens=3) == first
    assert again.say("and?", max_new_tokens=3) == conversation.say("and?", max_new_tokens=3)


def test_an_interrupted_answer_leaves_no_trace() -> None:
    conversation, undisturbed = Conversation(CHECKPOINT), Conversation(CHECKPOINT)
    for each in (conversation, undisturbed):
        each.say("hi", max_new_tokens=3)

    def stop(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.say("never", on_text=stop)
    assert conversation.say("and?", max_new_tokens=5) == undisturbed.say("and?", max_new_tokens=5)


def test_a_training_document_equals_a_conversation() -> None:
    turns = [("what?", "a b"), ("and why", "c"), ("b", "ab ba")]
    codes = CHECKPOINT.vision_processor.encode(IMAGE)
    ids, answered = PROMPTS.chat_document(codes, turns)
    pieces = [PROMPTS.chat("what?", [codes]), PROMPTS.turn("and why", []), PROMPTS.turn("b", [])]
    answers = [CHECKPOINT.text_tokenizer.encode(" " + answer) for _, answer in turns]
    whole = [i for pair in zip(pieces, answers, strict=True) for part in pair for i in part]
    assert ids.tolist() == [*whole, V.eos]
    assert ids[answered].tolist() == [*(i for answer in answers for i in answer), V.eos]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_new_tokens": 0}, "at least 1"),
        ({"seed": -1}, "must lie in"),
        ({"top_k": -1}, "top_k"),
    ],
)
def test_invalid_parameters_are_refused(settings: dict[str, int], says: str) -> None:
    conversation = Conversation(CHECKPOINT)
    with pytest.raises(InputError, match=says):
        conversation.say("What?", **settings)  # type: ignore[arg-type]
    assert conversation.num_tokens == 0
