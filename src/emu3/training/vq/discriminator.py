"""Patch discriminator and adversarial losses of the vision tokenizer.

Squared error alone gives blurred reconstructions. A discriminator learns to tell patches of images
from patches of reconstructions, and the tokenizer is trained to deceive it: PatchGAN with the hinge
loss and VQGAN's adaptive weight (Esser et al. 2021, arXiv 2012.09841, section 3.2). Paper section
2.2 names a GAN loss without details.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.errors import InputError
from emu3.training.optimizers import OptimizerContainer

GROUPS = 8
MIN_SIDE = 24  # pixels
MAX_ADAPTIVE_WEIGHT = 1e4  # as in VQGAN


class PatchDiscriminator(nn.Module):
    """Convolutions whose outputs have a receptive field of 70 pixels.

    GroupNorm instead of VQGAN's batch norm, with which a score depends on the other images of the
    batch.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        channels = width
        for out_channels, stride in ((2 * width, 2), (4 * width, 2), (8 * width, 1)):
            layers += [
                nn.Conv2d(channels, out_channels, 4, stride, 1, bias=False),
                nn.GroupNorm(GROUPS, out_channels),
                nn.LeakyReLU(0.2),
            ]
            channels = out_channels
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 1, 1))
        for module in self.layers:
            if isinstance(module, nn.Conv2d):  # initialization of pix2pix (arXiv 1611.07004)
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to a score for each patch [B, 1, h, w]; high is real.

        Raises InputError on images with a side below 24 pixels.
        """
        if pixels.ndim != 4 or min(pixels.shape[2:]) < MIN_SIDE:
            raise InputError(
                f"pixels {list(pixels.shape)}: the discriminator needs images [B, 3, H, W] with "
                f"sides of at least {MIN_SIDE} pixels"
            )
        return self.layers(pixels)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator: scores of images above 1, of reconstructions below -1."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adaptive_weight(reconstruction: Tensor, generator: Tensor, last_layer: Tensor) -> Tensor:
    """Weight of the generator loss that gives it the same gradient norm as the reconstruction loss.

    Both are scalars; the norms are taken at `last_layer`, the last weight of the decoder.
    """
    (by_reconstruction,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (by_generator,) = torch.autograd.grad(generator, last_layer, retain_graph=True)
    ratio = by_reconstruction.norm() / (by_generator.norm() + 1e-4)
    return ratio.clamp(0, MAX_ADAPTIVE_WEIGHT).detach()


def generator_loss(discriminator: PatchDiscriminator, reconstruction: Tensor) -> Tensor:
    """Loss of the tokenizer: minus the mean score of reconstructions [B, 3, H, W].

    Gradients reach the pixels, not the discriminator's weights.
    """
    discriminator.requires_grad_(False)
    score = discriminator(reconstruction).mean()
    discriminator.requires_grad_(True)
    return -score


def accumulate_discriminator_gradients(
    discriminator: PatchDiscriminator, pixels: Tensor, reconstruction: Tensor
) -> float:
    """Add the discriminator's gradients from images and reconstructions; returns its loss.

    The loss is 1 for a discriminator that finds no difference, and 0 for a perfect one.
    """
    loss = hinge_loss(discriminator(pixels), discriminator(reconstruction.detach()))
    loss.backward()
    return loss.item()


def add_discriminator(
    tokenizer: OptimizerContainer, discriminator: nn.Module, lr_scale: float
) -> OptimizerContainer:
    """Optimizers of the tokenizer and of its discriminator, which step together.

    The discriminator's learning rate is `lr_scale` times the tokenizer's. Their gradients are
    clipped together: the step sizes of AdamW and Muon hardly depend on the gradient's norm.
    """
    # Skips parameters without a gradient: all of them, before the adversarial loss starts.
    adamw = torch.optim.AdamW(
        discriminator.parameters(), lr=0.0, betas=(0.5, 0.9), weight_decay=0.0
    )
    return OptimizerContainer([*tokenizer.optimizers, adamw], [*tokenizer.lr_scales, lr_scale])
