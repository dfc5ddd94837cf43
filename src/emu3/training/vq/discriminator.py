"""The discriminator: learns to tell patches of pictures from patches of reconstructions.

Squared error is content with a blur. A second net is trained to find such patches, and the
tokenizer to deceive it. PatchGAN with the hinge loss, weighed by the ratio of two gradients as
VQGAN does (Esser et al. 2021, arXiv 2012.09841, section 3.2); paper section 2.2 names a GAN loss
and not which.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.errors import InputError
from emu3.training.optimizers import OptimizerContainer

GROUPS = 8
SMALLEST = 24  # pixels of a side
MOST = 1e4  # of the adaptive weight, as VQGAN has it


class PatchDiscriminator(nn.Module):
    """Convolutions whose every output sees one patch: 70 pixels wide.

    VQGAN normalises by batch. A score then depends on which pictures share a step, and a batch of
    few is noise; these are GroupNorms.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        inner = width
        for wider, stride in ((2 * width, 2), (4 * width, 2), (8 * width, 1)):
            layers += [
                nn.Conv2d(inner, wider, 4, stride, 1, bias=False),
                nn.GroupNorm(GROUPS, wider),
                nn.LeakyReLU(0.2),
            ]
            inner = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(inner, 1, 4, 1, 1))
        for module in self.layers:
            if isinstance(module, nn.Conv2d):  # as pix2pix starts it (arXiv 1611.07004)
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to a score for each patch [B, 1, h, w]; high is real.

        Raises InputError on sides that leave no patch.
        """
        if pixels.ndim != 4 or min(pixels.shape[2:]) < SMALLEST:
            raise InputError(
                f"pixels {list(pixels.shape)}: the discriminator sees pictures [B, 3, H, W] with "
                f"sides of {SMALLEST} or more"
            )
        return self.layers(pixels)


def hinge_loss(real: Tensor, made: Tensor) -> Tensor:
    """What the discriminator minimises: scores of pictures above 1, of reconstructions below -1."""
    return (F.relu(1 - real).mean() + F.relu(1 + made).mean()) / 2


def adaptive_weight(rest: Tensor, generator_loss: Tensor, last: Tensor) -> Tensor:
    """What to multiply `fooling` with, so that it pulls at `last` as hard as `rest` does.

    Both losses are scalars that depend on the weight `last`, the last layer of the decoder.
    Without it the balance would shift with every other weight and with the discriminator.
    """
    (by_rest,) = torch.autograd.grad(rest, last, retain_graph=True)
    (by_fooling,) = torch.autograd.grad(generator_loss, last, retain_graph=True)
    return (by_rest.norm() / (by_fooling.norm() + 1e-4)).clamp(0, MOST).detach()


def generator_loss(critic: PatchDiscriminator, made: Tensor) -> Tensor:
    """What the tokenizer minimises: minus the mean score of reconstructions [B, 3, H, W].

    Its gradient reaches the pixels and leaves the discriminator alone.
    """
    critic.requires_grad_(False)
    score = critic(made).mean()
    critic.requires_grad_(True)
    return -score


def accumulate_discriminator_gradients(
    critic: PatchDiscriminator, pixels: Tensor, made: Tensor
) -> float:
    """Add the discriminator's own gradients from pictures and reconstructions; its loss.

    1 is what one that finds no difference gets, 0 is one that always knows.
    """
    loss = hinge_loss(critic(pixels), critic(made.detach()))
    loss.backward()
    return loss.item()


def add_discriminator(
    tokenizer: OptimizerContainer, discriminator: nn.Module, lr_scale: float
) -> OptimizerContainer:
    """Optimizers of the tokenizer and of its discriminator, which step together.

    The discriminator's learning rate is `lr_scale` times the tokenizer's. Their gradients are
    clipped together: the step sizes of AdamW and Muon hardly depend on the gradient's norm.
    """
    adamw = torch.optim.AdamW(
        discriminator.parameters(), lr=0.0, betas=(0.5, 0.9), weight_decay=0.0
    )
    return OptimizerContainer([*tokenizer.optimizers, adamw], [*tokenizer.lr_scales, lr_scale])
