"""transformers' own layout: names, files, ids, against transformers and tokenizers themselves."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from emu3.config import DecoderConfig, PreprocessorConfig, VisionConfig
from emu3.errors import InputError
from emu3.layouts import hf
from emu3.layouts.hf_config import TEXT_KEYS, VISION_KEYS
from emu3.layouts.hf_names import OLD
from emu3.layouts.hf_text import alphabet, merges, spell, tokenizer_file
from emu3.testing import byte_tokenizer, tiny_decoder, tiny_vision
from emu3.text import TextTokenizer
from emu3.vocab import SOV

PREPROCESSOR = PreprocessorConfig(min_pixels=64, max_pixels=1024, spatial_factor=4)
DECODERS: list[dict[str, Any]] = [
    {},
    {"rope_theta": 1e4, "num_hidden_layers": 1, "attention_dropout": 0.0},
    {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 1, "rms_norm_eps": 1e-2},
]
VISIONS: list[dict[str, Any]] = [
    {},
    {"ch_mult": (1, 1, 2, 2), "attn_resolutions": (2, 3), "embed_dim": 6, "z_channels": 6},
    {"temporal_downsample_factor": 2, "attn_resolutions": (), "num_res_blocks": 2},
]


def trained_tokenizer(codebook_size: int = 64) -> TextTokenizer:
    """Byte pairs as training finds them: whatever is most frequent in some sentences, 200 times."""
    words = "the theatre thaws, three hundred 300 thirsty cats – naïve Ωmega, isn't it?\n  it's\t"
    pieces = [[bytes([b]) for b in word.encode()] for word in (words * 2).split(" ")]
    ranks = {bytes([byte]): byte for byte in range(256)}
    while len(ranks) < 456:
        pairs: dict[tuple[bytes, bytes], int] = {}
        for piece in pieces:
            for pair in pairwise(piece):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks.setdefault(left + right, len(ranks))
        for piece in pieces:
            for at in reversed(range(len(piece) - 1)):
                if piece[at : at + 2] == [left, right]:
                    piece[at : at + 2] = [left + right]
    return TextTokenizer(ranks, byte_tokenizer(codebook_size).specials)


def decoder_over(text: TextTokenizer) -> DecoderConfig:
    v = text.vocabulary
    ids = {
        "pad_token_id": v.pad, "bos_token_id": v.bos, "eos_token_id": v.eos, "img_token_id": v.sot,
        "boi_token_id": v.sov, "eoi_token_id": v.eov, "eol_token_id": v.eol, "eof_token_id": v.eof,
    }  # fmt: skip
    return DecoderConfig(vocab_size=v.size, **ids)


def write(folder: Path, text: TextTokenizer | None = None, **changes: Any) -> Path:
    """A folder without weights; `changes` are other configs than the toy ones."""
    text = text or byte_tokenizer()
    configs: dict[str, Any] = {
        "decoder": decoder_over(text),
        "vision": tiny_vision().config,
        "preprocessor": PREPROCESSOR,
    }
    hf.write_files(folder, text=text, dtype="float32", **{**configs, **changes})
    return folder


def edit(path: Path, section: str | None = None, **changes: Any) -> None:
    """Change keys of a JSON file, or of an object in it; None removes a key."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    part = whole if section is None else whole[section]
    part.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del part[key]
    path.write_text(json.dumps(whole), encoding="utf-8")


# Names.


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("text_model.model.norm.weight", "model.text_model.norm.weight"),
        ("text_model.lm_head.weight", "lm_head.weight"),
        ("vqmodel.quantize.embedding.weight", "model.vqmodel.quantize.embedding.weight"),
    ],
)
def test_old_names_are_brought_up_to_date(old: str, new: str) -> None:
    assert hf.canonical(old) == new
    assert hf.canonical(new) == new


def test_names_of_the_brief() -> None:
    q = "model.layers.0.self_attn.q_proj.weight"
    assert hf.decoder_name(q) == "model.text_model.layers.0.self_attn.q_proj.weight"
    assert hf.decoder_name("lm_head.weight") == "lm_head.weight"
    conv = "encoder.down.0.block.0.conv1.weight"
    assert hf.vision_name(conv) == f"model.vqmodel.{conv.replace('down.', 'down_block.down.')}"
    norm = "decoder.up.3.attn.2.norm.conv_y.bias"
    assert hf.vision_name(norm) == "model.vqmodel.decoder.up_block.up.3.attn_norms.2.conv_y.bias"


# Files.


@pytest.mark.parametrize("changes", DECODERS)
def test_a_decoder_config_comes_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny_decoder(**changes).config
    assert hf.decoder_config(write(tmp_path, decoder=config)) == config


