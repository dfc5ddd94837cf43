"""Codes that look alike start alike.

A decoder whose embeddings start at random has to find out from examples that two of some thousand
codes are nearly the same patch. The codebook knows it already: its entries become the embeddings
of their ids, through cosines of random projections (Rahimi and Recht 2007), so that near entries
have near embeddings and far ones unrelated ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from emu3.models.transformer import Transformer

SIZE = 0.25  # root mean square of an embedding: large enough to outlast the first steps
REACHES = (0.3, 0.6, 1.2)  # distances, in standard deviations of the codebook, that count as near


def random_fourier_features(codebook: Tensor, width: int) -> Tensor:
    """Entries [K, c] to features [K, width] of unit root mean square; always the same ones."""
    generator = torch.Generator().manual_seed(0)
    entries = (codebook - codebook.mean(0)) / codebook.std()
    reach = torch.tensor(REACHES)[torch.arange(width) % len(REACHES)]
    directions = torch.randn(entries.shape[1], width, generator=generator) / reach
    turns = torch.rand(width, generator=generator) * 2 * math.pi
    return math.sqrt(2) * (entries.cpu() @ directions + turns).cos()


@torch.no_grad()
def init_visual_embeddings(model: Transformer, visual: slice, codebook: Tensor) -> None:
    """Set the embeddings of the ids of codes, `visual`, from the codebook [K, c]."""
    table = model.model.embed_tokens.weight
    table[visual] = SIZE * random_fourier_features(codebook.float(), table.shape[1]).to(table)


def nearest_codes(codebook: Tensor, count: int) -> Tensor:
    """Of each of the entries [K, c] the `count` others nearest to it, as indices [K, count]."""
    entries = codebook.float()
    apart = torch.cdist(entries, entries).fill_diagonal_(math.inf)
    return apart.topk(count, largest=False).indices
