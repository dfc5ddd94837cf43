"""The perceptual distance: what eyes do not mind is near, and nothing of it learns."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emu3.errors import InputError, MissingExtraError
from emu3.training.vq import lpips as perceptual
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


def pictures(side: int = 32, detail: int = 5) -> Tensor:
    """Two smooth pictures with edges in them, so many across."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, detail, detail, generator=generator) * 2 - 1
    return F.interpolate(coarse, size=(side + 8, side + 8), mode="bicubic").mul(3).tanh()


def cut(pixels: Tensor, right: int = 0) -> Tensor:
    """The middle, moved to the right by so many pixels."""
    return pixels[..., 4:-4, 4 + right : pixels.shape[-1] - 4 + right]


@needs_weights
def test_equal_pictures_are_at_zero_and_both_ways_are_as_long(distance: LPIPS) -> None:
    one, other = cut(pictures()), cut(pictures()).flip(3)
    assert distance(one, one).tolist() == [0.0, 0.0]
    torch.testing.assert_close(distance(one, other), distance(other, one))
    assert (distance(one, other) > 0.05).all()


@needs_weights
def test_it_grows_with_noise_and_with_blur(distance: LPIPS) -> None:
    torch.manual_seed(0)
    one = cut(pictures())
    noise = torch.randn_like(one)
    noisy = [distance(one, one + strength * noise) for strength in (0.02, 0.1, 0.3)]
    blurred = [distance(one, F.avg_pool2d(one, k, 1, k // 2)) for k in (3, 7, 13)]
    for steps in (noisy, blurred):
        assert (steps[0] < steps[1]).all()
        assert (steps[1] < steps[2]).all()


@needs_weights
def test_a_shift_is_nearer_than_noise_that_squared_error_finds_as_bad(
    distance: LPIPS,
) -> None:
    torch.manual_seed(0)
    picture = pictures(detail=10)
    one = cut(picture)
    for right in (1, 2):
        moved = cut(picture, right)
        error = (moved - one).square().mean((1, 2, 3), keepdim=True)
        noisy = one + error.sqrt() * torch.randn_like(one)
        assert (distance(one, moved) < distance(one, noisy) / 1.25).all()


@needs_weights
def test_a_gradient_reaches_the_pixels_and_no_weight(distance: LPIPS) -> None:
    one = cut(pictures())
    made = torch.zeros_like(one, requires_grad=True)  # grey: many features are nothing at all
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
def test_24_pixels_are_enough_and_fewer_are_refused(distance: LPIPS) -> None:
    one = cut(pictures(24))
    assert distance(one, -one).isfinite().all()
    for wrong in (one[..., :23], one[:1], one[0]):
        with pytest.raises(InputError, match="sides of 24 or more"):
            distance(wrong, one if wrong.shape[-1] > 23 else wrong)


def test_halving_blurs_first() -> None:
    """A checkerboard, the finest pattern there is, becomes its mean and not one of its colours."""
    board = (torch.arange(12)[:, None] + torch.arange(12)) % 2
    halved = BlurPool()(board[None, None].float())
    assert halved.shape == (1, 1, 7, 7)
    torch.testing.assert_close(halved, torch.full_like(halved, 0.5))


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_without_the_package_the_extra_is_named(
    net: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(perceptual, "distribution", missing)
    with pytest.raises(MissingExtraError, match=r"emu3\[vision-train\]"):
        LPIPS(net)


def test_an_unknown_net_is_refused() -> None:
    with pytest.raises(InputError, match="'alex' or 'vgg'"):
        LPIPS("squeeze")  # type: ignore[arg-type]
