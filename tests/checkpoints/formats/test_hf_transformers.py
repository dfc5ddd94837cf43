"""The transformers format against transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from emu3.checkpoints.formats import hf
from emu3.checkpoints.formats.hf import OLD_PREFIXES
from emu3.checkpoints.formats.hf_config import TEXT_KEYS, VISION_KEYS
from emu3.config import DecoderConfig, VisionConfig
from emu3.testing import byte_tokenizer, tiny_decoder, tiny_vision

from .tiny_hf import DECODERS, NATURAL, write


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="needs pip install emu3[reference]")


def write_checkpoint(folder: Path, seed: int = 0, **changes: Any) -> tuple[Any, Any]:
    """Write a folder in the transformers format; returns its decoder and vision tokenizer."""
    decoder, vision = tiny_decoder(seed, **changes), tiny_vision(seed, attn_resolutions=(1, 2))
    for name, tensor in vision.state_dict().items():
        if tensor.is_floating_point() and ("running" in name or "norm" in name):
            tensor.uniform_(0.5, 1.5)
    write(folder, decoder=decoder.config, vision=vision.config)
    state = {hf.decoder_name(name): tensor for name, tensor in decoder.state_dict().items()}
    for name, tensor in vision.state_dict().items():
        there = hf.stored_shape(name, tuple(tensor.shape))
        state[hf.vision_name(name)] = tensor.reshape(there)
    state = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return decoder, vision


def load_with_transformers(transformers: Any, folder: Path) -> Any:
    model, info = transformers.Emu3ForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


@torch.no_grad()
def assert_same_outputs(decoder: Any, vision: Any, transformers_model: Any) -> None:
    ids = torch.randint(decoder.config.vocab_size, (2, 30))
    torch.testing.assert_close(
        decoder(ids), transformers_model(input_ids=ids).logits, atol=1e-5, rtol=1e-5
    )
    pixels = torch.rand(2, 3, 12, 20) * 2 - 1
    codes = vision.encode(pixels)
    encoded = transformers_model.model.vqmodel.encode(
        pixels, torch.tensor([[12, 20]] * 2)
    ).image_tokens
    assert torch.equal(codes, torch.stack(list(encoded)))
    assert len(codes.unique()) > 3
    decoded = transformers_model.model.vqmodel.decode(codes)
    torch.testing.assert_close(vision.decode(codes), decoded, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", DECODERS)
def test_tensor_names_are_those_of_transformers(
    transformers: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    decoder, vision = write_checkpoint(tmp_path, **changes)
    with torch.device("meta"):
        config = transformers.AutoConfig.from_pretrained(tmp_path, local_files_only=True)
        wanted = transformers.Emu3ForConditionalGeneration(config).state_dict()
    names = [*map(hf.decoder_name, decoder.state_dict())]
    names += map(hf.vision_name, vision.state_dict())
    assert sorted(names) == sorted(wanted)
    assert [hf.canonical_name(name) for name in wanted] == list(wanted)


@pytest.mark.parametrize("changes", DECODERS)
def test_transformers_loads_our_folder(
    transformers: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    decoder, vision = write_checkpoint(tmp_path, **changes)
    assert_same_outputs(decoder, vision, load_with_transformers(transformers, tmp_path))


def test_transformers_loads_old_names(transformers: Any, tmp_path: Path) -> None:
    """transformers renames the tensors of older repositories as `canonical_name` does."""
    decoder, vision = write_checkpoint(tmp_path)
    old = {new: before for before, new in OLD_PREFIXES}
    tensors = load_with_transformers(transformers, tmp_path).state_dict()
    renamed = {}
    for name, tensor in tensors.items():
        prefix = next(prefix for prefix in old if name.startswith(prefix))
        before = old[prefix] + name.removeprefix(prefix)
        assert hf.canonical_name(before) == name
        renamed[before] = tensor.contiguous()
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_same_outputs(decoder, vision, load_with_transformers(transformers, tmp_path))


def test_folder_saved_by_transformers_is_read(transformers: Any, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, image_area=512 * 512, rope_theta=1e4)
    again = tmp_path / "again"
    load_with_transformers(transformers, tmp_path).save_pretrained(again)
    transformers.AutoProcessor.from_pretrained(tmp_path, local_files_only=True).save_pretrained(
        again
    )
    assert hf.decoder_config(again) == hf.decoder_config(tmp_path)
    assert hf.vision_config(again) == hf.vision_config(tmp_path)
    before, after = hf.preprocessor(tmp_path).to_dict(), hf.preprocessor(again).to_dict()
    assert {**after, "size": None} == {**before, "size": None}
    text = hf.text_tokenizer(again)
    assert (text.ranks, text.specials) == (byte_tokenizer().ranks, byte_tokenizer().specials)


def test_processor_gives_our_prompt_ids(transformers: Any, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, image_area=24 * 40)
    processor = transformers.Emu3Processor.from_pretrained(tmp_path, local_files_only=True)
    text, v = byte_tokenizer(), byte_tokenizer().vocabulary
    inputs = processor(text=["a cat"], return_for_image_generation=True, ratio="5:3")
    expected = [v.bos, *text.encode("a cat"), v.sov, *b"3*5", v.sot]
    assert inputs["input_ids"][0] == expected
    for loaded in (
        processor.tokenizer,
        transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True),
    ):
        for sample in NATURAL:
            assert loaded(sample)["input_ids"] == text.encode(sample)
        named = [loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id]
        assert named == [v.bos, v.eos, v.pad]
        assert loaded.padding_side == "left"


def test_chat_template_matches_published_folders(transformers: Any, tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path, local_files_only=True)

    def message(role: str, *parts: str) -> dict[str, Any]:
        content = [
            {"type": "image"} if part == "image" else {"type": "text", "text": part}
            for part in parts
        ]
        return {"role": role, "content": content}

    messages = [
        message("system", "You help."),
        message("user", "What is this?", "image"),
        message("assistant", "A cat."),
        message("user", "Sure?"),
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == "You help. USER: <image>What is this? ASSISTANT: A cat. USER: Sure? ASSISTANT:"


def test_defaults_are_those_of_transformers(transformers: Any) -> None:
    """An absent key means transformers' default, so both defaults must be equal."""
    expected, config = transformers.Emu3TextConfig(), DecoderConfig()
    assert {k: getattr(expected, k) for k in TEXT_KEYS} == {
        k: getattr(config, k) for k in TEXT_KEYS
    }
    assert expected.rope_parameters["rope_theta"] == config.rope_theta
    vision, mine = transformers.Emu3VQVAEConfig(), VisionConfig().to_dict()
    for key, name in VISION_KEYS.items():
        value = getattr(vision, key)
        assert (list(value) if isinstance(value, tuple) else value) == mine[name]
