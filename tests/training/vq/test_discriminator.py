"""The discriminator: learns what is real, pulls as hard as asked, and leaves what it must alone."""

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


def test_a_score_sees_a_patch_of_70_pixels() -> None:
    """Norms look at the whole picture, so they are taken out to see what convolutions see."""
    torch.manual_seed(0)
    critic = PatchDiscriminator(8)
    plain = [each for each in critic.layers if not isinstance(each, nn.GroupNorm)]
    pixels = torch.zeros(1, 3, 128, 128, requires_grad=True)
    scores = nn.Sequential(*plain)(pixels)
    middle = scores.shape[-1] // 2
    scores[0, 0, middle, middle].backward()
    assert pixels.grad is not None
    seen = pixels.grad.abs().sum((0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


def test_small_pictures_are_refused() -> None:
    assert PatchDiscriminator(8)(torch.zeros(1, 3, 24, 24)).shape[-2:] == (1, 1)
    with pytest.raises(InputError, match="sides of 24 or more"):
        PatchDiscriminator(8)(torch.zeros(1, 3, 16, 24))


def test_the_hinge_by_hand() -> None:
    assert hinge_loss(torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])) == (0.25 + 0.5) / 2
    assert hinge_loss(torch.zeros(3), torch.zeros(3)) == 1  # finds no difference
    assert hinge_loss(torch.full((3,), 9.0), torch.full((3,), -9.0)) == 0  # always knows


def test_it_learns_to_tell_pictures_from_blurred_ones() -> None:
    torch.manual_seed(0)
    critic = PatchDiscriminator(8)
    both = add_discriminator(
        build_adamw([nn.Parameter(torch.zeros(1))], weight_decay=0.0), critic, lr_scale=1.0
    )
    losses = []
    for _ in range(25):
        sharp = torch.randn(2, 3, 32, 32)
        losses.append(
            accumulate_discriminator_gradients(critic, sharp, F.avg_pool2d(sharp, 3, 1, 1))
        )
        both.step(2e-3)
    assert losses[0] > 0.8
    assert losses[-1] < 0.3


def test_deceiving_it_moves_pixels_and_not_its_weights() -> None:
    critic = PatchDiscriminator(8)
    made = torch.rand(1, 3, 32, 32, requires_grad=True)
    generator_loss(critic, made).backward()
    assert made.grad is not None
    assert made.grad.abs().sum() > 0
    assert all(weight.grad is None and weight.requires_grad for weight in critic.parameters())


def test_judging_moves_its_weights_and_not_the_pixels() -> None:
    critic = PatchDiscriminator(8)
    made = torch.rand(1, 3, 32, 32, requires_grad=True)
    accumulate_discriminator_gradients(critic, torch.rand(1, 3, 32, 32), made)
    assert made.grad is None
    assert all(weight.grad is not None for weight in critic.parameters())


def test_the_adaptive_weight_makes_both_pull_equally_hard() -> None:
    torch.manual_seed(0)
    last = torch.randn(4, 4, requires_grad=True)
    rest, fooled = (last @ torch.randn(4)).square().sum(), (last @ torch.randn(4)).sum() * 1e-2
    weight = adaptive_weight(rest, fooled, last)
    assert not weight.requires_grad
    pulls = [torch.autograd.grad(each, last)[0].norm() for each in (rest, weight * fooled)]
    torch.testing.assert_close(pulls[0], pulls[1], rtol=1e-2, atol=0)


def test_the_rates_of_both_keep_their_ratio() -> None:
    both = add_discriminator(
        build_adamw([nn.Parameter(torch.ones(1))], weight_decay=0.0), PatchDiscriminator(8), 0.25
    )
    both.step(0.1)
    rates = [group["lr"] for part in both.optimizers for group in part.param_groups]
    assert rates == [0.1, 0.025]
