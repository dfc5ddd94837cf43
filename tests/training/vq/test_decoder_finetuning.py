"""Decoder fine-tuning: better reconstructions, unchanged codes, and exact resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from emu3.testing import tiny_vision
from emu3.training.trainer import TrainingConfig
from emu3.training.vq.decoder_finetuning import finetune_vq_decoder
from tests.training.toy_run import saved_steps

CONFIG = TrainingConfig(
    steps=6,
    learning_rate=2e-3,
    warmup_steps=2,
    max_grad_norm=1.0,
    bf16=False,
    report_every=1,
    save_every=2,
    seed=3,
)


def images(rng: np.random.Generator) -> Tensor:
    flat = rng.uniform(-0.8, 0.8, (2, 3, 1, 1)) + rng.normal(0, 0.1, (2, 3, 16, 16))
    return torch.from_numpy(flat).float()


@pytest.mark.slow
def test_reconstruction_improves_and_codes_stay(tmp_path: Path) -> None:
    model, pixels = tiny_vision(), images(np.random.default_rng(0))
    with torch.no_grad():
        codes, before = model.encode(pixels), model.decode(model.encode(pixels))
    finetune_vq_decoder(model, CONFIG, lambda rng: pixels, tmp_path)
    with torch.no_grad():
        after = model.decode(codes)
    assert torch.equal(model.encode(pixels), codes)
    assert (after - pixels).square().mean() < (before - pixels).square().mean()
    assert not model.training


@pytest.mark.slow
@pytest.mark.parametrize("kill", [1, 3, 4])
def test_killed_and_resumed_equals_never_killed(tmp_path: Path, kill: int) -> None:
    left = iter(range(kill))

    def until(rng: np.random.Generator) -> Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return images(rng)

    with pytest.raises(KeyboardInterrupt):
        finetune_vq_decoder(tiny_vision(), CONFIG, until, tmp_path / "killed")
    resumed = finetune_vq_decoder(tiny_vision(), CONFIG, images, tmp_path / "killed")
    whole = finetune_vq_decoder(tiny_vision(), CONFIG, images, tmp_path / "whole")
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert saved_steps(tmp_path / "killed") == CONFIG.steps
