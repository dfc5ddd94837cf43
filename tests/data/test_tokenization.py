"""Documents are those of `emu3.processing.prompts`, and roles say what each id is."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from emu3.data.samples import ImageFile, Sample
from emu3.data.token_roles import ANSWER, CONTEXT, TEXT, VISION
from emu3.data.tokenization import SampleTokenizer, TokenizedDocument, text_tokenizer_fingerprint
from emu3.errors import InputError
from emu3.testing import byte_tokenizer


@pytest.fixture
def image() -> ImageFile:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((24, 16)).save(file, "png")
    return ImageFile(Path("a.png"), file.getvalue())


def told(writer: SampleTokenizer, document: TokenizedDocument, role: int) -> str:
    return writer.prompts.tokenizer.decode(document.ids[document.roles == role].tolist())


def test_text(writer: SampleTokenizer) -> None:
    v = writer.prompts.tokenizer.vocabulary
    document = writer.tokenize(Sample(text="a <|image start|>"))  # a name in a text is only text
    assert document.ids.tolist() == [v.bos, *b"a <|image start|>", v.eos]
    assert (document.roles == TEXT).all()


def test_a_picture_that_is_drawn(writer: SampleTokenizer, image: ImageFile) -> None:
    codes = writer.vision_processor.encode(image.open())
    document = writer.tokenize(Sample(text="a fox", image=image))
    assert document.ids.tolist() == writer.prompts.document("a fox", codes).tolist()
    assert document.roles.unique().tolist() == [TEXT, VISION]
    start = writer.prompts.tokenizer.vocabulary.visual_start
    assert (document.ids[document.roles == VISION] - start).tolist() == codes.flatten().tolist()


def test_a_picture_that_is_asked_about(writer: SampleTokenizer, image: ImageFile) -> None:
    codes = writer.vision_processor.encode(image.open())
    turns = (("What?", "A fox."), ("Big?", "No."))
    document = writer.tokenize(Sample(image=image, turns=turns))
    ids, answered = writer.prompts.chat_document(codes, turns)
    assert document.ids.tolist() == ids.tolist()
    assert ((document.roles == ANSWER) == answered).all()
    assert told(writer, document, ANSWER) == " A fox. No.<|extra_204|>"
    assert "What?" in told(writer, document, CONTEXT)
    assert int((document.roles == VISION).sum()) == codes.numel()
    assert not (document.roles == TEXT).any()


def test_a_picture_of_bytes_is_named_in_errors(writer: SampleTokenizer) -> None:
    with pytest.raises(InputError, match=r"a\.tar/7\.png: not an image"):
        writer.tokenize(Sample(text="?", image=ImageFile(Path("a.tar/7.png"), b"no")))


def test_facts_change_with_the_vocabulary() -> None:
    assert text_tokenizer_fingerprint(byte_tokenizer()) == text_tokenizer_fingerprint(
        byte_tokenizer()
    )
    assert text_tokenizer_fingerprint(byte_tokenizer(63)) != text_tokenizer_fingerprint(
        byte_tokenizer(64)
    )