@pytest.mark.parametrize("changes", VISIONS)
def test_a_vision_config_comes_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny_vision(**changes).config
    assert hf.vision_config(write(tmp_path, vision=config)) == config


def test_a_preprocessor_comes_back(tmp_path: Path) -> None:
    assert hf.preprocessor(write(tmp_path)) == PREPROCESSOR
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "other.json")
    inner = json.loads((tmp_path / "other.json").read_text())
    edit(tmp_path / "processor_config.json", image_processor=inner)  # as transformers 5 saves it
    assert hf.preprocessor(tmp_path) == PREPROCESSOR


def test_the_area_of_a_picture_is_transformers_default(tmp_path: Path) -> None:
    write(tmp_path, decoder=tiny_decoder(image_area=512 * 512).config)
    assert hf.decoder_config(tmp_path).image_area == 512 * 512
    edit(tmp_path / "tokenizer_config.json", image_area=None)
    assert hf.decoder_config(tmp_path).image_area == 518400


def test_older_configs_are_read(tmp_path: Path) -> None:
    """transformers 4 says the rotation with two keys, and much that nobody looks at."""
    config = tiny_decoder(rope_theta=1e5).config
    path = write(tmp_path, decoder=config) / "config.json"
    edit(path, "text_config", rope_parameters=None, rope_scaling={"rope_type": "default"})
    edit(path, "text_config", torch_dtype="bfloat16", _attn_implementation_autoset=True, top_k=50)
    edit(path, transformers_version="4.48.0", torch_dtype="bfloat16", return_dict=True)
    assert hf.decoder_config(tmp_path) == config


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("text_config", {"attention_bias": True}, "attention_bias"),
        ("text_config", {"head_dim": 5}, "head_dim"),
        ("text_config", {"sliding_window": 64}, "sliding_window"),
        ("text_config", {"rope_parameters": {"rope_type": "linear", "factor": 2}}, "rope_param"),
        ("text_config", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("text_config", {"eos_token_id": [1, 2]}, "eos_token_id"),
        ("text_config", {"hidden_act": "gelu"}, "hidden_act"),
        ("vq_config", {"num_attention_heads": 2}, "num_attention_heads"),
        ("vq_config", {"double_latent": True}, "double_z"),
        ("vq_config", {"hidden_size": None}, "hidden_size = 1024"),
        ("vq_config", {"commitment": 0.25}, "commitment"),
        ("vocabulary_map", {SOV: None}, SOV),
        (None, {"model_type": "chameleon"}, "chameleon"),
        (None, {"quantization_config": {}}, "quantization_config"),
        (None, {"text_config": 3}, "text_config"),
    ],
)
def test_what_would_be_ignored_is_refused(
    tmp_path: Path, section: str | None, changes: dict[str, Any], words: str
) -> None:
    path = write(tmp_path) / "config.json"
    edit(path, section, **changes)
    read = hf.vision_config if section == "vq_config" else hf.decoder_config
    with pytest.raises(InputError) as raised:
        read(tmp_path)
    assert words in str(raised.value)
    assert str(path) in str(raised.value)


def test_means_are_not_guessed(tmp_path: Path) -> None:
    edit(write(tmp_path) / "preprocessor_config.json", image_mean=None)
    with pytest.raises(InputError, match="image_mean"):
        hf.preprocessor(tmp_path)


@pytest.mark.parametrize(
    "config", [VisionConfig(attn_resolutions=(0,)), VisionConfig(dropout=0.1), VisionConfig()]
)
def test_what_transformers_cannot_be_is_not_written(tmp_path: Path, config: VisionConfig) -> None:
    """The last one has another codebook than the toy vocabulary."""
    size = config.codebook_size if config == VisionConfig() else 64
    with pytest.raises(InputError):
        write(tmp_path, vision=VisionConfig(**{**config.to_dict(), "codebook_size": size}))


def test_another_vocabulary_than_the_decoders_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vocab_size"):
        write(tmp_path, trained_tokenizer(), decoder=tiny_decoder().config)


# Text.


@pytest.mark.parametrize("text", [byte_tokenizer(), trained_tokenizer()], ids=["bytes", "pairs"])
def test_a_tokenizer_comes_back(tmp_path: Path, text: TextTokenizer) -> None:
    read = hf.text(write(tmp_path, text))
    assert (read.ranks, read.specials) == (text.ranks, text.specials)
    assert read.vocabulary == text.vocabulary


def test_bytes_are_spelled_as_gpt2_spells_them() -> None:
    assert len(set(alphabet().values())) == 256
    assert spell(b" a\n\xc2\xad") == "ĠaĊÂŃ"


