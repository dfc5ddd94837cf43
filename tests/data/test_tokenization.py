"""Documents and roles of samples."""

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


def decode_role(tokenizer: SampleTokenizer, document: TokenizedDocument, role: int) -> str:
    return tokenizer.prompts.tokenizer.decode(document.ids[document.roles == role].tolist())


def test_text_document(tokenizer: SampleTokenizer) -> None:
    v = tokenizer.prompts.tokenizer.vocabulary
    document = tokenizer.tokenize(Sample(text="a <|image start|>"))  # a name in a text is only text
    assert document.ids.tolist() == [v.bos, *b"a <|image start|>", v.eos]
    assert (document.roles == TEXT).all()


def test_image_with_caption(tokenizer: SampleTokenizer, image: ImageFile) -> None:
    codes = tokenizer.vision_processor.encode(image.open())
    document = tokenizer.tokenize(Sample(text="a fox", image=image))
    assert document.ids.tolist() == tokenizer.prompts.document("a fox", codes).tolist()
    assert document.roles.unique().tolist() == [TEXT, VISION]
    start = tokenizer.prompts.tokenizer.vocabulary.visual_start
    assert (document.ids[document.roles == VISION] - start).tolist() == codes.flatten().tolist()


def test_image_with_turns(tokenizer: SampleTokenizer, image: ImageFile) -> None:
    codes = tokenizer.vision_processor.encode(image.open())
    turns = (("What?", "A fox."), ("Big?", "No."))
    document = tokenizer.tokenize(Sample(image=image, turns=turns))
    ids, is_answer = tokenizer.prompts.chat_document(codes, turns)
    assert document.ids.tolist() == ids.tolist()
    assert ((document.roles == ANSWER) == is_answer).all()
    assert decode_role(tokenizer, document, ANSWER) == " A fox. No.<|extra_204|>"
    assert "What?" in decode_role(tokenizer, document, CONTEXT)
    assert int((document.roles == VISION).sum()) == codes.numel()
    assert not (document.roles == TEXT).any()


def test_errors_name_an_image_from_bytes(tokenizer: SampleTokenizer) -> None:
    with pytest.raises(InputError, match=r"a\.tar/7\.png: not an image"):
        tokenizer.tokenize(Sample(text="?", image=ImageFile(Path("a.tar/7.png"), b"no")))


def test_fingerprint_depends_on_the_vocabulary() -> None:
    assert text_tokenizer_fingerprint(byte_tokenizer()) == text_tokenizer_fingerprint(
        byte_tokenizer()
    )
    assert text_tokenizer_fingerprint(byte_tokenizer(63)) != text_tokenizer_fingerprint(
        byte_tokenizer(64)
    )
