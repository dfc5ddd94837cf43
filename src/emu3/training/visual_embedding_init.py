"""Initialization of visual token embeddings from the VQ codebook.

With random embeddings a decoder has to learn from examples which of the thousands of codes are
nearly the same patch. Here the codebook entries become the embeddings, through random Fourier
features (Rahimi and Recht 2007): similar entries get similar embeddings, distant entries unrelated
ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from emu3.models.transformer import Transformer

RMS = 0.25  # of an embedding: large enough to survive the first steps
BANDWIDTHS = (0.3, 0.6, 1.2)  # distances that count as near, in standard deviations of the codebook


def random_fourier_features(codebook: Tensor, width: int) -> Tensor:
    """Features [K, width] with unit root mean square of codebook entries [K, c]; deterministic."""
    generator = torch.Generator().manual_seed(0)
    entries = (codebook - codebook.mean(0)) / codebook.std()
    bandwidth = torch.tensor(BANDWIDTHS)[torch.arange(width) % len(BANDWIDTHS)]
    frequencies = torch.randn(entries.shape[1], width, generator=generator) / bandwidth
    phases = torch.rand(width, generator=generator) * 2 * math.pi
    return math.sqrt(2) * (entries.cpu() @ frequencies + phases).cos()


@torch.no_grad()
def init_visual_embeddings(model: Transformer, visual: slice, codebook: Tensor) -> None:
    """Set the embeddings of the visual token ids, range `visual`, from the codebook [K, c]."""
    table = model.model.embed_tokens.weight
    table[visual] = RMS * random_fourier_features(codebook.float(), table.shape[1]).to(table)


def nearest_codes(codebook: Tensor, count: int) -> Tensor:
    """Indices [K, count] of the nearest other entries for each entry of a codebook [K, c]."""
    entries = codebook.float()
    distances = torch.cdist(entries, entries).fill_diagonal_(math.inf)
    return distances.topk(count, largest=False).indices
