"""Captioning before a continuation: when it happens, and what it changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from emu3 import Emu3
from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.inference.captioning import (
    MAX_CAPTION_TOKENS,
    QUESTION,
    can_caption,
    caption_prompt_ids,
)
from emu3.inference.inputs import VideoSource
from emu3.outputs import VideoOutput
from emu3.processing.video import Clip
from emu3.testing import tiny_checkpoint
from tests.inference.test_video import moving, same

FPS = 8.0
ABLE = replace(tiny_checkpoint(), defaults=GenerationDefaults(tasks=("chat", "video")))


@pytest.mark.parametrize(
    ("tasks", "able"),
    [(("image", "chat"), False), (("image", "video"), False), (("chat", "video"), True)],
)
def test_can_caption(tasks: tuple[str, ...], able: bool) -> None:
    assert can_caption(GenerationDefaults(tasks=tasks)) is able


def codes_of(frames: torch.Tensor) -> torch.Tensor:
    return torch.cat([group.codes for group in ABLE.vision_processor.encode_frames(frames)])


def caption(frames: torch.Tensor) -> str:
    clip: VideoSource = Clip(iter(frames.numpy()), FPS)
    return Emu3(ABLE).chat(QUESTION, videos=[clip], max_new_tokens=MAX_CAPTION_TOKENS)


def test_of_a_long_clip_the_end_is_captioned_and_of_one_too_large_nothing() -> None:
    codes = codes_of(moving(80))
    document_format, config = ABLE.prompts.document_format, ABLE.decoder.config
    groups = config.max_position_embeddings // 2 // document_format.num_tokens(4, 4)
    assert 1 < groups < len(codes)
    prompt = caption_prompt_ids(ABLE, codes, FPS)
    assert prompt == caption_prompt_ids(ABLE, codes[-groups:], FPS)
    other = codes.clone()
    other[-1] = other[-1].flip(0)
    assert prompt != caption_prompt_ids(ABLE, other, FPS)
    assert caption_prompt_ids(ABLE, codes.new_zeros(1, 60, 60), FPS) is None


@pytest.fixture
def no_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    """No caption may be asked for."""
    monkeypatch.setattr("emu3.inference.video.caption_prompt_ids", None)


def extended(defaults: GenerationDefaults, prompt: str | None, **settings: Any) -> VideoOutput:
    model = Emu3(replace(ABLE, defaults=defaults))
    return model.extend(moving(8), seconds=1, fps=FPS, prompt=prompt, **settings)


def test_a_continuation_uses_the_caption() -> None:
    text = caption(moving(8))
    out = extended(ABLE.defaults, None)
    assert out.settings.prompt == text
    assert same(out, extended(ABLE.defaults, text, guidance_scale=1.0))
    assert not same(out, extended(ABLE.defaults, ""))


def test_a_caption_is_not_guided_unless_requested() -> None:
    guided = replace(ABLE.defaults, guidance_scale=4.0)
    text = caption(moving(8))
    asked: list[tuple[str | None, dict[str, Any]]] = [
        (None, {}),
        (None, {"guidance_scale": 2.0}),
        (None, {"negative_prompt": "b"}),
        (text, {}),
    ]
    scales = [extended(guided, text, **more).settings.guidance_scale for text, more in asked]
    assert scales == [1.0, 2.0, 4.0, 4.0]


@pytest.mark.usefixtures("no_caption")
@pytest.mark.parametrize(("tasks", "prompt"), [(("video",), None), (("chat", "video"), "")])
def test_no_caption_with_a_prompt_or_without_the_ability(
    tasks: tuple[str, ...], prompt: str | None
) -> None:
    assert extended(replace(ABLE.defaults, tasks=tasks), prompt).settings.prompt == ""
