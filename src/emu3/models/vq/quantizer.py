"""Vector quantizer: maps latent vectors to the index of the nearest codebook entry (paper 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHUNK_SIZE = 4096  # vectors at a time; bounds the distance matrix (4096 * 32768 floats: 0.5 GiB)


class VectorQuantizer(nn.Module):
    """Nearest neighbour by squared Euclidean distance among K codebook entries of c channels."""

    def __init__(self, codebook_size: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, embed_dim)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)

    @property
    def size(self) -> int:
        """Number of codebook entries K."""
        return self.embedding.num_embeddings

    def forward(self, latent: Tensor) -> Tensor:
        """Latent [B, c, T, h, w] to codes [B, T, h, w] int64."""
        vectors = latent.movedim(1, -1)
        codebook = self.embedding.weight
        chunks = vectors.flatten(0, -2).split(CHUNK_SIZE)
        nearest = [_nearest(chunk, codebook) for chunk in chunks]
        return torch.cat(nearest).view(vectors.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes [B, T, h, w] to latent [B, c, T, h, w]."""
        return self.embedding(codes).movedim(-1, 1)


def _nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Vectors [N, c] and codebook [K, c] to indices [N]; ties go to the lowest index."""
    distance = (
        vectors.square().sum(1, keepdim=True)
        + codebook.square().sum(1)
        - 2 * vectors @ codebook.transpose(0, 1)
    )
    return distance.argmin(1)
