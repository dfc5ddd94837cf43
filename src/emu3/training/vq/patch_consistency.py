"""Equal pixels, equal codes.

Norms and attention let every code of a picture depend on all of it. A tokenizer trained on
reconstruction alone uses that freedom: a patch of plain background gets another code in every
picture, and what follows has to predict the noise. So latents of patches with the same pixels,
anywhere in a batch, are pulled together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_ids(pixels: Tensor, side: int) -> Tensor:
    """A number for each patch of pixels [B, 3, H, W], equal where the pixels are: [B * h * w].

    Patches in the order of codes. Compared by a random projection in float64, which would take two
    different patches for the same with a probability of about nothing.
    """
    rows = F.unfold(pixels, side, stride=side).transpose(1, 2).flatten(0, 1).double()
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64)
    keys = (rows @ direction.to(rows.device)).round(decimals=6)
    return keys.unique(return_inverse=True)[1]


def patch_consistency_loss(latent: Tensor, groups: Tensor) -> Tensor:
    """Mean squared distance of latents [N, c] from the mean of their group [N], over the variance.

    Relative, so that a latent gains nothing by becoming small.
    """
    size = int(groups.max()) + 1
    counts = latent.new_zeros(size).index_add_(0, groups, latent.new_ones(len(groups)))
    means = latent.new_zeros(size, latent.shape[1]).index_add_(0, groups, latent) / counts[:, None]
    return (latent - means[groups]).square().mean() / latent.var(0).mean()