def test_each_pair_makes_its_token() -> None:
    ranks = trained_tokenizer().ranks
    made = merges(ranks)
    assert [left + right for left, right in made] == sorted(
        (token for token in ranks if len(token) > 1), key=ranks.__getitem__
    )
    assert all(max(ranks[a], ranks[b]) < ranks[a + b] for a, b in made)


def test_a_token_that_no_pair_makes_has_no_merge() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"abc": 256, b"xy": 257}
    assert merges(ranks) == [(b"x", b"y")]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"model": {}}, "byte pairs"),
        ({"model": {"vocab": {"a": 0, "b": 2}}, "added_tokens": []}, "without gaps"),
        ({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []}, "endoftext"),
        ({"model": {"vocab": {"<|endoftext|>": 0}}, "added_tokens": []}, "in order"),
    ],
)
def test_broken_vocabularies_are_refused(
    tmp_path: Path, broken: dict[str, Any], message: str
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(broken))
    with pytest.raises(InputError, match=message) as raised:
        hf.text(tmp_path)
    assert "tokenizer.json" in str(raised.value)


NATURAL = (
    "A cat's nap,  12 345 hours\r\n\r\n long.  ",
    "IT'S they'LL o'ſ DON'T",
    "naïve e\u0301te\u0301 Ωmega Ω 数字 12345 ελληνικά 🐈‍⬛ \u200b\ufeff end",
    "def f(x):\n\treturn x**2   # why?\n\n\n",
    "the theatre thaws the thirsty three hundred",
    "",
)


def agree(text: TextTokenizer, theirs: Any, samples: Iterable[str]) -> None:
    for sample in samples:
        ids = text.encode(sample, allow_special=True)
        assert theirs.encode(sample).ids == ids, sample
        assert theirs.decode(ids, skip_special_tokens=False) == text.decode(ids), sample


def their_tokenizer(text: TextTokenizer) -> Any:
    tokenizers = pytest.importorskip("tokenizers", reason="needs pip install emu3[train]")
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer_file(text)))


@cache
def pairs() -> tuple[TextTokenizer, Any]:
    """A tokenizer of ours with merges, and what `tokenizers` makes of its file."""
    text = trained_tokenizer()
    return text, their_tokenizer(text)


@settings(max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs", "Cn"])),
            st.sampled_from(["the", " th", "'s", "\n ", "  ", "300", SOV, "<|extra_7|>", "\u0338"]),
        )
    )
)
def test_ids_are_ours_for_any_text(parts: list[str]) -> None:
    sample = "".join(parts)
    if "<image>" not in sample and "<|extra_0|>" not in sample:
        agree(*pairs(), [sample])


def test_ids_are_ours_for_natural_texts() -> None:
    agree(*pairs(), NATURAL)


@pytest.mark.slow
def test_ids_are_ours_in_the_published_vocabulary(reference: Path) -> None:
    text = TextTokenizer.from_folder(reference / "Emu3-Gen-tiny")
    golden = json.loads((reference / "golden.json").read_text(encoding="utf-8"))
    words = "".join(each["text"] for each in golden["texts"])
    mixed = ["".join(random.choices(words, k=40)) for _ in range(200)]
    theirs = their_tokenizer(text)
    agree(text, theirs, [*NATURAL, *(each["text"] for each in golden["texts"]), *mixed])


# transformers itself.


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="needs pip install emu3[reference]")


def whole(folder: Path, seed: int = 0, **changes: Any) -> tuple[Any, Any]:
    """A folder of transformers with weights; our decoder and vision tokenizer, which it holds."""
    decoder, vision = tiny_decoder(seed, **changes), tiny_vision(seed, attn_resolutions=(1, 2))
    for name, tensor in vision.state_dict().items():
        if tensor.is_floating_point() and ("running" in name or "norm" in name):
            tensor.uniform_(0.5, 1.5)
    write(folder, decoder=decoder.config, vision=vision.config)
    state = {hf.decoder_name(name): tensor for name, tensor in decoder.state_dict().items()}
    for name, tensor in vision.state_dict().items():
        there = hf.shape(name, tuple(tensor.shape))
        state[hf.vision_name(name)] = tensor.reshape(there)
    state = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return decoder, vision


def opened(transformers: Any, folder: Path) -> Any:
    model, said = transformers.Emu3ForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    assert not said["mismatched_keys"]
    return model.eval()


