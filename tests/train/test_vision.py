"""Training the vision tokenizer: a gentle start, and killed and resumed = never killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.config import VisionConfig
from emu3.train.checkpoints import load_state
from emu3.train.vision import VisionTraining, identity_in_time, plain_norms, train_vision
from emu3.vision.blocks import SpatialNorm
from emu3.vision.tokenizer import VisionTokenizer

CONFIG = VisionConfig(
    codebook_size=16, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=()
)
RUN = VisionTraining(
    steps=6,
    batch=2,
    learning_rate=2e-3,
    warmup=2,
    unquantised=3,
    l1=0.2,
    commitment=0.25,
    consistency=1.0,
    clip=1.0,
    bf16=False,
    report_every=1,
    save_every=2,
    seed=5,
)


def batch(rng: np.random.Generator, size: int) -> Tensor:
    """Flat colours with a little noise."""
    flat = rng.uniform(-0.8, 0.8, (size, 3, 1, 1)) + rng.normal(0, 0.1, (size, 3, 8, 8))
    return torch.from_numpy(flat).float()


def killed_at(step: int) -> Callable[[np.random.Generator, int], Tensor]:
    left = iter(range(step))

    def until(rng: np.random.Generator, size: int) -> Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return batch(rng, size)

    return until


def flat(state: Any) -> list[Any]:
    """A nested state as a list, tensors as their bytes: for comparison bit by bit."""
    if isinstance(state, torch.Tensor):
        return [state.shape, state.contiguous().numpy().tobytes()]
    if isinstance(state, dict):
        return [part for key in sorted(state, key=str) for part in (key, *flat(state[key]))]
    if isinstance(state, list | tuple):
        return [part for each in state for part in flat(each)]
    return [state]


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train_vision(CONFIG, RUN, batch, folder)
    return folder


@pytest.mark.parametrize("kills", [[2], [3], [5]])
def test_killed_and_resumed_is_never_killed(
    tmp_path: Path, never_killed: Path, kills: list[int]
) -> None:
    """Before the codebook is placed, at that very step, and after."""
    for step in kills:
        with pytest.raises(KeyboardInterrupt):
            train_vision(CONFIG, RUN, killed_at(step), tmp_path)
    train_vision(CONFIG, RUN, batch, tmp_path)
    states = [load_state(folder / "state.pt") for folder in (tmp_path, never_killed)]
    assert flat(states[0]) == flat(states[1])


def test_a_checkpoint_always_has_a_codebook(tmp_path: Path) -> None:
    saved: list[int] = []
    train_vision(CONFIG, RUN, batch, tmp_path, lambda model, step: saved.append(step))
    assert saved == [4, 6]


def test_the_picture_gets_better(tmp_path: Path) -> None:
    run = replace(RUN, steps=20, unquantised=8, learning_rate=1e-2, save_every=20)
    fixed = batch(np.random.default_rng(0), 2)
    model = train_vision(CONFIG, run, lambda rng, size: fixed, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["psnr"] > lines[0]["psnr"] + 3
    assert lines[7]["commit"] == 0  # no codebook yet
    assert lines[9]["commit"] > 0
    assert not model.training
    assert len(model.encode(fixed).unique()) > 1


def test_time_starts_as_the_identity() -> None:
    """A still picture passes the temporal convolutions nearly unchanged; random ones destroy it."""
    torch.manual_seed(0)
    config = replace(CONFIG, temporal_downsample_factor=4)
    model, untouched = VisionTokenizer(config).eval(), VisionTokenizer(config).eval()
    identity_in_time(model)
    latent = torch.randn(1, 4, 1, 3, 3).expand(-1, -1, 4, -1, -1)

    def likeness(one: VisionTokenizer) -> float:
        with torch.no_grad():
            passed = one.encoder.temporal(latent)
        return F.cosine_similarity(
            passed.flatten() - passed.mean(),
            latent[:, :, :1].flatten() - latent[:, :, :1].mean(),
            dim=0,
        ).item()

    assert likeness(model) > 0.95
    assert likeness(untouched) < 0.9


def test_norms_start_near_plain_ones() -> None:
    torch.manual_seed(0)
    model = VisionTokenizer(CONFIG)
    plain_norms(model)
    norms = [module for module in model.modules() if isinstance(module, SpatialNorm)]
    assert norms
    for norm in norms:
        channels = norm.norm_layer.num_channels
        x, latent = torch.randn(1, channels, 4, 4), torch.randn(1, 4, 2, 2)
        plain = nn.GroupNorm(32, channels, eps=1e-6)(x)
        assert (norm(x, latent) - plain).square().mean().sqrt() < 0.5
        assert not torch.equal(norm(x, latent), norm(x, latent + 1))  # it does see the latent
