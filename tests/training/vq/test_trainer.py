"""Vision tokenizer training: initialization, losses, and exact resume."""

from __future__ import annotations

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
from tests.training.toy_run import logged, same_checkpoint, saved_state

CONFIG = VisionConfig(
    codebook_size=16, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=()
)
TRAINING = VQTrainingConfig(
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
    train_vq(CONFIG, TRAINING, batch, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kills", [[2], [3], [5]])
def test_killed_and_resumed_equals_never_killed(
    tmp_path: Path, never_killed: Path, kills: list[int]
) -> None:
    """Killed before the codebook is initialized, at that step, and after."""
    for step in kills:
        with pytest.raises(KeyboardInterrupt):
            train_vq(CONFIG, TRAINING, killed_at(step), tmp_path)
    train_vq(CONFIG, TRAINING, batch, tmp_path)
    assert same_checkpoint(tmp_path, never_killed)


def test_no_checkpoint_before_the_codebook_is_initialized(tmp_path: Path) -> None:
    saved: list[int] = []
    train_vq(CONFIG, TRAINING, batch, tmp_path, lambda model, step: saved.append(step))
    assert saved == [4, 6]


@pytest.mark.slow
def test_reconstruction_improves(tmp_path: Path) -> None:
    run = replace(TRAINING, steps=20, unquantized_steps=8, learning_rate=1e-2, save_every=20)
    fixed = batch(np.random.default_rng(0), 2)
    model = train_vq(CONFIG, run, lambda rng, size: fixed, tmp_path)
    lines = logged(tmp_path)
    assert lines[-1]["psnr"] > lines[0]["psnr"] + 3
    assert lines[7]["commitment_loss"] == 0  # not quantized yet
    assert lines[9]["commitment_loss"] > 0
    assert not model.training
    assert len(model.encode(fixed).unique()) > 1


def test_temporal_layers_start_as_the_identity() -> None:
    """A repeated frame passes them nearly unchanged; random temporal layers destroy it."""
    torch.manual_seed(0)
    config = replace(CONFIG, temporal_downsample_factor=4)
    model, untouched = VisionTokenizer(config).eval(), VisionTokenizer(config).eval()
    init_temporal_identity(model)
    latent = torch.randn(1, 4, 1, 3, 3).expand(-1, -1, 4, -1, -1)

    def similarity(one: VisionTokenizer) -> float:
        with torch.no_grad():
            passed = one.encoder.temporal(latent)
        return F.cosine_similarity(
            passed.flatten() - passed.mean(),
            latent[:, :, :1].flatten() - latent[:, :, :1].mean(),
            dim=0,
        ).item()

    assert similarity(model) > 0.95
    assert similarity(untouched) < 0.9


def test_spatial_norms_start_close_to_group_norm() -> None:
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
        assert not torch.equal(norm(x, latent), norm(x, latent + 1))  # the latent has an effect


def reference_loop(steps: int) -> VisionTokenizer:
    """The loop written out, with the L2, L1, commitment and consistency losses only."""
    torch.manual_seed(TRAINING.seed)
    model = VisionTokenizer(CONFIG)
    init_temporal_identity(model)
    init_spatial_norms(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last)
    codebook, optimizer = (
        CodebookTrainer(model.quantize),
        build_muon_and_adamw(model.named_parameters()),
    )
    latents: list[Tensor] = []
    for step in range(steps):
        pixels = batch(seed_step(TRAINING.seed, step), TRAINING.batch_size)
        model.train()
        latent = model.encode_latent(pixels.to(memory_format=torch.channels_last))
        rows = latent.movedim(1, -1).flatten(0, -2)
        quantized = latent
        if step == TRAINING.unquantized_steps:
            codebook.init_kmeans(torch.cat(latents))
        if step < TRAINING.unquantized_steps:
            latents.append(rows.detach())
        else:
            codes = model.quantize(latent)
            quantized = model.quantize.lookup(codes)
            codebook.update(rows.detach(), codes.flatten())
        decoded = model.decode_latent(latent + (quantized - latent).detach())
        loss = F.mse_loss(decoded, pixels) + TRAINING.l1_weight * F.l1_loss(decoded, pixels)
        loss = loss + TRAINING.commitment_weight * F.mse_loss(latent, quantized.detach())
        consistency = patch_consistency_loss(rows, patch_ids(pixels, 2))
        (loss + TRAINING.consistency_weight * step / TRAINING.steps * consistency).backward()
        nn.utils.clip_grad_norm_(optimizer.parameters, TRAINING.max_grad_norm)
        optimizer.step(
            learning_rate_at(
                "cosine", step, TRAINING.steps, TRAINING.warmup_steps, TRAINING.learning_rate, 0.0
            )
        )
    return model


def test_losses_that_are_off_change_nothing(never_killed: Path) -> None:
    """Without LPIPS and discriminator it equals the reference loop, up to rounding."""
    weights, expected = (
        saved_state(never_killed)["model"],
        reference_loop(TRAINING.steps).state_dict(),
    )
    torch.testing.assert_close(weights, dict(expected), rtol=1e-3, atol=1e-5)
    line = logged(never_killed)[-1]
    assert not {"perceptual_loss", "generator_loss", "discriminator_loss"} & line.keys()


def test_codebook_usage_is_logged(never_killed: Path) -> None:
    lines = logged(never_killed)
    assert lines[0]["codebook_usage"] == lines[0]["codebook_perplexity"] == 0  # not initialized yet
    assert 0 < lines[-1]["codebook_usage"] <= 1
    assert 1 <= lines[-1]["codebook_perplexity"] <= 16 * lines[-1]["codebook_usage"] + 1e-3


ADVERSARIAL = replace(
    TRAINING,
    adversarial_weight=0.5,
    adversarial_start_step=4,
    discriminator_width=8,
    save_every=1,
    consistency_weight=0.0,
)


def stripes(rng: np.random.Generator, size: int) -> Tensor:
    """Coloured stripes one pixel wide, which squared error blurs."""
    colour = torch.from_numpy(rng.uniform(-0.8, 0.8, (size, 3, 1, 1))).float()
    return colour * (torch.arange(24) % 2 * 2 - 1).expand(size, 3, 24, 24)


def clips(rng: np.random.Generator, size: int) -> Tensor:
    return torch.stack([stripes(rng, size).roll(t, 3) for t in range(4)], dim=1)


def interrupted(images: Callable[[np.random.Generator, int], Tensor], after: int) -> Any:
    left = iter(range(after))

    def until(rng: np.random.Generator, size: int) -> Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return images(rng, size)

    return until


@pytest.fixture(scope="module")
def adversarial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adversarial")
    train_vq(CONFIG, ADVERSARIAL, stripes, folder)
    return folder


@pytest.mark.slow
def test_killed_and_resumed_equals_never_killed_with_a_discriminator(
    tmp_path: Path, adversarial: Path
) -> None:
    """Killed before its first step and after; its weights and optimizer are in the checkpoint."""
    for step in (4, 1):
        with pytest.raises(KeyboardInterrupt):
            train_vq(CONFIG, ADVERSARIAL, interrupted(stripes, step), tmp_path)
    train_vq(CONFIG, ADVERSARIAL, stripes, tmp_path)
    assert any("discriminator" in name for name in saved_state(adversarial)["model"])
    assert same_checkpoint(adversarial, tmp_path)


@pytest.mark.slow
def test_discriminator_starts_at_its_step(tmp_path: Path, adversarial: Path) -> None:
    """Until then the tokenizer trains as without one."""
    train_vq(CONFIG, replace(ADVERSARIAL, adversarial_weight=0.0), stripes, tmp_path)
    on, off = (logged(folder) for folder in (adversarial, tmp_path))
    assert [line["psnr"] for line in on[:5]] == [line["psnr"] for line in off[:5]]
    assert on[5]["psnr"] != off[5]["psnr"]
    assert [line["discriminator_loss"] > 0 for line in on] == [False] * 4 + [True] * 2
    assert on[4]["generator_loss"] != 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("stlpips_pytorch") is None, reason="stlpips-pytorch is not installed")
def test_perceptual_loss_decreases(tmp_path: Path) -> None:
    run = replace(
        TRAINING,
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
    lines = logged(tmp_path)
    assert lines[-1]["perceptual_loss"] < lines[0]["perceptual_loss"] * 0.75


@pytest.mark.slow
def test_training_on_clips_and_images(tmp_path: Path) -> None:
    """In one run, with batches of either kind."""
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
    lines = logged(tmp_path)
    assert lines[-1]["psnr"] > lines[0]["psnr"]
    assert model.encode(clips(np.random.default_rng(0), 1)).shape == (1, 1, 12, 12)


@torch.no_grad()
def test_latents_of_clips_equal_the_tokenizer() -> None:
    torch.manual_seed(0)
    model = VisionTokenizer(CONFIG).eval()
    clip = clips(np.random.default_rng(0), 1)[..., :8, :8].repeat(1, 2, 1, 1, 1)
    codes = model.encode(clip)
    assert torch.equal(model.quantize(encode_latent(model, clip)), codes)
    latent = model.quantize.lookup(codes)
    assert torch.equal(decode_latent(model, latent, image=False), model.decode(codes))


@pytest.mark.slow
def test_initial_model_keeps_its_codebook(tmp_path: Path) -> None:
    """Training starts from its weights, without k-means."""
    run = replace(TRAINING, steps=1, save_every=1, unquantized_steps=0, learning_rate=0.0)
    initial = train_vq(CONFIG, TRAINING, batch, tmp_path / "a")
    conv, entry = initial.encoder.conv_in.weight.clone(), initial.quantize.embedding.weight.clone()
    model = train_vq(CONFIG, run, batch, tmp_path / "b", initial_model=initial)
    assert torch.equal(model.encoder.conv_in.weight, conv)
    assert (model.quantize.embedding.weight - entry).norm() < 0.5 * entry.norm()
    other = replace(CONFIG, codebook_size=8)
    with pytest.raises(InputError, match="another config"):
        train_vq(other, run, batch, tmp_path / "c", initial_model=initial)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"perceptual_weight": -1.0}, "perceptual_weight is -1.0"),
        ({"adversarial_weight": float("nan")}, "adversarial_weight is nan"),
        ({"adversarial_weight": 0.1, "adversarial_start_step": 6}, "it must be in"),
        ({"on_bad_batch": "skip"}, "not supported"),
    ],
)
def test_invalid_config_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(TRAINING, **change)


def test_images_too_small_for_the_discriminator_are_refused(tmp_path: Path) -> None:
    run = replace(ADVERSARIAL, adversarial_start_step=0)
    with pytest.raises(InputError, match="sides of at least 24"):
        train_vq(CONFIG, run, batch, tmp_path)
