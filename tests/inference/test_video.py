"""Videos in the Python API: generation, first frames, continuation, chat about them."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from emu3 import Emu3, InputError
from emu3.inference.events import VideoFrames
from emu3.inference.model_runner import ModelRunner
from emu3.inference.validation import num_frames
from emu3.inference.video import VideoPlan
from emu3.outputs import VideoOutput
from emu3.processing.document_format import VideoCodes
from emu3.processing.video import Clip
from emu3.testing import tiny_checkpoint

MODEL = Emu3(tiny_checkpoint())
PROMPTS = MODEL.checkpoint.prompts


def moving(frames: int, side: int = 16, seed: int = 0) -> Tensor:
    noise = np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), np.uint8)
    return torch.from_numpy(noise)


def same(a: VideoOutput, b: VideoOutput) -> bool:
    return torch.equal(a.codes, b.codes) and torch.equal(a.frames, b.frames)


def generated(out: VideoOutput, frames: int, given: int) -> Tensor:
    """The codes of a video in one context window behind its first `given` groups."""
    plan = VideoPlan(MODEL.checkpoint, out.settings, (4, 4))
    (window,) = plan.single_window(frames, given)
    sequence = plan.sequence(window, out.codes)
    vocabulary = MODEL.checkpoint.text_tokenizer.vocabulary
    ModelRunner(MODEL.checkpoint.decoder, vocabulary).run([sequence])
    return sequence.finished_frames()


def test_length_and_size_are_as_requested() -> None:
    out = MODEL.video("a car", ratio="2:1", area=8 * 32, seconds=1.25, fps=8)
    assert out.codes.shape[0] == 3
    assert out.frames.shape == (10, 4 * out.codes.shape[1], 4 * out.codes.shape[2], 3)
    assert out.codes.shape[2] > out.codes.shape[1]
    assert out.frames.dtype == torch.uint8
    assert MODEL.video("a car", seconds=0.01, fps=8).frames.shape[0] == 1
    assert num_frames(2.06, 8) == 16


def test_frames_are_decoded_codes() -> None:
    out = MODEL.video("a car", seconds=1, fps=8)
    assert torch.equal(torch.as_tensor(MODEL.decode(out.codes)), out.frames)
    assert out.fps == 8


def test_settings_reproduce_the_video() -> None:
    out = MODEL.video("a car", seconds=1, fps=4, seed=5, top_k=20, temperature=1.5)
    settings = asdict(out.settings)
    assert [settings.pop(key) for key in ("model", "dtype", "given")] == ["tiny", "fp32", 0]
    assert same(MODEL.video(**settings), out)
    for change in ({"seed": 6}, {"prompt": "b"}, {"fps": 5.0}, {"guidance_scale": 1.0}):
        assert not same(MODEL.video(**{**settings, **change}), out), change


def test_an_image_is_the_first_four_frames() -> None:
    image = Image.fromarray(moving(1)[0].numpy()).resize((24, 16))
    out = MODEL.video("it moves", image=image, seconds=1.5, fps=8)
    assert torch.equal(out.codes[0], torch.as_tensor(MODEL.encode(image)))
    assert out.frames.shape == (12, 16, 24, 3)
    assert out.settings.given == 1
    alone = MODEL.video("it moves", image=image, seconds=0.5, fps=8)
    assert torch.equal(alone.frames, out.frames[:4])


def test_given_groups_are_continued_as_if_generated() -> None:
    """Generated groups that are given again are followed by the same groups."""
    out = MODEL.video("a car", seconds=2, fps=8, seed=3)
    for given in range(5):
        assert torch.equal(generated(out, 16, given), out.codes)


def test_groups_are_reported_in_order_each_once() -> None:
    events: list[VideoFrames] = []
    out = MODEL.video("a car", seconds=1.25, fps=8, on_group=events.append)
    assert [(event.done, event.total) for event in events] == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(torch.cat([event.frames for event in events]), out.frames)
    assert {event.settings for event in events} == {out.settings}
    events.clear()
    longer = MODEL.extend(out.frames, seconds=1, fps=8, on_group=events.append)
    assert [event.done for event in events] == list(range(1, len(longer.codes) + 1))
    assert torch.equal(torch.cat([event.frames for event in events]), longer.frames)


@pytest.mark.parametrize("count", [4, 7, 8])
def test_a_clip_is_continued(count: int) -> None:
    """Whole groups stay, an incomplete one is generated anew, and the lengths add up."""
    clip = moving(count)
    out = MODEL.extend(clip, seconds=1, fps=8)
    whole = count // 4
    assert torch.equal(out.codes[:whole], torch.as_tensor(MODEL.encode(clip[: whole * 4])))
    assert len(out.frames) == count + 8
    assert out.settings.given == whole
    assert same(MODEL.extend(iter(clip.numpy()), seconds=1, fps=8), out)
    assert not same(MODEL.extend(clip, seconds=1, fps=8, seed=1), out)


def test_a_clip_that_fits_is_one_context_window() -> None:
    clip = moving(8)
    out = MODEL.extend(clip, seconds=1, fps=8, prompt="rain")
    assert torch.equal(generated(out, 16, 2), out.codes)


@pytest.mark.slow
def test_any_length_slides_through_the_context() -> None:
    """Several times the context; each window is the document that it stands for."""
    out = MODEL.extend(moving(4), seconds=12, fps=8, seed=2)
    assert out.codes.shape == (25, 4, 4)
    assert len(out.frames) == 100
    document_format, limit = PROMPTS.document_format, MODEL.config.max_position_embeddings
    assert document_format.num_tokens(4, 4, 25) > limit
    plan, have, windows = VideoPlan(MODEL.checkpoint, out.settings, (4, 4)), 1, 0
    while have < 25:
        context, new = plan.next_window(have, 100)
        assert 1 <= context <= have
        assert sum(plan.token_counts((context + new) * 4)) <= limit
        assert context >= min(have, new - 1)
        have, windows = have + new, windows + 1
    assert (have, windows > 1) == (25, True)
    assert len({tuple(group.flatten().tolist()) for group in out.codes}) == 25


@pytest.mark.slow
def test_many_context_windows() -> None:
    """A decoder with a short context, and a video of ten times as many ids."""
    checkpoint = tiny_checkpoint()
    config = replace(checkpoint.decoder.config, max_position_embeddings=128)
    checkpoint.decoder.config = config
    out = Emu3(checkpoint).extend(moving(8), seconds=30, fps=8)
    assert PROMPTS.document_format.num_tokens(4, 4, len(out.codes)) > 10 * 128
    assert len(out.frames) == 248


def test_chat_about_a_video() -> None:
    frames = moving(6)
    codes = torch.cat(
        [group.codes for group in MODEL.checkpoint.vision_processor.encode_frames(frames)]
    )
    prompt = PROMPTS.chat("what?", [VideoCodes(codes, 8.0, 6)])
    v = PROMPTS.tokenizer.vocabulary
    parts = PROMPTS.document_format.parse(torch.tensor(prompt))
    assert isinstance(parts[1], VideoCodes)
    assert (parts[1].fps, parts[1].frames) == (8.0, 6)
    assert prompt[0] == v.bos

    def answer(clip: Clip | VideoOutput) -> str:
        return MODEL.chat("what?", videos=[clip], max_new_tokens=12, top_k=0)

    first = answer(Clip(iter(frames), 8.0))
    assert first == answer(Clip(iter(frames.numpy()), 8.0))
    assert first != answer(Clip(iter(frames), 4.0)) or first != answer(
        Clip(iter(moving(6, 16, 1)), 8)
    )
    assert first == MODEL.conversation().say(
        "what?", videos=[Clip(iter(frames), 8.0)], max_new_tokens=12, top_k=0
    )
    generated_video = MODEL.video("a car", seconds=0.5, fps=8)
    assert answer(generated_video) == answer(Clip(iter(generated_video.frames), 8.0))


def test_videos_follow_images_in_a_batch() -> None:
    image, clip = Image.fromarray(moving(1)[0].numpy()), moving(4)

    def clip_source() -> Clip:
        return Clip(iter(clip), 8.0)

    together = MODEL.chat_batch(
        ["a?", "b?"], [[image], []], [[clip_source()], [clip_source()]], max_new_tokens=8
    )
    alone = MODEL.chat("a?", [image], [clip_source()], max_new_tokens=8)
    assert together == [alone, MODEL.chat("b?", [], [clip_source()], max_new_tokens=8)]


def test_documents_of_videos() -> None:
    """BOS caption video EOS; a conversation about a video reads as it is asked."""
    video, v = VideoCodes(torch.arange(12).view(3, 2, 2), 8.0, 10), PROMPTS.tokenizer.vocabulary
    ids = PROMPTS.document("a car", video)
    prompt = PROMPTS.video("a car", (2, 2), 8.0, 10)
    assert ids[: len(prompt)].tolist() == prompt
    assert ids[-1] == v.eos
    read = PROMPTS.document_format.decode_video(ids[prompt.index(v.sov) : -1])
    assert torch.equal(read.codes, video.codes)
    ids, answered = PROMPTS.chat_document(video, [("what?", "a car")])
    assert ids[: len(PROMPTS.chat("what?", [video]))].tolist() == PROMPTS.chat("what?", [video])
    assert ids[answered].tolist() == [*PROMPTS.tokenizer.encode(" a car"), v.eos]


BAD: list[tuple[dict[str, object], str]] = [
    ({"seconds": 0}, "seconds = 0"),
    ({"seconds": float("nan")}, "seconds = nan"),
    ({"seconds": float("inf")}, "seconds = inf"),
    ({"fps": 0}, "fps = "),
    ({"fps": float("nan")}, "fps = "),
    ({"fps": 30000 / 1001}, "three decimals"),
    ({"seconds": 60}, "exceed the context of 512.*fewer seconds"),
    ({"prompt": "x" * 600}, "exceed the context of 512"),
    ({"ratio": "9:1"}, "ratio '9:1'"),
    ({"area": 0}, "area 0"),
    ({"image": Image.new("RGB", (16, 16)), "area": 256}, "leave out size, ratio and area"),
    ({"seed": -1}, "seed = -1"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
    ({"top_k": -1}, "top_k"),
    ({"temperature": 0.0}, "temperature"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_invalid_arguments_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MODEL.video(**{"prompt": "a car", **change})  # type: ignore[arg-type]


def test_invalid_continuations_are_refused() -> None:
    events: list[VideoFrames] = []
    with pytest.raises(InputError, match="3 frames is too short; a continuation needs 4"):
        MODEL.extend(moving(3))
    with pytest.raises(InputError, match="two groups of frames exceed the context of 512"):
        MODEL.extend(moving(4), prompt="x" * 470, on_group=events.append)
    with pytest.raises(InputError, match="H, W, 3"):
        MODEL.extend(torch.zeros(4, 16, 16, dtype=torch.uint8))
    assert events == []


def test_clips_beyond_the_context_are_refused_early() -> None:
    endless = iter(lambda: moving(1)[0], None)
    with pytest.raises(InputError, match=r"exceeds the context of 512.*lower fps"):
        MODEL.chat("what?", videos=[Clip(endless, 8.0)])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="without frames"):
        MODEL.chat("what?", videos=[Clip(iter([]), 8.0)])
    with pytest.raises(InputError, match="groups of videos"):
        MODEL.chat_batch(["a", "b"], [[], []], [[]])


def test_generation_defaults_apply() -> None:
    defaults = replace(MODEL.checkpoint.defaults, suffix=" best", guidance_scale=1.5, top_k=7)
    out = Emu3(replace(MODEL.checkpoint, defaults=defaults)).video("a car", seconds=0.5)
    assert (out.settings.suffix, out.settings.guidance_scale, out.settings.top_k) == (
        " best",
        1.5,
        7,
    )
