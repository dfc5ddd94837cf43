"""How far two pictures are apart to the eye: shift-tolerant LPIPS.

Both pictures pass a net that was trained to tell objects apart. Their features are compared at five
depths, each channel with a weight fitted to what people said of pairs of pictures (LPIPS, Zhang et
al. 2018, arXiv 1801.03924). Where that net halves a picture it blurs first, so that a shift of a
pixel, which nobody sees, counts for little (Ghildyal and Liu 2022, arXiv 2207.13686).

The weights lie in the package `stlpips-pytorch`. It is never imported: its code asks for packages
that nothing here needs, and its downsampling may not be used commercially. The layers below are
ours. Paper section 2.2 names LPIPS as a loss of Emu3's tokenizer, and not which net.
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
"""AlexNet (2.5 M weights) or VGG16 (14.7 M), as LPIPS has them."""

SMALLEST = 24  # pixels of a side; below that too little is left to blur at the deepest level


class BlurPool(nn.Module):
    """Halves height and width after a 3x3 binomial blur, which leaves no pixel out."""

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
    width = 3
    for widths in ([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3):
        stage: list[nn.Module] = [nn.MaxPool2d(2, 1), BlurPool()] if stages else []
        for wider in widths:
            stage += [nn.Conv2d(width, wider, 3, padding=1), nn.ReLU()]
            width = wider
        stages.append(nn.Sequential(*stage))
    return stages


class LPIPS(nn.Module):
    """Shift-tolerant LPIPS with frozen weights; always in eval mode.

    Raises MissingExtraError where `stlpips-pytorch` is not installed, InputError on another net.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Backbone = "vgg") -> None:
        super().__init__()
        if net not in ("alex", "vgg"):
            raise InputError(f"perceptual net {net!r}: it must be 'alex' or 'vgg'")
        self.stages = nn.ModuleList(_alex() if net == "alex" else _vgg())
        weights = torch.load(weights_file(net), map_location="cpu", weights_only=True)
        self.register_buffer("shift", weights["scaling_layer.shift"])
        self.register_buffer("scale", weights["scaling_layer.scale"])
        self.channels = nn.ParameterList(weights[f"lin{k}.model.1.weight"] for k in range(5))
        _fill(self.stages, weights)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LPIPS:
        """Stay in eval mode, whatever the model around it does."""
        return super().train(False)

    def forward(self, pixels: Tensor, others: Tensor) -> Tensor:
        """Distances [B] of pixels [B, 3, H, W] in [-1, 1] from others of that shape; 0 is equal.

        Gradients reach both. Raises InputError on unequal shapes and on a side below 24.
        """
        if pixels.shape != others.shape or pixels.ndim != 4 or min(pixels.shape[2:]) < SMALLEST:
            raise InputError(
                f"pixels {list(pixels.shape)} and {list(others.shape)}: the perceptual distance "
                f"compares two equal shapes [B, 3, H, W] with sides of {SMALLEST} or more"
            )
        x, y = (pixels - self.shift) / self.scale, (others - self.shift) / self.scale
        apart = pixels.new_zeros(len(pixels))
        for stage, weight in zip(self.stages, self.channels, strict=True):
            x, y = stage(x), stage(y)
            seen = F.conv2d((_directions(x) - _directions(y)).square(), weight)
            apart = apart + seen.mean((1, 2, 3))
        return apart


def weights_file(net: Backbone) -> Path:
    """Where `stlpips-pytorch` keeps the weights of a net.

    Raises MissingExtraError where the package is not installed.
    """
    try:
        package = distribution("stlpips-pytorch")
    except PackageNotFoundError:
        raise MissingExtraError(
            "stlpips-pytorch", "vision-train", "the perceptual distance"
        ) from None
    return Path(
        str(package.locate_file(f"stlpips_pytorch/weights/vST0.0/{net}_shift_tolerant.pth"))
    )


@torch.no_grad()
def _fill(stages: nn.ModuleList, weights: Mapping[str, Tensor]) -> None:
    """Copy the convolutions, which the file lists in the order in which they run."""
    stored = [
        weights[name]
        for name in weights
        if name.startswith("net.") and name.endswith((".weight", ".bias"))
    ]
    for parameter, weight in zip(stages.parameters(), stored, strict=True):
        if parameter.shape != weight.shape:
            raise InputError(
                f"stlpips-pytorch: a weight of shape {list(weight.shape)} where "
                f"{list(parameter.shape)} belongs; install version 0.0.2"
            )
        parameter.copy_(weight)


def _directions(features: Tensor) -> Tensor:
    """Features [B, C, H, W] with unit length along C; nothing stays nothing.

    `vector_norm` has a gradient of zero at zero, where a root of a sum of squares has none.
    """
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)
