"""Shift-tolerant LPIPS."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emu3.errors import InputError, MissingExtraError
from emu3.training.vq import lpips
from emu3.training.vq.lpips import LPIPS, Backbone, BlurPool


def installed() -> bool:
    try:
        distribution("stlpips-pytorch")
    except PackageNotFoundError:
        return False
    return True


needs_weights = pytest.mark.skipif(not installed(), reason="stlpips-pytorch is not installed")


@pytest.fixture(scope="module", params=["alex", "vgg"])
def distance(request: pytest.FixtureRequest) -> LPIPS:
    return LPIPS(request.param)


def images(side: int = 32, detail: int = 5) -> Tensor:
    """Two smooth images with `detail` edges across."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, detail, detail, generator=generator) * 2 - 1
    return F.interpolate(coarse, size=(side + 8, side + 8), mode="bicubic").mul(3).tanh()


def crop(pixels: Tensor, right: int = 0) -> Tensor:
    """The middle, shifted to the right by some pixels."""
    return pixels[..., 4:-4, 4 + right : pixels.shape[-1] - 4 + right]


@needs_weights
def test_identity_and_symmetry(distance: LPIPS) -> None:
    one, other = crop(images()), crop(images()).flip(3)
    assert distance(one, one).tolist() == [0.0, 0.0]
    torch.testing.assert_close(distance(one, other), distance(other, one))
    assert (distance(one, other) > 0.05).all()


@needs_weights
def test_distance_increases_with_noise_and_blur(distance: LPIPS) -> None:
    torch.manual_seed(0)
    one = crop(images())
    noise = torch.randn_like(one)
    noisy = [distance(one, one + strength * noise) for strength in (0.02, 0.1, 0.3)]
    blurred = [distance(one, F.avg_pool2d(one, k, 1, k // 2)) for k in (3, 7, 13)]
    for steps in (noisy, blurred):
        assert (steps[0] < steps[1]).all()
        assert (steps[1] < steps[2]).all()


@needs_weights
def test_shift_is_closer_than_noise_of_equal_squared_error(
    distance: LPIPS,
) -> None:
    torch.manual_seed(0)
    image = images(detail=10)
    one = crop(image)
    for right in (1, 2):
        moved = crop(image, right)
        error = (moved - one).square().mean((1, 2, 3), keepdim=True)
        noisy = one + error.sqrt() * torch.randn_like(one)
        assert (distance(one, moved) < distance(one, noisy) / 1.25).all()


@needs_weights
def test_gradients_reach_pixels_but_not_weights(distance: LPIPS) -> None:
    one = crop(images())
    made = torch.zeros_like(one, requires_grad=True)  # grey: many features are zero
    distance(made, one).sum().backward()
    assert made.grad is not None
    assert made.grad.isfinite().all()
    assert made.grad.abs().amax((1, 2, 3)).min() > 0
    assert not any(weight.requires_grad for weight in distance.parameters())
    nearer = made.detach() - 0.05 * made.grad / made.grad.abs().max()
    assert distance(nearer, one).sum() < distance(made, one).sum()


@needs_weights
def test_it_stays_in_eval_mode(distance: LPIPS) -> None:
    assert not torch.nn.ModuleList([distance]).train()[0].training


@needs_weights
def test_sides_below_24_pixels_are_refused(distance: LPIPS) -> None:
    one = crop(images(24))
    assert distance(one, -one).isfinite().all()
    for wrong in (one[..., :23], one[:1], one[0]):
        with pytest.raises(InputError, match="sides of at least 24"):
            distance(wrong, one if wrong.shape[-1] > 23 else wrong)


def test_downsampling_blurs_first() -> None:
    """A checkerboard becomes its mean, not one of its colours."""
    board = (torch.arange(12)[:, None] + torch.arange(12)) % 2
    halved = BlurPool()(board[None, None].float())
    assert halved.shape == (1, 1, 7, 7)
    torch.testing.assert_close(halved, torch.full_like(halved, 0.5))


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_missing_package_names_the_extra(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(lpips, "distribution", missing)
    with pytest.raises(MissingExtraError, match=r"emu3\[vision-train\]"):
        LPIPS(backbone)


def test_unknown_backbone_is_refused() -> None:
    with pytest.raises(InputError, match="'alex' or 'vgg'"):
        LPIPS("squeeze")  # type: ignore[arg-type]
