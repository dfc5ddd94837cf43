"""Training the vision tokenizer on still pictures.

Loss: L2 + L1 on pixels + commitment + consistency (`consistency.py`). For a few hundred steps the
latent passes unquantised, then k-means places the codebook, then all of it learns together.
(Emu3's own started from a trained SBER-MoVQGAN and used L2 + LPIPS + GAN + commitment, paper
section 2.2; weights undisclosed.)
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
from emu3.train.codebook import CodebookTrainer
from emu3.train.consistency import inconsistency, same_patches
from emu3.train.loop import Job, Learned, Run, train
from emu3.train.optim import MuonAndAdamW
from emu3.train.picture import psnr, words
from emu3.train.precision import products
from emu3.vision.blocks import CausalConv3d, SpatialNorm
from emu3.vision.tokenizer import VisionTokenizer

Batch = Callable[[np.random.Generator, int], Tensor]
"""(randomness, batch size) to pixels [B, 3, H, W] in [-1, 1]; a batch shares one size."""


@dataclass(frozen=True, kw_only=True)
class VisionTraining(Run):
    """Everything a run states."""

    batch: int  # pictures in a step
    unquantised: int  # steps before the codebook exists
    l1: float
    commitment: float
    consistency: float  # weight of "equal pixels, equal codes" at the end; it grows from zero

    def __post_init__(self) -> None:
        """Refuse to leave out batches: the codebook has moved before a batch proves bad."""
        super().__post_init__()
        if self.on_bad != "stop":
            raise InputError(
                "on_bad = 'skip' is not for vision; a batch moves its codebook at once"
            )


@torch.no_grad()
def identity_in_time(model: VisionTokenizer) -> None:
    """Start the temporal convolutions as the identity on a repeated frame.

    They sit on the narrow latent with a SiLU behind each, and random ones would destroy most of
    it. A bias of two moves the latent to where SiLU is nearly a line.
    """
    for name, conv in model.named_modules():
        if not isinstance(conv, CausalConv3d):
            continue
        weight = conv.conv.weight
        last, middle = weight.shape[2] - 1, weight.shape[3] // 2
        nn.init.zeros_(weight)
        assert conv.conv.bias is not None
        nn.init.zeros_(conv.conv.bias)
        if name.endswith("conv2"):
            continue  # a residual branch that starts silent
        for channel in range(weight.shape[0]):
            weight[channel, channel, last, -1 - middle, -1 - middle] = 1.0
        if "time_conv.0" in name:
            conv.conv.bias.fill_(2.0)


@torch.no_grad()
def plain_norms(model: VisionTokenizer) -> None:
    """Start every spatial norm near the GroupNorm inside it, with a faint view of the latent."""
    for module in model.modules():
        if isinstance(module, SpatialNorm):
            assert module.conv_y.bias is not None and module.conv_b.bias is not None
            module.conv_y.weight.mul_(0.2)
            module.conv_b.weight.mul_(0.2)
            nn.init.ones_(module.conv_y.bias)
            nn.init.zeros_(module.conv_b.bias)


def train_vision(
    config: VisionConfig,
    run: VisionTraining,
    batch: Batch,
    folder: Path,
    on_save: Callable[[VisionTokenizer, int], None] = lambda model, step: None,
) -> VisionTokenizer:
    """Train from scratch, or from `folder`'s checkpoint; returns the trained model in eval mode.

    `on_save(model, step)` is called with the model in eval mode after every regular checkpoint.
    Raises TrainingError and Stopped as `loop.train` does.
    """
    torch.manual_seed(run.seed)
    model = VisionTokenizer(config)
    identity_in_time(model)
    plain_norms(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not run.bf16:
            # Measured on a CPU: a step in float32 takes half the time, one in bfloat16 longer.
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last)
    book = CodebookTrainer(model.quantize)
    recent: list[Tensor] = []

    def gradients(rng: np.random.Generator, step: int) -> Learned:
        model.train()
        pixels = batch(rng, run.batch)
        with products(pixels.device, run.bf16):
            latent = model.latent(pixels if run.bf16 else _channels_last(pixels)).float()
        if step < run.unquantised:
            recent[:] = [*recent[-63:], _rows(latent)]
        elif recent:
            book.start(torch.cat(recent))
            recent.clear()
        quantised, revived = _quantise(model, book, latent, step >= run.unquantised)
        with products(pixels.device, run.bf16):
            # Straight through: the gradient passes the rounding as if it were not there.
            decoded = model.picture(latent + (quantised - latent).detach()).float()
        even = run.consistency * step / run.steps
        loss, values = _losses(model, run, even, pixels, latent, quantised, decoded)
        loss.backward()
        return Learned({**values, "revived": revived}, len(pixels), batch=words(pixels))

    job = Job(
        model,
        MuonAndAdamW(model.named_parameters()),
        gradients,
        extras={"codebook": book},
        on_save=lambda step: on_save(model.eval(), step),
        # Not before there is a codebook: the latents that place it are in no checkpoint.
        savable=lambda step: step >= run.unquantised,
    )
    train(job, run, folder)
    return model.eval()


def _channels_last(pixels: Tensor) -> Tensor:
    return pixels.to(memory_format=torch.channels_last)


def _rows(latent: Tensor) -> Tensor:
    """[B, c, T, h, w] to [N, c], without its history."""
    return latent.detach().movedim(1, -1).flatten(0, -2)


def _quantise(
    model: VisionTokenizer, book: CodebookTrainer, latent: Tensor, active: bool
) -> tuple[Tensor, float]:
    """The quantised latent (the latent itself before there is a codebook) and the share revived."""
    if not active:
        return latent, 0.0
    codes = model.quantize(latent)
    quantised = model.quantize.lookup(codes)
    return quantised, book.update(_rows(latent), codes.flatten())


def _losses(
    model: VisionTokenizer,
    run: VisionTraining,
    even: float,
    pixels: Tensor,
    latent: Tensor,
    quantised: Tensor,
    decoded: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    """What is to be minimised, and what of it is worth a line in the log."""
    mse = F.mse_loss(decoded, pixels)
    commit = F.mse_loss(latent, quantised.detach())
    patches = same_patches(pixels, model.config.spatial_factor)
    uneven = inconsistency(latent.movedim(1, -1).flatten(0, -2), patches)
    loss = mse + run.l1 * F.l1_loss(decoded, pixels)
    loss = loss + run.commitment * commit + even * uneven
    terms = {"commit": commit.item(), "uneven": uneven.item()}
    return loss, {"loss": loss.item(), "psnr": psnr(mse), **terms}
