"""Training the vision tokenizer: a gentle start, and killed and resumed = never killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.config import VisionConfig
from emu3.errors import InputError
from emu3.models.vq.blocks import SpatialNorm
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.training.checkpointing import load_state
from emu3.training.lr_schedule import learning_rate_at
from emu3.training.optimizers import build_muon_and_adamw
from emu3.training.trainer import seed_step
from emu3.training.vq.codebook import CodebookTrainer
from emu3.training.vq.patch_consistency import patch_consistency_loss, patch_ids
from emu3.training.vq.trainer import (
    VQTrainingConfig,
    decode_latent,
    encode_latent,
    init_spatial_norms,
    train_vq,
)
from emu3.training.vq.warm_start import init_temporal_identity
from tests.training.toy import flat

CONFIG = VisionConfig(
    codebook_size=16, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=()
)
RUN = VQTrainingConfig(
    steps=6,
    batch_size=2,
    learning_rate=2e-3,
    warmup_steps=2,
    unquantized_steps=3,
    l1_weight=0.2,
    commitment_weight=0.25,
    consistency_weight=1.0,
    max_grad_norm=1.0,
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


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train_vq(CONFIG, RUN, batch, folder)
    return folder


@pytest.mark.parametrize("kills", [[2], [3], [5]])
def test_killed_and_resumed_is_never_killed(
    tmp_path: Path, never_killed: Path, kills: list[int]
) -> None:
    """Before the codebook is placed, at that very step, and after."""
    for step in kills:
        with pytest.raises(KeyboardInterrupt):
            train_vq(CONFIG, RUN, killed_at(step), tmp_path)
    train_vq(CONFIG, RUN, batch, tmp_path)
    states = [load_state(folder / "state.pt") for folder in (tmp_path, never_killed)]
    assert flat(states[0]) == flat(states[1])


def test_a_checkpoint_always_has_a_codebook(tmp_path: Path) -> None:
    saved: list[int] = []
    train_vq(CONFIG, RUN, batch, tmp_path, lambda model, step: saved.append(step))
    assert saved == [4, 6]


def test_the_picture_gets_better(tmp_path: Path) -> None:
    run = replace(RUN, steps=20, unquantized_steps=8, learning_rate=1e-2, save_every=20)
    fixed = batch(np.random.default_rng(0), 2)
    model = train_vq(CONFIG, run, lambda rng, size: fixed, tmp_path)
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
    init_temporal_identity(model)
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
    init_spatial_norms(model)
    norms = [module for module in model.modules() if isinstance(module, SpatialNorm)]
    assert norms
    for norm in norms:
        channels = norm.norm_layer.num_channels
        x, latent = torch.randn(1, channels, 4, 4), torch.randn(1, 4, 2, 2)
        plain = nn.GroupNorm(32, channels, eps=1e-6)(x)
        assert (norm(x, latent) - plain).square().mean().sqrt() < 0.5
        assert not torch.equal(norm(x, latent), norm(x, latent + 1))  # it does see the latent


def plain_loop(steps: int) -> VisionTokenizer:
    """The loss and the loop written out: nothing but L2, L1, commitment and consistency."""
    torch.manual_seed(RUN.seed)
    model = VisionTokenizer(CONFIG)
    init_temporal_identity(model)
    init_spatial_norms(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last)
    book, optimizer = (
        CodebookTrainer(model.quantize),
        build_muon_and_adamw(model.named_parameters()),
    )
    seen: list[Tensor] = []
    for step in range(steps):
        pixels = batch(seed_step(RUN.seed, step), RUN.batch_size)
        model.train()
        latent = model.encode_latent(pixels.to(memory_format=torch.channels_last))
        rows = latent.movedim(1, -1).flatten(0, -2)
        quantised = latent
        if step == RUN.unquantized_steps:
            book.start(torch.cat(seen))
        if step < RUN.unquantized_steps:
            seen.append(rows.detach())
        else:
            codes = model.quantize(latent)
            quantised = model.quantize.lookup(codes)
            book.update(rows.detach(), codes.flatten())
        decoded = model.decode_latent(latent + (quantised - latent).detach())
        loss = F.mse_loss(decoded, pixels) + RUN.l1_weight * F.l1_loss(decoded, pixels)
        loss = loss + RUN.commitment_weight * F.mse_loss(latent, quantised.detach())
        uneven = patch_consistency_loss(rows, patch_ids(pixels, 2))
        (loss + RUN.consistency_weight * step / RUN.steps * uneven).backward()
        nn.utils.clip_grad_norm_(optimizer.parameters, RUN.max_grad_norm)
        optimizer.step(
            learning_rate_at("cosine", step, RUN.steps, RUN.warmup_steps, RUN.learning_rate, 0.0)
        )
    return model


def test_what_is_off_changes_nothing(never_killed: Path) -> None:
    """No perceptual distance, no discriminator: to rounding the loop without them."""
    state = load_state(never_killed / "state.pt")
    assert state is not None
    plain = plain_loop(RUN.steps).state_dict()
    torch.testing.assert_close(state["model"], dict(plain), rtol=1e-3, atol=1e-5)
    line = json.loads((never_killed / "log.jsonl").read_text().splitlines()[-1])
    assert not {"perceptual", "generator", "discriminator"} & line.keys()


def test_the_use_of_the_codebook_is_told(never_killed: Path) -> None:
    lines = [json.loads(line) for line in (never_killed / "log.jsonl").read_text().splitlines()]
    assert lines[0]["used"] == lines[0]["perplexity"] == 0  # no codebook yet
    assert 0 < lines[-1]["used"] <= 1
    assert 1 <= lines[-1]["perplexity"] <= 16 * lines[-1]["used"] + 1e-3


ADVERSARIAL = replace(
    RUN,
    adversarial_weight=0.5,
    adversarial_start_step=4,
    discriminator_width=8,
    save_every=1,
    consistency_weight=0.0,
)


def stripes(rng: np.random.Generator, size: int) -> Tensor:
    """Coloured stripes, one pixel wide: what squared error blurs away."""
    colour = torch.from_numpy(rng.uniform(-0.8, 0.8, (size, 3, 1, 1))).float()
    return colour * (torch.arange(24) % 2 * 2 - 1).expand(size, 3, 24, 24)


def clips(rng: np.random.Generator, size: int) -> Tensor:
    return torch.stack([stripes(rng, size).roll(t, 3) for t in range(4)], dim=1)


def interrupted(pictures: Callable[[np.random.Generator, int], Tensor], after: int) -> Any:
    left = iter(range(after))

    def until(rng: np.random.Generator, size: int) -> Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return pictures(rng, size)

    return until


@pytest.fixture(scope="module")
def adversarial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adversarial")
    train_vq(CONFIG, ADVERSARIAL, stripes, folder)
    return folder


def test_killed_and_resumed_is_never_killed_with_a_discriminator(
    tmp_path: Path, adversarial: Path
) -> None:
    """Before its first step, and after; its weights and its optimizer are in the checkpoint."""
    for step in (4, 1):
        with pytest.raises(KeyboardInterrupt):
            train_vq(CONFIG, ADVERSARIAL, interrupted(stripes, step), tmp_path)
    train_vq(CONFIG, ADVERSARIAL, stripes, tmp_path)
    states = [load_state(folder / "state.pt") for folder in (adversarial, tmp_path)]
    assert any("discriminator" in name for name in (states[0] or {})["model"])
    assert flat(states[0]) == flat(states[1])


def test_the_discriminator_waits_for_its_step(tmp_path: Path, adversarial: Path) -> None:
    """Until then the tokenizer learns as if there were none."""
    train_vq(CONFIG, replace(ADVERSARIAL, adversarial_weight=0.0), stripes, tmp_path)
    on, off = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (adversarial, tmp_path)
    )
    assert [line["psnr"] for line in on[:5]] == [line["psnr"] for line in off[:5]]
    assert on[5]["psnr"] != off[5]["psnr"]
    assert [line["discriminator"] > 0 for line in on] == [False] * 4 + [True] * 2
    assert on[4]["generator"] != 0


@pytest.mark.skipif(find_spec("stlpips_pytorch") is None, reason="stlpips-pytorch is not installed")
def test_a_short_run_lowers_the_perceptual_distance(tmp_path: Path) -> None:
    run = replace(
        RUN,
        steps=10,
        unquantized_steps=5,
        learning_rate=1e-2,
        save_every=10,
        consistency_weight=0.0,
        perceptual_weight=1.0,
        perceptual_backbone="alex",
    )
    fixed = stripes(np.random.default_rng(0), 2)
    train_vq(CONFIG, run, lambda rng, size: fixed, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["perceptual"] < lines[0]["perceptual"] * 0.75


def test_clips_are_learned_from_too(tmp_path: Path) -> None:
    """As one causal sequence, in a run that may hold pictures as well."""
    kinds = iter([clips, stripes, clips, clips, stripes, clips])
    run = replace(
        ADVERSARIAL,
        batch_size=1,
        adversarial_start_step=3,
        consistency_weight=1.0,
        learning_rate=1e-2,
        save_every=6,
    )
    model = train_vq(CONFIG, run, lambda rng, size: next(kinds)(rng, size), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["psnr"] > lines[0]["psnr"]
    assert model.encode(clips(np.random.default_rng(0), 1)).shape == (1, 1, 12, 12)


@torch.no_grad()
def test_a_clip_is_seen_as_the_tokenizer_sees_it() -> None:
    torch.manual_seed(0)
    model = VisionTokenizer(CONFIG).eval()
    clip = clips(np.random.default_rng(0), 1)[..., :8, :8].repeat(1, 2, 1, 1, 1)
    codes = model.encode(clip)
    assert torch.equal(model.quantize(encode_latent(model, clip)), codes)
    latent = model.quantize.lookup(codes)
    assert torch.equal(decode_latent(model, latent, still=False), model.decode(codes))


def test_a_start_is_gone_on_from_with_its_codebook(tmp_path: Path) -> None:
    """The first picture is as good as the start's own, and no k-means moves an entry."""
    run = replace(RUN, steps=1, save_every=1, unquantized_steps=0, learning_rate=0.0)
    start = train_vq(CONFIG, RUN, batch, tmp_path / "a")
    conv, entry = start.encoder.conv_in.weight.clone(), start.quantize.embedding.weight.clone()
    model = train_vq(CONFIG, run, batch, tmp_path / "b", start=start)
    assert torch.equal(model.encoder.conv_in.weight, conv)
    assert (model.quantize.embedding.weight - entry).norm() < 0.5 * entry.norm()
    other = replace(CONFIG, codebook_size=8)
    with pytest.raises(InputError, match="another config"):
        train_vq(other, run, batch, tmp_path / "c", start=start)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"perceptual_weight": -1.0}, "perceptual_weight = -1.0"),
        ({"adversarial_weight": float("nan")}, "adversarial_weight = nan"),
        ({"adversarial_weight": 0.1, "adversarial_start_step": 6}, "would never begin"),
        ({"on_bad_batch": "skip"}, "not for vision"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(RUN, **change)


def test_pictures_too_small_for_what_is_on_are_refused(tmp_path: Path) -> None:
    run = replace(ADVERSARIAL, adversarial_start_step=0)
    with pytest.raises(InputError, match="sides of 24 or more"):
        train_vq(CONFIG, run, batch, tmp_path)
