"""Shift-tolerant LPIPS: a perceptual distance between images.

Both images pass a classification network. Their features are compared at five depths, each channel
with a weight fitted to human judgements (LPIPS, Zhang et al. 2018, arXiv 1801.03924). The network
blurs before it downsamples, so that a shift by a pixel, which is invisible, changes little
(Ghildyal and Liu 2022, arXiv 2207.13686).

The weights are those of the package `stlpips-pytorch`. The package itself is never imported: it
needs packages that are not used here, and the licence of its downsampling excludes commercial use.
The layers below are our own. Paper section 2.2 names LPIPS as a loss of Emu3's tokenizer, without
the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.errors import InputError, MissingExtraError

Backbone = Literal["alex", "vgg"]
"""AlexNet (2.5 M weights) or VGG16 (14.7 M)."""

MIN_SIDE = 24  # pixels; the blur at the deepest level needs as many


class BlurPool(nn.Module):
    """Downsampling by two after a 3x3 binomial blur."""

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", taps[:, None] * taps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H // 2 + 1, W // 2 + 1]."""
        kernel = self.get_buffer("kernel").expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def _alex() -> list[nn.Sequential]:
    """AlexNet up to its fifth ReLU, in five stages; the first convolution has stride 1."""
    return [
        nn.Sequential(nn.Conv2d(3, 64, 11, padding=2), BlurPool(), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 1), BlurPool(), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 1), BlurPool(), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


def _vgg() -> list[nn.Sequential]:
    """VGG16 up to the last ReLU of each width, in five stages."""
    stages: list[nn.Sequential] = []
    channels = 3
    for widths in ([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3):
        stage: list[nn.Module] = [nn.MaxPool2d(2, 1), BlurPool()] if stages else []
        for width in widths:
            stage += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        stages.append(nn.Sequential(*stage))
    return stages


class LPIPS(nn.Module):
    """Shift-tolerant LPIPS with frozen weights; always in eval mode.

    Raises MissingExtraError if `stlpips-pytorch` is not installed, InputError on an unknown
    backbone.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone = "vgg") -> None:
        super().__init__()
        if backbone not in ("alex", "vgg"):
            raise InputError(f"LPIPS backbone {backbone!r}; it must be 'alex' or 'vgg'")
        self.stages = nn.ModuleList(_alex() if backbone == "alex" else _vgg())
        weights = torch.load(weights_file(backbone), map_location="cpu", weights_only=True)
        self.register_buffer("shift", weights["scaling_layer.shift"])
        self.register_buffer("scale", weights["scaling_layer.scale"])
        self.channels = nn.ParameterList(weights[f"lin{k}.model.1.weight"] for k in range(5))
        _load_convolutions(self.stages, weights)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LPIPS:
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, pixels: Tensor, others: Tensor) -> Tensor:
        """Distances [B] between pixels [B, 3, H, W] in [-1, 1] and others of the same shape.

        Gradients reach both. Raises InputError on different shapes and on a side below 24 pixels.
        """
        if pixels.shape != others.shape or pixels.ndim != 4 or min(pixels.shape[2:]) < MIN_SIDE:
            raise InputError(
                f"pixels {list(pixels.shape)} and {list(others.shape)}: LPIPS compares images of "
                f"equal shape [B, 3, H, W] with sides of at least {MIN_SIDE} pixels"
            )
        x, y = (pixels - self.shift) / self.scale, (others - self.shift) / self.scale
        distance = pixels.new_zeros(len(pixels))
        for stage, weight in zip(self.stages, self.channels, strict=True):
            x, y = stage(x), stage(y)
            difference = F.conv2d((_normalize(x) - _normalize(y)).square(), weight)
            distance = distance + difference.mean((1, 2, 3))
        return distance


def weights_file(backbone: Backbone) -> Path:
    """The file of a backbone's weights in the package `stlpips-pytorch`.

    Raises MissingExtraError if the package is not installed.
    """
    try:
        package = distribution("stlpips-pytorch")
    except PackageNotFoundError:
        raise MissingExtraError("stlpips-pytorch", "vision-train", "the perceptual loss") from None
    return Path(
        str(package.locate_file(f"stlpips_pytorch/weights/vST0.0/{backbone}_shift_tolerant.pth"))
    )


@torch.no_grad()
def _load_convolutions(stages: nn.ModuleList, weights: Mapping[str, Tensor]) -> None:
    """Copy the convolutions, which the file lists in the order of execution."""
    stored = [
        weights[name]
        for name in weights
        if name.startswith("net.") and name.endswith((".weight", ".bias"))
    ]
    for parameter, weight in zip(stages.parameters(), stored, strict=True):
        if parameter.shape != weight.shape:
            raise InputError(
                f"stlpips-pytorch: a weight of shape {list(weight.shape)}, expected "
                f"{list(parameter.shape)}; install version 0.0.2"
            )
        parameter.copy_(weight)


def _normalize(features: Tensor) -> Tensor:
    """Features [B, C, H, W] with unit length along C; zero vectors stay zero.

    The gradient of `vector_norm` at zero is zero; that of the square root of a sum is not defined.
    """
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)
