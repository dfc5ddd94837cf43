"""Patch consistency loss: patches with equal pixels should get equal codes.

Norms and attention let every code depend on the whole image. A tokenizer trained on reconstruction
alone gives a patch of plain background another code in every image, and the language model has to
predict that noise. This loss pulls together the latents of all patches of a batch with the same
pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_ids(pixels: Tensor, side: int) -> Tensor:
    """A number for each patch of pixels [B, 3, H, W], equal for equal pixels: [B * h * w].

    Patches are in the order of codes. They are compared by a random projection in float64, for
    which a collision of different patches is practically impossible.
    """
    rows = F.unfold(pixels, side, stride=side).transpose(1, 2).flatten(0, 1).double()
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64)
    keys = (rows @ direction.to(rows.device)).round(decimals=6)
    return keys.unique(return_inverse=True)[1]


def patch_consistency_loss(latents: Tensor, groups: Tensor) -> Tensor:
    """Variance of latents [N, c] within their groups [N], relative to their total variance.

    The ratio does not change with the scale of the latents.
    """
    size = int(groups.max()) + 1
    counts = latents.new_zeros(size).index_add_(0, groups, latents.new_ones(len(groups)))
    sums = latents.new_zeros(size, latents.shape[1]).index_add_(0, groups, latents)
    means = sums / counts[:, None]
    return (latents - means[groups]).square().mean() / latents.var(0).mean()
