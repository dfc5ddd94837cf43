"""Training the vision tokenizer on still pictures and clips.

Loss: L2 + L1 on pixels + commitment + consistency (`consistency.py`), and where a run asks for them
a perceptual distance (`perceptual.py`) and a discriminator (`discriminator.py`). From scratch the
latent passes unquantised for a few hundred steps, then k-means places the codebook, then all of it
learns together. Emu3's own started from a trained SBER-MoVQGAN (`warm_start.py`) and used L2 +
LPIPS + GAN + commitment (paper section 2.2); their weights are undisclosed.
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
"""(randomness, batch size) to pixels in [-1, 1] of one size: pictures [B, 3, H, W], or clips
[B, 4t, 3, H, W]. Batches of one run may be of either kind."""


@dataclass(frozen=True, kw_only=True)
class VQTrainingConfig(TrainingConfig):
    """Everything a run states. What has a default of zero is off."""

    batch_size: int  # pictures, or clips, in a step
    unquantized_steps: int  # steps before k-means places the codebook; 0: it is kept as it is
    l1_weight: float
    commitment_weight: float
    consistency_weight: (
        float  # weight of "equal pixels, equal codes" at the end; it grows from zero
    )
    perceptual_weight: float = 0.0  # weight of the perceptual distance
    perceptual_backbone: Backbone = "vgg"  # what measures it
    adversarial_weight: float = (
        0.0  # weight of deceiving the discriminator, on top of the adaptive one
    )
    adversarial_start_step: int = (
        0  # the step at which the discriminator begins to learn and to count
    )
    discriminator_lr_scale: float = 0.1  # its learning rate, as a share of the tokenizer's
    discriminator_width: int = 64  # channels of its first layer

    def __post_init__(self) -> None:
        """Refuse to leave out batches: the codebook has moved before a batch proves bad."""
        super().__post_init__()
        if self.on_bad_batch != "stop":
            raise InputError(
                "on_bad = 'skip' is not for vision; a batch moves its codebook at once"
            )
        for name in ("perceptual_weight", "adversarial_weight"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} = {getattr(self, name)}; a weight is 0 or more")
        if self.adversarial_weight and not 0 <= self.adversarial_start_step < self.steps:
            raise InputError(
                f"adversarial_from = {self.adversarial_start_step}: the discriminator would never begin "
                f"in {self.steps} steps; name one of them, or set adversarial = 0"
            )


@torch.no_grad()
def init_spatial_norms(model: VisionTokenizer) -> None:
    """Start every spatial norm near the GroupNorm inside it, with a faint view of the latent."""
    for module in model.modules():
        if isinstance(module, SpatialNorm):
            assert module.conv_y.bias is not None and module.conv_b.bias is not None
            module.conv_y.weight.mul_(0.2)
            module.conv_b.weight.mul_(0.2)
            nn.init.ones_(module.conv_y.bias)
            nn.init.zeros_(module.conv_b.bias)


def train_vq(
    config: VisionConfig,
    run: VQTrainingConfig,
    batch: PixelBatchFn,
    folder: Path,
    on_save: Callable[[VisionTokenizer, int], None] = lambda model, step: None,
    start: VisionTokenizer | None = None,
    device: torch.device | None = None,
) -> VisionTokenizer:
    """Train to the last step and return the model, in eval mode.

    It begins with `folder`'s checkpoint where there is one, else with `start` (which is trained in
    place; `warm_start` makes one), else from scratch. On the CPU unless a `device` is named.
    `on_save(model, step)` is called with the model in eval mode after every regular checkpoint.

    The log tells of `psnr` in dB, of the terms of the loss that are not off (`commit`, `uneven`,
    `perceptual`, `generator`), of the `discriminator`'s own, and of the codebook: the share of it
    `used` and its `perplexity` over about the last hundred steps, and the share `revived` a step.

    Raises InputError on a `start` of another config and on sides too small for what is switched
    on, MissingExtraError where the perceptual distance is on and its package missing, and
    TrainingError and Stopped as `loop.train` does.
    """
    torch.manual_seed(run.seed)
    model = _beginning(config, start).to(device or torch.device("cpu"))
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not run.bf16:
            # Measured on a CPU: a step in float32 takes half the time, one in bfloat16 longer.
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last)
    lesson = _Lesson(model, run, batch)
    job = TrainingTask(
        lesson.whole,
        lesson.optimizer,
        lesson.gradients,
        extras={"codebook": lesson.book},
        on_save=lambda step: on_save(model.eval(), step),
        # Not before there is a codebook: the latents that place it are in no checkpoint.
        can_save=lambda step: step >= run.unquantized_steps,
    )
    train(job, run, folder)
    return model.eval()


def _beginning(config: VisionConfig, start: VisionTokenizer | None) -> VisionTokenizer:
    if start is None:
        model = VisionTokenizer(config)
        init_temporal_identity(model)
        init_spatial_norms(model)
        return model
    if start.config != config:
        raise InputError("the tokenizer to start from has another config than the run; give one")
    return start


class _Lesson:
    """One model and all that judges it."""

    def __init__(self, model: VisionTokenizer, run: VQTrainingConfig, batch: PixelBatchFn) -> None:
        self.model, self.run, self.batch = model, run, batch
        self.book = CodebookTrainer(model.quantize)
        self.recent: list[Tensor] = []  # latents to place the codebook by
        self.distance = (
            LPIPS(run.perceptual_backbone).to(model.device) if run.perceptual_weight else None
        )
        self.optimizer: OptimizerContainer = build_muon_and_adamw(model.named_parameters())
        self.whole: nn.Module = model
        self.critic: PatchDiscriminator | None = None
        if run.adversarial_weight:
            self.critic = PatchDiscriminator(run.discriminator_width).to(model.device)
            self.optimizer = add_discriminator(
                self.optimizer, self.critic, run.discriminator_lr_scale
            )
            self.whole = nn.ModuleDict({"tokenizer": model, "discriminator": self.critic})

    def gradients(self, rng: np.random.Generator, step: int) -> StepResult:
        """Draw a batch and learn from it."""
        run = self.run
        self.model.train()
        pixels = self.batch(rng, run.batch_size).to(self.model.device)
        with autocast(pixels.device, run.bf16):
            latent = encode_latent(
                self.model, pixels if run.bf16 else _channels_last(pixels)
            ).float()
        self._place(latent, step)
        quantised, revived = _quantise(self.model, self.book, latent, step >= run.unquantized_steps)
        with autocast(pixels.device, run.bf16):
            # Straight through: the gradient passes the rounding as if it were not there.
            through = latent + (quantised - latent).detach()
            decoded = decode_latent(self.model, through, still=pixels.ndim == 4).float()
        loss, values = self._losses(step, pixels, latent, quantised, decoded)
        loss.backward()
        if self.critic is not None:
            begun = step >= run.adversarial_start_step
            lost = (
                accumulate_discriminator_gradients(self.critic, _frames(pixels), _frames(decoded))
                if begun
                else 0.0
            )
            values["discriminator"] = lost
        values |= {"revived": revived, "used": self.book.used()}
        values["perplexity"] = self.book.perplexity()
        return StepResult(values, len(pixels), description=describe_pixels(_frames(pixels)))

    def _place(self, latent: Tensor, step: int) -> None:
        """Remember latents until there are enough to place the codebook by, then place it."""
        if step < self.run.unquantized_steps:
            self.recent[:] = [*self.recent[-63:], _rows(latent)]
        elif self.recent:
            self.book.start(torch.cat(self.recent))
            self.recent.clear()

    def _losses(
        self, step: int, pixels: Tensor, latent: Tensor, quantised: Tensor, decoded: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """What is to be minimised, and what of it is worth a line in the log."""
        run = self.run
        mse = F.mse_loss(decoded, pixels)
        commit = F.mse_loss(latent, quantised.detach())
        uneven = patch_consistency_loss(_rows_of(latent), _patches(self.model.config, pixels))
        likeness = mse + run.l1_weight * F.l1_loss(decoded, pixels)
        values = {"psnr": psnr(mse), "commit": commit.item(), "uneven": uneven.item()}
        if self.distance is not None:
            apart = self.distance(_frames(decoded), _frames(pixels)).mean()
            likeness = likeness + run.perceptual_weight * apart
            values["perceptual"] = apart.item()
        even = run.consistency_weight * step / run.steps
        loss = likeness + run.commitment_weight * commit + even * uneven
        if self.critic is not None:
            values["generator"] = 0.0
            if step >= run.adversarial_start_step:
                fooled = generator_loss(self.critic, _frames(decoded))
                last = self.model.decoder.conv_out.weight
                loss = (
                    loss + run.adversarial_weight * adaptive_weight(likeness, fooled, last) * fooled
                )
                values["generator"] = fooled.item()
        return loss, {"loss": loss.item(), **values}


def encode_latent(model: VisionTokenizer, pixels: Tensor) -> Tensor:
    """What the codebook sees, of pictures as of clips, which run causally: [B, c, t, h, w]."""
    if pixels.ndim == 4:
        return model.encode_latent(pixels)
    return model.quant_conv(model.encoder(pixels.transpose(1, 2)))


def decode_latent(model: VisionTokenizer, latent: Tensor, *, still: bool) -> Tensor:
    """Quantised latents [B, c, t, h, w] to clips; with `still`, t = 1 to pictures."""
    if still:
        return model.decode_latent(latent)
    return model.decoder(model.post_quant_conv(latent), latent).transpose(1, 2)


def _frames(pixels: Tensor) -> Tensor:
    """The frames of clips as so many pictures."""
    return pixels if pixels.ndim == 4 else pixels.flatten(0, 1)


def _channels_last(pixels: Tensor) -> Tensor:
    return pixels.to(memory_format=torch.channels_last) if pixels.ndim == 4 else pixels


def _rows_of(latent: Tensor) -> Tensor:
    """[B, c, T, h, w] to [N, c], in the order of codes."""
    return latent.movedim(1, -1).flatten(0, -2)


def _rows(latent: Tensor) -> Tensor:
    """[B, c, T, h, w] to [N, c], without its history."""
    return _rows_of(latent.detach())


def _patches(config: VisionConfig, pixels: Tensor) -> Tensor:
    """Numbers of what codes stand for: patches of pictures, or of four frames."""
    if pixels.ndim == 5:
        groups = pixels.unflatten(1, (-1, config.temporal_downsample_factor)).flatten(0, 1)
        pixels = groups.flatten(1, 2)
    return patch_ids(pixels, config.spatial_factor)


def _quantise(
    model: VisionTokenizer, book: CodebookTrainer, latent: Tensor, active: bool
) -> tuple[Tensor, float]:
    """The quantised latent (the latent itself before there is a codebook) and the share revived."""
    if not active:
        return latent, 0.0
    codes = model.quantize(latent)
    quantised = model.quantize.lookup(codes)
    return quantised, book.update(_rows(latent), codes.flatten())