@torch.no_grad()
def same_numbers(decoder: Any, vision: Any, theirs: Any) -> None:
    ids = torch.randint(decoder.config.vocab_size, (2, 30))
    torch.testing.assert_close(decoder(ids), theirs(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    pixels = torch.rand(2, 3, 12, 20) * 2 - 1
    codes = vision.encode(pixels)
    encoded = theirs.model.vqmodel.encode(pixels, torch.tensor([[12, 20]] * 2)).image_tokens
    assert torch.equal(codes, torch.stack(list(encoded)))
    assert len(codes.unique()) > 3
    decoded = theirs.model.vqmodel.decode(codes)
    torch.testing.assert_close(vision.decode(codes), decoded, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", DECODERS)
def test_names_are_exactly_theirs(
    transformers: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    decoder, vision = whole(tmp_path, **changes)
    with torch.device("meta"):
        config = transformers.AutoConfig.from_pretrained(tmp_path, local_files_only=True)
        wanted = transformers.Emu3ForConditionalGeneration(config).state_dict()
    names = [*map(hf.decoder_name, decoder.state_dict())]
    names += map(hf.vision_name, vision.state_dict())
    assert sorted(names) == sorted(wanted)
    assert [hf.canonical(name) for name in wanted] == list(wanted)


@pytest.mark.parametrize("changes", DECODERS)
def test_a_folder_of_ours_is_opened_by_theirs(
    transformers: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    decoder, vision = whole(tmp_path, **changes)
    same_numbers(decoder, vision, opened(transformers, tmp_path))


def test_old_names_are_those_that_transformers_renames(transformers: Any, tmp_path: Path) -> None:
    """Saved as the older repositories are, the folder is still opened by transformers."""
    decoder, vision = whole(tmp_path)
    old = {new: before for before, new in OLD}
    tensors = opened(transformers, tmp_path).state_dict()
    renamed = {}
    for name, tensor in tensors.items():
        prefix = next(prefix for prefix in old if name.startswith(prefix))
        before = old[prefix] + name.removeprefix(prefix)
        assert hf.canonical(before) == name
        renamed[before] = tensor.contiguous()
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    same_numbers(decoder, vision, opened(transformers, tmp_path))


def test_what_transformers_saves_is_read(transformers: Any, tmp_path: Path) -> None:
    whole(tmp_path, image_area=512 * 512, rope_theta=1e4)
    again = tmp_path / "again"
    opened(transformers, tmp_path).save_pretrained(again)
    transformers.AutoProcessor.from_pretrained(tmp_path, local_files_only=True).save_pretrained(
        again
    )
    assert hf.decoder_config(again) == hf.decoder_config(tmp_path)
    assert hf.vision_config(again) == hf.vision_config(tmp_path)
    before, after = hf.preprocessor(tmp_path).to_dict(), hf.preprocessor(again).to_dict()
    assert {**after, "size": None} == {**before, "size": None}
    text = hf.text(again)
    assert (text.ranks, text.specials) == (byte_tokenizer().ranks, byte_tokenizer().specials)


def test_their_processor_prompts_as_ours_ids_say(transformers: Any, tmp_path: Path) -> None:
    whole(tmp_path, image_area=24 * 40)
    processor = transformers.Emu3Processor.from_pretrained(tmp_path, local_files_only=True)
    text, v = byte_tokenizer(), byte_tokenizer().vocabulary
    said = processor(text=["a cat"], return_for_image_generation=True, ratio="5:3")
    expected = [v.bos, *text.encode("a cat"), v.sov, *b"3*5", v.sot]
    assert said["input_ids"][0] == expected
    for loaded in (
        processor.tokenizer,
        transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True),
    ):
        for sample in NATURAL:
            assert loaded(sample)["input_ids"] == text.encode(sample)
        named = [loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id]
        assert named == [v.bos, v.eos, v.pad]
        assert loaded.padding_side == "left"


def test_their_chats_read_as_in_published_folders(transformers: Any, tmp_path: Path) -> None:
    whole(tmp_path)
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
    said = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert said == "You help. USER: <image>What is this? ASSISTANT: A cat. USER: Sure? ASSISTANT:"


def test_defaults_are_theirs(transformers: Any) -> None:
    """An absent key means transformers' default, so ours must be the same."""
    theirs, ours = transformers.Emu3TextConfig(), DecoderConfig()
    assert {k: getattr(theirs, k) for k in TEXT_KEYS} == {k: getattr(ours, k) for k in TEXT_KEYS}
    assert theirs.rope_parameters["rope_theta"] == ours.rope_theta
    vision, mine = transformers.Emu3VQVAEConfig(), VisionConfig().to_dict()
    for key, name in VISION_KEYS.items():
        value = getattr(vision, key)
        assert (list(value) if isinstance(value, tuple) else value) == mine[name]
