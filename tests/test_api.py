"""The Python API: images and answers, alone and in a batch, saved and loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from emu3 import Emu3, InputError
from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.testing import tiny_checkpoint

MODEL = Emu3(tiny_checkpoint())
PROMPTS = ["a cat", "two dogs and a house", ""]
RATIOS = ["1:1", "2:1", "1:3"]


def equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


def photo(height: int = 16, width: int = 24, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


def test_image_size_is_as_requested() -> None:
    out = MODEL.image("a cat", ratio="4:1", area=16 * 64)
    assert out.codes[0].shape == (4, 16)
    assert out.images[0].size == (64, 16)
    assert MODEL.image("a cat").codes[0].shape == (4, 4)  # the config's image_area


def test_image_is_decoded_codes() -> None:
    out = MODEL.image("a cat")
    decoded = MODEL.decode(out.codes[0])
    assert isinstance(decoded, Image.Image)
    assert decoded.tobytes() == out.images[0].tobytes()


def test_batched_images_equal_single_ones() -> None:
    """Of different lengths and shapes, each with its own seed."""
    together = MODEL.image(PROMPTS, ratio=RATIOS, seed=5)
    assert len({tuple(codes.shape) for codes in together.codes}) == 3
    for index, (prompt, ratio) in enumerate(zip(PROMPTS, RATIOS, strict=True)):
        alone = MODEL.image(prompt, ratio=ratio, seed=5 + index)
        assert equal(alone.codes, [together.codes[index]])
        assert alone.settings == [together.settings[index]]
        # The same codes; pixels are convolved in one batch or another, and so may round otherwise.
        assert alone.images[0].size == together.images[index].size


def test_scarce_memory_serialises_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together, calls = MODEL.image(PROMPTS, ratio=RATIOS, seed=5), list[list[int]]()

    def on_row(done: int, total: int, rows: Sequence[Tensor]) -> None:
        calls.append([len(each) for each in rows])

    monkeypatch.setattr("emu3.models.memory.max_kv_cache_tokens", lambda model: 1)
    alone = MODEL.image(PROMPTS, ratio=RATIOS, seed=5, on_row=on_row)
    assert equal(alone.codes, together.codes)
    heights = [len(each) for each in alone.codes]
    assert all(heights[0] == rows[0] or rows[1:] == [0, 0] for rows in calls)
    assert calls[-1] == heights


def test_num_images_use_consecutive_seeds() -> None:
    out = MODEL.image(PROMPTS[:2], num_images=3, seed=10)
    assert [(s.prompt, s.seed) for s in out.settings] == [
        (prompt, 10 + index * 3 + number)
        for index, prompt in enumerate(PROMPTS[:2])
        for number in range(3)
    ]
    assert equal(MODEL.image(PROMPTS[1], seed=14).codes, [out.codes[4]])
    assert not torch.equal(out.codes[0], out.codes[1])


def test_every_setting_has_an_effect() -> None:
    plain = MODEL.image("a cat").codes
    assert equal(MODEL.image("a cat").codes, plain)
    changes = [
        {"seed": 1},
        {"suffix": " in oil"},
        {"negative_prompt": "a dog"},
        {"guidance_scale": 9.0},
        {"top_k": 2},
        {"top_p": 0.1},
        {"temperature": 0.2},
    ]
    for change in changes:
        out = MODEL.image("a cat", **change)  # type: ignore[arg-type]
        assert not equal(out.codes, plain), change
        (key, value), settings = next(iter(change.items())), asdict(out.settings[0])
        assert settings[key] == value


def test_settings_reproduce_the_image() -> None:
    out = MODEL.image("a cat", ratio="2:1", top_k=20, temperature=1.5, num_images=2, seed=3)
    settings = asdict(out.settings[1])
    assert (settings.pop("model"), settings.pop("dtype")) == ("tiny", "fp32")
    assert equal(MODEL.image(**settings).codes, [out.codes[1]])


def test_generation_defaults_apply() -> None:
    defaults = GenerationDefaults(suffix=" best", negative_prompt="bad")
    model = Emu3(replace(MODEL.checkpoint, defaults=defaults))
    out = model.image("a cat")
    assert (out.settings[0].suffix, out.settings[0].negative_prompt) == (" best", "bad")
    assert equal(out.codes, MODEL.image("a cat", suffix=" best", negative_prompt="bad").codes)


def test_arguments_override_generation_defaults() -> None:
    defaults = GenerationDefaults(
        suffix="", negative_prompt="", guidance_scale=1.5, top_k=7, temperature=0.5
    )
    model = Emu3(replace(MODEL.checkpoint, defaults=defaults))
    out = model.image("a cat")
    assert asdict(out.settings[0]).items() >= {"guidance_scale": 1.5, "top_k": 7}.items()
    same = MODEL.image("a cat", guidance_scale=1.5, top_k=7, temperature=0.5)
    assert equal(out.codes, same.codes)
    plain = {"guidance_scale": 3.0, "top_k": 2048, "temperature": 1.0}
    assert equal(model.image("a cat", **plain).codes, MODEL.image("a cat").codes)


def test_greedy_needs_no_seed() -> None:
    out = MODEL.image("a cat", top_k=1, num_images=2)
    assert torch.equal(out.codes[0], out.codes[1])


def test_names_of_control_tokens_are_text_unless_allowed() -> None:
    """With them let through, the prompt is another one."""
    prompt = "<|extra_7|><|extra_8|>"
    typed, meant = (MODEL.image(prompt, allow_special=allow).codes for allow in (False, True))
    assert not equal(typed, meant)


def test_on_row_reports_finished_rows() -> None:
    calls: list[tuple[int, int, list[Tensor]]] = []
    out = MODEL.image(
        PROMPTS, ratio=RATIOS, on_row=lambda done, of, codes: calls.append((done, of, list(codes)))
    )
    rows = sum(len(codes) for codes in out.codes)
    assert {of for _, of, _ in calls} == {rows}
    assert [done for done, _, _ in calls] == sorted({done for done, _, _ in calls})
    for done, _, so_far in calls:
        assert done == sum(map(len, so_far))
        assert equal(
            so_far, [whole[: len(part)] for part, whole in zip(so_far, out.codes, strict=True)]
        )
    assert equal(calls[-1][2], out.codes)
    assert len(calls) >= max(len(codes) for codes in out.codes)  # often enough to watch


@pytest.mark.parametrize("name", ["a.png", "b.jpg", "c.jpeg", "d.webp", "E.PNG"])
def test_a_saved_image_stores_its_settings(tmp_path: Path, name: str) -> None:
    out = MODEL.image(["a cat", "ein Kätzchen 🐈"], seed=4)
    path = out.save(tmp_path / name, index=1)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with Image.open(path) as saved:
        note = saved.info["emu3"] if path.suffix.lower() == ".png" else saved.getexif()[0x010E]
        if path.suffix.lower() == ".png":
            assert saved.tobytes() == out.images[1].tobytes()
    settings = json.loads(note)
    assert settings == asdict(out.settings[1])
    assert settings["prompt"] == "ein Kätzchen 🐈"


def test_invalid_paths_are_refused(tmp_path: Path) -> None:
    out = MODEL.image("a cat")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "a.txt", tmp_path / "no" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(InputError, match=str(path.parent)):
            out.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]


BAD: list[tuple[dict[str, object], str]] = [
    ({"prompt": []}, "no prompt"),
    ({"ratio": ["1:1", "1:1"]}, "1 prompts but 2 ratios"),
    ({"ratio": []}, "1 prompts but 0 ratios"),
    ({"ratio": "9:1"}, "ratio '9:1'"),
    ({"area": 0}, "area 0"),
    ({"area": 16 * 1000}, "exceed the context of 512"),
    ({"prompt": "x" * 600}, "exceed the context of 512"),
    ({"negative_prompt": "x" * 600}, "exceed the context of 512"),
    ({"num_images": 0}, "num_images = 0"),
    ({"seed": -1}, "seed = -1"),
    ({"seed": 2**63 - 1, "num_images": 2}, "seed = "),
    ({"guidance_scale": -1.0}, "guidance_scale"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
    ({"guidance_scale": float("inf")}, "guidance_scale"),
    ({"top_k": -1}, "top_k"),
    ({"top_p": 0.0}, "top_p"),
    ({"temperature": 0.0}, "temperature"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_invalid_image_arguments_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MODEL.image(**{"prompt": "a cat", **change})  # type: ignore[arg-type]


def test_the_context_is_used_up_to_its_last_token() -> None:
    """Prompt and image up to the last place of the context, which is computed exactly."""
    header = len("4*4") + 2
    body = 4 * 5 + 2
    longest = 512 - body - header - 1
    assert MODEL.image("x" * longest, top_k=1).codes[0].shape == (4, 4)
    with pytest.raises(InputError, match="exceed the context"):
        MODEL.image("x" * (longest + 1))


# Understanding.

QUESTIONS = ["What is it?", "Describe the image, please", "Hi"]
IMAGE_GROUPS: list[Image.Image | list[Image.Image]] = [
    photo(),
    [photo(8, 8, 1), photo(12, 8, 2)],
    [],
]


@pytest.mark.parametrize("top_k", [1, 50])
def test_batched_answers_equal_single_ones(top_k: int) -> None:
    together = MODEL.chat_batch(QUESTIONS, IMAGE_GROUPS, max_new_tokens=20, top_k=top_k, seed=2)
    alone = [
        MODEL.chat(
            question,
            group if isinstance(group, list) else [group],
            max_new_tokens=20,
            top_k=top_k,
            seed=2 + index,
        )
        for index, (question, group) in enumerate(zip(QUESTIONS, IMAGE_GROUPS, strict=True))
    ]
    assert together == alone
    assert len(set(alone)) == 3


def test_an_answer_depends_on_the_image() -> None:
    answers = {
        MODEL.chat("What is it?", [photo(seed=n)], max_new_tokens=12, top_k=0) for n in range(4)
    }
    assert len(answers) > 1


def test_on_text_follows_the_answer() -> None:
    calls: list[str] = []
    answer = MODEL.chat("Hi", max_new_tokens=15, on_text=calls.append)
    assert len(calls) == 15
    assert calls[-1] == answer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"text": "x" * 600}, "exceed the context of 512"),
        ({"top_p": 2.0}, "top_p"),
        ({"images": [photo(4, 24)]}, "5 times"),
        ({"images": [photo(2, 3)]}, "both sides"),
    ],
)
def test_invalid_chat_arguments_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MODEL.chat(**{"text": "What is it?", **change})  # type: ignore[arg-type]


def test_an_answer_ends_where_the_context_ends() -> None:
    """As many tokens as fit are generated; with no room for one, the request is refused."""
    question = "x" * (512 - 1 - len("You are a helpful assistant. USER: . ASSISTANT:") - 3)
    calls: list[str] = []
    MODEL.chat(question, max_new_tokens=1000, on_text=calls.append)
    assert len(calls) <= 3
    with pytest.raises(InputError, match="exceed the context"):
        MODEL.chat(question + "xxx")


@pytest.mark.parametrize(("texts", "images"), [([], []), (["Hi"], []), (["Hi"], [[], []])])
def test_questions_and_images_must_pair_up(texts: list[str], images: list[object]) -> None:
    with pytest.raises(InputError, match="question"):
        MODEL.chat_batch(texts, images)  # type: ignore[arg-type]


# The vision tokenizer alone.


def test_encode_resizes_and_decode_inverts() -> None:
    codes = MODEL.encode(photo(20, 30))
    assert isinstance(codes, Tensor)
    assert codes.shape == (5, 8)  # round(30 / 4) = 8
    image = MODEL.decode(codes)
    assert isinstance(image, Image.Image)
    assert image.size == (32, 20)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_encode_takes_every_mode(mode: str) -> None:
    image = photo().convert(mode)
    assert torch.equal(MODEL.encode(image), MODEL.encode(image.convert("RGB")))


def test_groups_of_frames_are_independent() -> None:
    frames = torch.randint(256, (8, 16, 8, 3), dtype=torch.uint8)
    codes = MODEL.encode(frames)
    assert codes.shape == (2, 4, 2)
    halves = [MODEL.encode(half) for half in frames.split(4)]
    assert torch.equal(codes, torch.cat(halves))
    decoded = MODEL.decode(codes)
    assert isinstance(decoded, Tensor)
    assert (decoded.shape, decoded.dtype) == (frames.shape, torch.uint8)
    half = MODEL.decode(codes[1:])
    assert isinstance(half, Tensor)
    assert (decoded[4:].int() - half.int()).abs().max() <= 1


def test_an_image_equals_four_identical_frames() -> None:
    image = photo(16, 16)
    frames = torch.from_numpy(np.asarray(image).copy()).expand(4, -1, -1, -1)
    assert torch.equal(MODEL.encode(frames)[0], MODEL.encode(image))


@pytest.mark.parametrize("count", [0, 1, 3, 6])
def test_incomplete_groups_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"{count} frames: expected a multiple of 4"):
        MODEL.encode(torch.zeros(count, 8, 8, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(4, 8, 8, 3),
        torch.zeros(4, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
    ],
)
def test_invalid_frames_are_refused(frames: Tensor) -> None:
    with pytest.raises(InputError, match="frames must be"):
        MODEL.encode(frames)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(4, dtype=torch.long), r"got \[4\]"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.long), r"got \[1, 1, 2, 2\]"),
        (torch.zeros(0, 4, dtype=torch.long), r"got \[0, 4\]"),
        (torch.full((2, 2), 64), "0 to 63"),
        (torch.full((2, 2), -1), "0 to 63"),
        (torch.zeros(2, 2), "integers"),
    ],
)
def test_invalid_codes_are_refused(codes: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MODEL.decode(codes)
