"""Tokenizer, image processor and processor, against BAAI's ids and this library."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("transformers", reason='needs pip install "emu3[hf]"')

from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from emu3.config import PreprocessorConfig
from emu3.errors import InputError
from emu3.hf import Emu3Processor, Emu3Tokenizer, Emu3VisionVQImageProcessor
from emu3.processing.image import to_pixels
from emu3.processing.tokenizer import TextTokenizer


def load_processor(decoder: Path, vision: Path, **settings: Any) -> Emu3Processor:
    return Emu3Processor(
        AutoImageProcessor.from_pretrained(vision),
        AutoModel.from_pretrained(vision).eval(),
        AutoTokenizer.from_pretrained(decoder, padding_side="left", **settings),
    )


@pytest.fixture(scope="module")
def published(reference: Path) -> Emu3Processor:
    return load_processor(reference / "Emu3-Gen-tiny", reference / "Emu3-VisionTokenizer-tiny")


@pytest.fixture(scope="module")
def tiny_processor(tiny: Path) -> Emu3Processor:
    return load_processor(tiny, tiny / "vision_tokenizer")


def noise_image(height: int, width: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


# The tokenizer.


def test_tokenizer_equals_the_reference(
    published: Emu3Processor, golden_json: dict[str, Any]
) -> None:
    """The last text contains names of control tokens, which become these tokens."""
    tokenizer = published.tokenizer
    for case in golden_json["texts"]:
        assert tokenizer(case["text"]).input_ids == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]
        tokens = tokenizer.tokenize(case["text"])
        assert tokenizer.convert_tokens_to_ids(tokens) == case["ids"]
        assert tokenizer.convert_tokens_to_string(tokens) == case["decoded"]
    special = golden_json["texts"][-1]
    assert tokenizer.decode(special["ids"], skip_special_tokens=True) == "8*8"
    plain = tokenizer(special["text"], split_special_tokens=True).input_ids
    assert max(plain) < tokenizer.text.vocabulary.text_size
    assert tokenizer.decode(plain) == special["text"]


def test_tokenizer_is_found_without_tokenizer_config(tiny: Path, tmp_path: Path) -> None:
    """It is found by the model type in config.json."""
    for path in tiny.glob("*.*"):
        if path.name not in ("tokenizer_config.json", "model.safetensors"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path), Emu3Tokenizer)


@pytest.mark.parametrize("trusted", [None, True, False])
def test_no_remote_code_is_run(remote: Path, trusted: bool | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(remote, trust_remote_code=trusted)
    assert isinstance(tokenizer, Emu3Tokenizer)
    inside = remote / "vision_tokenizer"
    images = AutoImageProcessor.from_pretrained(inside, trust_remote_code=trusted)
    assert isinstance(images, Emu3VisionVQImageProcessor)


def test_tokenizer_interface(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    v = tokenizer.text.vocabulary
    assert len(tokenizer) == tokenizer.vocab_size == len(tokenizer.get_vocab()) == v.size
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (v.bos, v.eos)
    names = ["pad", "img", "boi", "eoi", "eol", "eof"]
    ids = tokenizer.convert_tokens_to_ids([getattr(tokenizer, f"{name}_token") for name in names])
    assert ids == [v.pad, v.sot, v.sov, v.eov, v.eol, v.eof]
    assert tokenizer.padding_side == "right"
    batch = tokenizer(["a cat", "no"], padding=True, return_tensors="pt")
    assert batch.keys() == {"input_ids", "attention_mask"}
    assert batch.input_ids.tolist() == [list(b"a cat"), [*b"no", v.pad, v.pad, v.pad]]
    assert tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True) == ["a cat", "no"]
    assert tokenizer.decode(97) == "a"
    assert pickle.loads(pickle.dumps(tokenizer)).encode("hi") == [104, 105]


def test_saved_tokenizer_round_trip(tiny: Path, tmp_path: Path) -> None:
    first = AutoTokenizer.from_pretrained(tiny, padding_side="left")
    first.save_pretrained(tmp_path)
    again = Emu3Tokenizer.from_pretrained(tmp_path)
    library = TextTokenizer.from_folder(tmp_path)
    text = "naïve <|extra_7|> 🐈"
    assert first.encode(text) == again.encode(text) == library.encode(text, allow_special=True)
    assert again.padding_side == "left"


def test_vocabulary_is_fixed(tiny: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    with pytest.raises(InputError, match="the vocabulary is fixed"):
        tokenizer.add_tokens(["new"])
    assert tokenizer.add_special_tokens({"unk_token": "<|extra_7|>"}) == 0
    assert tokenizer.convert_tokens_to_ids("nothing like it") is None
    with pytest.raises(InputError, match="img_token"):
        Emu3Tokenizer(
            str(tiny / "emu3.tiktoken"),
            str(tiny / "emu3_vision_tokens.txt"),
            img_token="<|extra_7|>",
        )
    with pytest.raises(InputError, match="filename_prefix"):
        tokenizer.save_pretrained(tmp_path, filename_prefix="x")


# The image processor.


def test_pixels_equal_the_reference(published: Emu3Processor, golden: dict[str, Tensor]) -> None:
    for index in range(2):
        image = Image.fromarray(golden[f"vq.rgb{index}"].numpy())
        pixels = published.image_processor(image, return_tensors="pt")["pixel_values"]
        assert torch.equal(pixels, golden[f"vq.pixels{index}"])


def test_preprocess_and_postprocess(tiny_processor: Emu3Processor) -> None:
    images = tiny_processor.image_processor
    pair = [noise_image(8, 12), noise_image(8, 12, 1)]
    batch = images(pair, return_tensors="pt")["pixel_values"]
    assert batch.shape == (2, 3, 8, 12)
    assert isinstance(images(pair)["pixel_values"], np.ndarray)
    assert np.array_equal(images(np.asarray(pair[0]))["pixel_values"][0], batch[0].numpy())
    for back in (images.postprocess(batch), images.postprocess(list(batch))):
        assert len(back["pixel_values"]) == 2
        for before, after in zip(pair, back["pixel_values"], strict=True):
            assert np.abs(np.asarray(before).astype(int) - np.asarray(after)).max() <= 1
    assert len(images.postprocess(batch[0])["pixel_values"]) == 1
    with pytest.raises(InputError, match="one by one"):
        images([noise_image(8, 12), noise_image(12, 8)])
    with pytest.raises(InputError, match="uint8"):
        images(np.zeros((8, 8, 3)))


def test_image_processor_settings_can_be_changed(tiny: Path, tmp_path: Path) -> None:
    images = AutoImageProcessor.from_pretrained(tiny / "vision_tokenizer")
    images.min_pixels = images.max_pixels = 256
    assert images(noise_image(64, 64))["pixel_values"].shape == (1, 3, 16, 16)
    images.save_pretrained(tmp_path)
    config = PreprocessorConfig.from_file(tmp_path / "preprocessor_config.json")
    assert (config.min_pixels, config.max_pixels) == (256, 256)
    assert to_pixels(noise_image(64, 64), config).shape == (3, 16, 16)
    images.do_normalize = False
    with pytest.raises(InputError, match="do_normalize"):
        images(noise_image(64, 64))


# The processor.


def test_prompts_equal_the_reference(
    published: Emu3Processor, golden: dict[str, Tensor], golden_json: dict[str, Any]
) -> None:
    images = [Image.fromarray(golden[f"vq.rgb{index}"].numpy()) for index in range(2)]
    for index, question in enumerate(golden_json["chat"]):
        inputs = published(question, images[index], mode="U", return_tensors="pt")
        assert torch.equal(inputs.input_ids, golden[f"chat{index}.input_ids"].long())
        h, w = golden[f"vq.codes{index}"][0].shape
        assert inputs.image_size.tolist() == [[h, w]]
    inputs = published(
        golden_json["chat"],
        images,
        mode="U",
        padding_image=True,
        padding="longest",
        return_tensors="pt",
    )
    assert torch.equal(inputs.input_ids, golden["chat.input_ids"].long())
    assert torch.equal(inputs.attention_mask, golden["chat.attention_mask"].long())


def test_return_tensors_and_padding(tiny_processor: Emu3Processor) -> None:
    inputs = tiny_processor(["a", "two cats"], ratio=["1:1", "2:1"], image_area=256)
    assert inputs["image_size"] == [[4, 4], [3, 6]]
    assert [row[0] for row in inputs["input_ids"]] == [tiny_processor.tokenizer.bos_token_id] * 2
    assert len(inputs["input_ids"][0]) < len(inputs["input_ids"][1])
    right = tiny_processor(
        ["a", "two cats"], padding=True, padding_side="right", return_tensors="pt"
    )
    assert right.attention_mask[:, 0].tolist() == [1, 1]
    assert right.attention_mask[0, -1] == 0


def test_split_special_tokens_makes_control_tokens_plain_text(tiny: Path) -> None:
    prompt = "<|image start|>"
    old, safe = (
        load_processor(tiny, tiny / "vision_tokenizer", split_special_tokens=plain)
        for plain in (False, True)
    )
    sov = old.tokenizer.text.vocabulary.sov
    assert old(prompt).input_ids[0].count(sov) == 2
    assert safe(prompt).input_ids[0].count(sov) == 1
    chat_ids = safe(prompt, noise_image(8, 8), mode="U").input_ids[0]
    assert chat_ids.count(sov) == 1


@pytest.mark.parametrize("kind", ["int", "list", "tensor"])
def test_prefix_constrained_fn_allows_only_images(tiny_processor: Emu3Processor, kind: str) -> None:
    """All ids of an image, then EOS and padding, in rows of different sizes."""
    document_format, sizes = tiny_processor.document_format, [(2, 3), (4, 1)]
    height, width = ([h for h, _ in sizes], [w for _, w in sizes])
    if kind == "tensor":
        allowed = tiny_processor.build_prefix_constrained_fn(
            torch.tensor(height), torch.tensor(width)
        )
    elif kind == "list":
        allowed = tiny_processor.build_prefix_constrained_fn(height, width)
    else:
        sizes = sizes[:1] * 2
        allowed = tiny_processor.build_prefix_constrained_fn(*sizes[0])
    v = tiny_processor.tokenizer.text.vocabulary
    for row, size in enumerate(sizes):
        ids = [v.pad, v.bos, 97, *document_format.header(*size)]
        for step in range(document_format.num_tokens(*size) + 4):
            low, high = document_format.allowed_range(*size, step)
            assert list(allowed(row, torch.tensor(ids))) == list(range(low, high))
            ids.append(low)
    with pytest.raises(InputError, match="no image start"):
        allowed(0, torch.tensor([v.bos, 97]))


def test_decode_splits_documents(tiny_processor: Emu3Processor) -> None:
    v, codes = tiny_processor.tokenizer.text.vocabulary, torch.randint(64, (3, 5))
    image_ids = tiny_processor.document_format.encode_image(codes)
    ids = torch.cat([torch.tensor([v.bos, 104, 105]), image_ids, torch.tensor([v.eos])])
    before, image, after = tiny_processor.decode(ids)
    assert (before, after) == ("<|extra_203|>hi", "<|extra_204|>")
    assert (image.size, image.mode) == ((20, 12), "RGB")
    assert tiny_processor.decode(ids.tolist())[0] == before
    assert isinstance(tiny_processor.decode(image_ids), Image.Image)
    assert tiny_processor.decode(ids, skip_special_tokens=True) == "hi3*5"
    assert tiny_processor.decode([104, 105]) == "hi"
    assert tiny_processor.decode([]) == ""
    two = tiny_processor.batch_decode(torch.stack([ids, ids]))
    assert [type(part) for part in two[1]] == [str, Image.Image, str]
    with pytest.raises(InputError, match="cut short"):
        tiny_processor.decode(ids[:-5])
    with pytest.raises(InputError, match=r"outputs\[0\]"):
        tiny_processor.decode(ids[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"mode": "X"}, "mode 'X'"),
        ({"image": noise_image(8, 8)}, "takes none"),
        ({"mode": "U"}, "requires an image"),
        ({"mode": "U", "image": [noise_image(8, 8)] * 2}, "1 texts but 2 images"),
        ({"ratio": ["1:1", "2:1"]}, "1 texts but 2 ratios"),
        ({"ratio": "one"}, "ratio 'one'"),
        ({"image_area": 0}, "area 0"),
    ],
)
def test_invalid_prompts_raise(
    tiny_processor: Emu3Processor, call: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tiny_processor("a cat", **call)


def test_extra_preprocessor_keys_are_ignored(tiny: Path, tmp_path: Path) -> None:
    """Older releases of transformers write keys without effect."""
    config = json.loads((tiny / "vision_tokenizer" / "preprocessor_config.json").read_text())
    config |= {"processor_class": "Emu3Processor", "auto_map": {}, "_processor_class": None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    images = AutoImageProcessor.from_pretrained(tmp_path)
    assert images(noise_image(8, 8))["pixel_values"].shape == (1, 3, 8, 8)
