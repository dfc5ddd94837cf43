"""Training of the vision tokenizer on images and video clips.

Loss: L2 + L1 on pixels + commitment + patch consistency (`patch_consistency.py`), and optionally
LPIPS (`lpips.py`) and an adversarial loss (`discriminator.py`). From scratch, latents are not
quantized for the first few hundred steps; then k-means initializes the codebook, and all parts
train together. Emu3's tokenizer started from a trained SBER-MoVQGAN (`warm_start.py`) and used L2 +
LPIPS + GAN + commitment (paper section 2.2); the weights of the terms were not disclosed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.config import VisionConfig
from emu3.errors import InputError
from emu3.models.vq.blocks import SpatialNorm
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.training.mixed_precision import autocast
from emu3.training.optimizers import OptimizerContainer, build_muon_and_adamw
from emu3.training.trainer import StepResult, TrainingConfig, TrainingTask, train
from emu3.training.vq.codebook import CodebookTrainer
from emu3.training.vq.decoder_finetuning import describe_pixels, psnr
from emu3.training.vq.discriminator import (
    PatchDiscriminator,
    accumulate_discriminator_gradients,
    adaptive_weight,
    add_discriminator,
    generator_loss,
)
from emu3.training.vq.lpips import LPIPS, Backbone
from emu3.training.vq.patch_consistency import patch_consistency_loss, patch_ids
from emu3.training.vq.warm_start import init_temporal_identity

PixelBatchFn = Callable[[np.random.Generator, int], Tensor]
"""Draws (generator, batch size) pixels in [-1, 1]: images [B, 3, H, W] or clips [B, 4t, 3, H, W].

