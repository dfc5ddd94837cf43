"""The codebook: a latent becomes the index of its nearest entry (paper section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROWS_AT_ONCE = 4096  # bounds the distance table: 4096 * 32768 floats are half a GiB


class VectorQuantizer(nn.Module):
    """Nearest neighbour by squared distance in a table of K entries of c channels."""

    def __init__(self, codebook_size: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, embed_dim)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)

    @property
    def size(self) -> int:
        """Entries of the codebook."""
        return self.embedding.num_embeddings

    def forward(self, latent: Tensor) -> Tensor:
        """Latent [B, c, T, h, w] to codes [B, T, h, w] int64."""
        rows = latent.movedim(1, -1)
        table = self.embedding.weight
        nearest = [_nearest(part, table) for part in rows.flatten(0, -2).split(ROWS_AT_ONCE)]
        return torch.cat(nearest).view(rows.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes [B, T, h, w] to latent [B, c, T, h, w]."""
        return self.embedding(codes).movedim(-1, 1)


def _nearest(rows: Tensor, table: Tensor) -> Tensor:
    """rows [N, c], table [K, c] to indices [N]; the first of equal distances wins."""
    distance = (
        rows.square().sum(1, keepdim=True)
        + table.square().sum(1)
        - 2 * rows @ table.transpose(0, 1)
    )
    return distance.argmin(1)
