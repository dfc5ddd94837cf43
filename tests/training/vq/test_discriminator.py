"""Patch discriminator and adversarial losses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from emu3.errors import InputError
from emu3.training.optimizers import build_adamw
from emu3.training.vq.discriminator import (
    PatchDiscriminator,
    accumulate_discriminator_gradients,
    adaptive_weight,
    add_discriminator,
    generator_loss,
    hinge_loss,
)


def test_receptive_field_is_70_pixels() -> None:
    """Of the convolutions; norms, which depend on the whole image, are removed."""
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8)
    plain = [each for each in discriminator.layers if not isinstance(each, nn.GroupNorm)]
    pixels = torch.zeros(1, 3, 128, 128, requires_grad=True)
    scores = nn.Sequential(*plain)(pixels)
    middle = scores.shape[-1] // 2
    scores[0, 0, middle, middle].backward()
    assert pixels.grad is not None
    seen = pixels.grad.abs().sum((0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


def test_small_images_are_refused() -> None:
    assert PatchDiscriminator(8)(torch.zeros(1, 3, 24, 24)).shape[-2:] == (1, 1)
    with pytest.raises(InputError, match="sides of at least 24"):
        PatchDiscriminator(8)(torch.zeros(1, 3, 16, 24))


def test_hinge_loss_by_hand() -> None:
    assert hinge_loss(torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])) == (0.25 + 0.5) / 2
    assert hinge_loss(torch.zeros(3), torch.zeros(3)) == 1  # no difference found
    assert hinge_loss(torch.full((3,), 9.0), torch.full((3,), -9.0)) == 0  # perfect discriminator


def test_it_learns_to_detect_blur() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8)
    optimizer = add_discriminator(
        build_adamw([nn.Parameter(torch.zeros(1))], weight_decay=0.0), discriminator, lr_scale=1.0
    )
    losses = []
    for _ in range(25):
        sharp = torch.randn(2, 3, 32, 32)
        losses.append(
            accumulate_discriminator_gradients(discriminator, sharp, F.avg_pool2d(sharp, 3, 1, 1))
        )
        optimizer.step(2e-3)
    assert losses[0] > 0.8
    assert losses[-1] < 0.3


def test_generator_loss_has_gradients_for_pixels_only() -> None:
    discriminator = PatchDiscriminator(8)
    made = torch.rand(1, 3, 32, 32, requires_grad=True)
    generator_loss(discriminator, made).backward()
    assert made.grad is not None
    assert made.grad.abs().sum() > 0
    assert all(
        weight.grad is None and weight.requires_grad for weight in discriminator.parameters()
    )


def test_discriminator_loss_has_gradients_for_its_weights_only() -> None:
    discriminator = PatchDiscriminator(8)
    made = torch.rand(1, 3, 32, 32, requires_grad=True)
    accumulate_discriminator_gradients(discriminator, torch.rand(1, 3, 32, 32), made)
    assert made.grad is None
    assert all(weight.grad is not None for weight in discriminator.parameters())


def test_adaptive_weight_equalizes_gradient_norms() -> None:
    torch.manual_seed(0)
    last = torch.randn(4, 4, requires_grad=True)
    reconstruction, generator = (
        (last @ torch.randn(4)).square().sum(),
        (last @ torch.randn(4)).sum() * 1e-2,
    )
    weight = adaptive_weight(reconstruction, generator, last)
    assert not weight.requires_grad
    norms = [
        torch.autograd.grad(each, last)[0].norm() for each in (reconstruction, weight * generator)
    ]
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-2, atol=0)


def test_learning_rate_scale() -> None:
    optimizer = add_discriminator(
        build_adamw([nn.Parameter(torch.ones(1))], weight_decay=0.0), PatchDiscriminator(8), 0.25
    )
    optimizer.step(0.1)
    rates = [group["lr"] for part in optimizer.optimizers for group in part.param_groups]
    assert rates == [0.1, 0.025]
