"""A tokenizer that learns to move: what it may change, and what it must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from emu3.config import VisionConfig
from emu3.train.motion import MotionTraining, train_motion
from emu3.train.warm_start import identity_in_time
from emu3.vision.tokenizer import VisionTokenizer

CONFIG = VisionConfig(codebook_size=32, ch=32, ch_mult=(1, 1), num_res_blocks=1)
RUN = MotionTraining(
    steps=12,
    learning_rate=2e-3,
    warmup=2,
    clip=1.0,
    commitment=0.25,
    hold_still=1.0,
    decoded=2,
    bf16=False,
    report_every=1,
    save_every=4,
    seed=0,
)
FROZEN = ("encoder.conv_in", "encoder.down", "encoder.mid", "encoder.norm_out", "encoder.conv_out")


def footage(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A bar that moves a pixel a frame, and bars that stand."""
    bar = torch.zeros(16, 16)
    bar[:, 4:8] = 1
    moving = torch.stack([bar.roll(int(rng.integers(16)) + step, 1) for step in range(4)])
    moving = moving[None, :, None].expand(2, -1, 3, -1, -1)
    still = bar.roll(int(rng.integers(16)), 1).expand(2, 3, -1, -1)
    return moving * 2 - 1, still * 2 - 1


@pytest.fixture
def model() -> VisionTokenizer:
    torch.manual_seed(1)
    model = VisionTokenizer(CONFIG)
    identity_in_time(model)
    return model.eval()


def test_it_learns_and_leaves_single_frames_and_codebook_alone(
    model: VisionTokenizer, tmp_path: Path
) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    groups, _ = footage(np.random.default_rng(5))

    def error() -> float:
        with torch.no_grad():
            return float(
                (model.decode_groups(model.encode_groups(groups)) - groups).square().mean()
            )

    first = error()
    train_motion(model, RUN, footage, tmp_path)
    assert error() < first
    for name, weight in model.state_dict().items():
        if name.startswith((*FROZEN, "quantize")):
            assert torch.equal(weight, before[name]), name
    changed = {name for name, weight in model.state_dict().items() if weight.ne(before[name]).any()}
    assert any(name.startswith("encoder.time") for name in changed)
    assert any(name.startswith("decoder.up") for name in changed)
    assert not model.training


def test_pictures_keep_their_codes_where_they_are_held(
    model: VisionTokenizer, tmp_path: Path
) -> None:
    _, pictures = footage(np.random.default_rng(6))
    before = model.latent(pictures).detach()
    moved = []
    for hold in (0.0, 30.0):
        other = VisionTokenizer(CONFIG).eval()
        other.load_state_dict(model.state_dict())
        train_motion(other, replace(RUN, hold_still=hold), footage, tmp_path / str(hold))
        moved.append(float((other.latent(pictures) - before).detach().square().mean()))
    assert moved[1] < moved[0]


def test_some_frames_are_those_of_all(model: VisionTokenizer) -> None:
    z, zq = torch.randn(2, 2, 4, 1, 4, 4)
    every = model.decoder(z, zq)
    torch.testing.assert_close(model.decoder.frames(z, zq, [1, 3]), every[:, :, [1, 3]])