All items of a batch have one size; batches of one run may be of either kind.
"""

KMEANS_BATCHES = 64  # recent batches whose latents initialize the codebook


@dataclass(frozen=True, kw_only=True)
class VQTrainingConfig(TrainingConfig):
    """Settings of a vision tokenizer run. Raises InputError on values outside their range.

    A weight of 0 switches its loss off.
    """

    batch_size: int  # images or clips in a step
    unquantized_steps: int  # steps before k-means initializes the codebook; 0 keeps the codebook
    l1_weight: float
    commitment_weight: float
    consistency_weight: float  # at the last step; it increases linearly from 0
    perceptual_weight: float = 0.0
    perceptual_backbone: Backbone = "vgg"
    adversarial_weight: float = 0.0  # multiplied by VQGAN's adaptive weight
    adversarial_start_step: int = 0  # when discriminator and adversarial loss start
    discriminator_lr_scale: float = 0.1  # its learning rate relative to the tokenizer's
    discriminator_width: int = 64  # channels of its first layer

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if self.on_bad_batch != "stop":
            raise InputError(
                "on_bad_batch='skip' is not supported for the vision tokenizer: a batch updates "
                "the codebook before it can be checked"
            )
        for name in ("perceptual_weight", "adversarial_weight"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.adversarial_weight and not 0 <= self.adversarial_start_step < self.steps:
            raise InputError(
                f"adversarial_start_step is {self.adversarial_start_step}; it must be in "
                f"[0, {self.steps}), or adversarial_weight 0"
            )


@torch.no_grad()
def init_spatial_norms(model: VisionTokenizer) -> None:
    """Initialize spatial norms close to plain GroupNorms, with little influence of the latent."""
    for module in model.modules():
        if isinstance(module, SpatialNorm):
            assert module.conv_y.bias is not None and module.conv_b.bias is not None
            module.conv_y.weight.mul_(0.2)
            module.conv_b.weight.mul_(0.2)
            nn.init.ones_(module.conv_y.bias)
            nn.init.zeros_(module.conv_b.bias)


def train_vq(
    model_config: VisionConfig,
    config: VQTrainingConfig,
    batches: PixelBatchFn,
    folder: Path,
    on_save: Callable[[VisionTokenizer, int], None] = lambda model, step: None,
    initial_model: VisionTokenizer | None = None,
    device: torch.device | None = None,
) -> VisionTokenizer:
    """Train a vision tokenizer, from `folder`'s checkpoint if there is one.

    The log has `psnr` in dB, `commitment_loss`, `consistency_loss`, of the losses that are switched
    on `perceptual_loss`, `generator_loss` and `discriminator_loss`, and of the codebook
    `codebook_usage` and `codebook_perplexity` over about the last hundred steps and
    `codebook_replaced`, the share of entries replaced in a step.

    Args:
        model_config: config of the tokenizer.
        config: the settings.
        batches: draws the pixels of a step.
        folder: folder of the run.
        on_save: called with the model in eval mode and the number of steps after every regular
            checkpoint.
        initial_model: a tokenizer to start from, trained in place; see `warm_start`. By default
            random weights.
        device: the CPU by default.

    Returns:
        The model, in eval mode.

    Raises:
        InputError: on an initial model of another config, and on images that are too small for the
            losses that are switched on.
        MissingExtraError: if the perceptual loss is on and its package is missing.
        TrainingError, TrainingInterrupted: as `trainer.train`.
    """
    torch.manual_seed(config.seed)
    model = _initial_model(model_config, initial_model).to(device or torch.device("cpu"))
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not config.bf16:
            # Measured on a CPU: halves the time of a float32 step, but slows down bfloat16.
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last)
    trainer = _VQTrainer(model, config, batches)
    task = TrainingTask(
        trainer.saved_model,
        trainer.optimizer,
        trainer.forward_backward,
        extras={"codebook": trainer.codebook},
        on_save=lambda step: on_save(model.eval(), step),
        # Before k-means a run cannot resume: the latents for it are in no checkpoint.
        can_save=lambda step: step >= config.unquantized_steps,
    )
    train(task, config, folder)
    return model.eval()


def _initial_model(config: VisionConfig, model: VisionTokenizer | None) -> VisionTokenizer:
    if model is None:
        model = VisionTokenizer(config)
        init_temporal_identity(model)
        init_spatial_norms(model)
    elif model.config != config:
        raise InputError("initial_model has another config than model_config; use the same")
    return model


class _VQTrainer:
    """The tokenizer with its codebook trainer, perceptual loss, discriminator and optimizers."""

    def __init__(
        self, model: VisionTokenizer, config: VQTrainingConfig, batches: PixelBatchFn
    ) -> None:
        self.model, self.config, self.batches = model, config, batches
        self.codebook = CodebookTrainer(model.quantize)
        self.recent_latents: list[Tensor] = []  # for k-means
        self.perceptual: LPIPS | None = None
        if config.perceptual_weight:
            self.perceptual = LPIPS(config.perceptual_backbone).to(model.device)
        self.optimizer: OptimizerContainer = build_muon_and_adamw(model.named_parameters())
        self.saved_model: nn.Module = model
        self.discriminator: PatchDiscriminator | None = None
        if config.adversarial_weight:
            self.discriminator = PatchDiscriminator(config.discriminator_width).to(model.device)
            self.optimizer = add_discriminator(
                self.optimizer, self.discriminator, config.discriminator_lr_scale
            )
            self.saved_model = nn.ModuleDict(
                {"tokenizer": model, "discriminator": self.discriminator}
            )

    def forward_backward(self, rng: np.random.Generator, step: int) -> StepResult:
        """Draw a batch and add its gradients."""
        config, model = self.config, self.model
        model.train()
        pixels = self.batches(rng, config.batch_size).to(model.device)
        inputs = pixels if config.bf16 else _channels_last(pixels)
        with autocast(pixels.device, config.bf16):
            latent = encode_latent(model, inputs).float()
        self._init_codebook(latent, step)
        quantized, replaced = self._quantize(latent, step)
        with autocast(pixels.device, config.bf16):
            # Straight-through estimator: the gradient passes the quantizer unchanged.
            straight_through = latent + (quantized - latent).detach()
            decoded = decode_latent(model, straight_through, image=pixels.ndim == 4).float()
        loss, metrics = self._losses(step, pixels, latent, quantized, decoded)
        loss.backward()
        if self.discriminator is not None:
            metrics["discriminator_loss"] = 0.0
            if step >= config.adversarial_start_step:
                metrics["discriminator_loss"] = accumulate_discriminator_gradients(
                    self.discriminator, _frames(pixels), _frames(decoded)
                )
        metrics["codebook_replaced"] = replaced
        metrics["codebook_usage"] = self.codebook.usage()
        metrics["codebook_perplexity"] = self.codebook.perplexity()
        return StepResult(metrics, len(pixels), description=describe_pixels(_frames(pixels)))

    def _init_codebook(self, latent: Tensor, step: int) -> None:
        """Collect latents in the unquantized steps, then initialize the codebook with them."""
        if step < self.config.unquantized_steps:
            self.recent_latents.append(_flatten(latent.detach()))
            del self.recent_latents[:-KMEANS_BATCHES]
        elif self.recent_latents:
            self.codebook.init_kmeans(torch.cat(self.recent_latents))
            self.recent_latents.clear()

    def _quantize(self, latent: Tensor, step: int) -> tuple[Tensor, float]:
        """The quantized latent and the share of replaced entries; updates the codebook."""
        if step < self.config.unquantized_steps:
            return latent, 0.0
        codes = self.model.quantize(latent)
        quantized = self.model.quantize.lookup(codes)
        return quantized, self.codebook.update(_flatten(latent.detach()), codes.flatten())

    def _losses(
        self, step: int, pixels: Tensor, latent: Tensor, quantized: Tensor, decoded: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """The total loss and the metrics."""
        config = self.config
        mse = F.mse_loss(decoded, pixels)
        commitment = F.mse_loss(latent, quantized.detach())
        consistency = patch_consistency_loss(
            _flatten(latent), _patch_ids(self.model.config, pixels)
        )
        reconstruction = mse + config.l1_weight * F.l1_loss(decoded, pixels)
        metrics = {
            "psnr": psnr(mse),
            "commitment_loss": commitment.item(),
            "consistency_loss": consistency.item(),
        }
        if self.perceptual is not None:
            perceptual = self.perceptual(_frames(decoded), _frames(pixels)).mean()
            reconstruction = reconstruction + config.perceptual_weight * perceptual
            metrics["perceptual_loss"] = perceptual.item()
        consistency_weight = config.consistency_weight * step / config.steps
        loss = (
            reconstruction
            + config.commitment_weight * commitment
            + consistency_weight * consistency
        )
        if self.discriminator is not None:
            metrics["generator_loss"] = 0.0
            if step >= config.adversarial_start_step:
                generator = generator_loss(self.discriminator, _frames(decoded))
                last_layer = self.model.decoder.conv_out.weight
                weight = adaptive_weight(reconstruction, generator, last_layer)
                loss = loss + config.adversarial_weight * weight * generator
                metrics["generator_loss"] = generator.item()
        return loss, {"loss": loss.item(), **metrics}


def encode_latent(model: VisionTokenizer, pixels: Tensor) -> Tensor:
    """Images [B, 3, H, W] or clips [B, 4t, 3, H, W] to latents [B, c, t, h, w], unquantized.

    The groups of four frames of a clip are encoded together, causally.
    """
    if pixels.ndim == 4:
        return model.encode_latent(pixels)
    return model.quant_conv(model.encoder(pixels.transpose(1, 2)))


def decode_latent(model: VisionTokenizer, latent: Tensor, *, image: bool) -> Tensor:
    """Latents [B, c, t, h, w] to clips [B, 4t, 3, H, W]; to images if `image`, with t = 1."""
    if image:
        return model.decode_latent(latent)
    return model.decoder(model.post_quant_conv(latent), latent).transpose(1, 2)


def _frames(pixels: Tensor) -> Tensor:
    """Images, or the frames of clips as images."""
    return pixels if pixels.ndim == 4 else pixels.flatten(0, 1)


def _channels_last(pixels: Tensor) -> Tensor:
    return pixels.to(memory_format=torch.channels_last) if pixels.ndim == 4 else pixels


def _flatten(latent: Tensor) -> Tensor:
    """[B, c, t, h, w] to [N, c], in the order of codes."""
    return latent.movedim(1, -1).flatten(0, -2)


def _patch_ids(config: VisionConfig, pixels: Tensor) -> Tensor:
    """`patch_ids` of images, or of the groups of four frames of clips."""
    if pixels.ndim == 5:
        groups = pixels.unflatten(1, (-1, config.temporal_downsample_factor)).flatten(0, 1)
        pixels = groups.flatten(1, 2)
    return patch_ids(pixels, config.spatial_factor)
