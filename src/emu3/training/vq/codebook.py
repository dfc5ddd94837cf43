"""Codebook training by exponential moving averages (EMA), with replacement of unused entries.

EMA instead of a codebook loss is from van den Oord et al. 2017 (arXiv 1711.00937, appendix A.1).
How Emu3 trained its codebook was not disclosed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emu3.models.vq.quantizer import VectorQuantizer

UNUSED = 0.03  # an entry used less than this is replaced; the average use is 1
RESET_COUNT = 0.1  # use of a replaced entry: it has some hundred steps before it is replaced again


class CodebookTrainer:
    """Updates the entries of a quantizer; its statistics are part of a checkpoint."""

    def __init__(self, quantizer: VectorQuantizer, decay: float = 0.99) -> None:
        self.quantizer, self.decay = quantizer, decay
        quantizer.embedding.weight.requires_grad_(False)
        table = quantizer.embedding.weight
        self.counts = torch.ones(quantizer.size, device=table.device)
        self.sums = table.detach().clone()
        self.uses = torch.zeros_like(self.counts)  # unlike counts, not reset by a replacement

    @torch.no_grad()
    def init_kmeans(self, latents: Tensor, iterations: int = 12) -> None:
        """Set all entries by k-means over latents [N, c]."""
        table = self.quantizer.embedding.weight
        table.copy_(latents[:1].expand_as(table))
        placed = 1
        while placed < len(table):  # doubling; new entries where the error is largest
            count = min(placed, len(table) - placed)
            table[placed : placed + count] = self._sample_by_error(latents, count)
            placed += count
        for _ in range(iterations):
            self.counts.fill_(0.0)
            self.sums.copy_(table * 1e-3)
            self.counts += 1e-3
            self._accumulate(latents, self.quantizer(_as_latent(latents)).flatten(), weight=1.0)
            table.copy_(self.sums / self.counts[:, None])
            self._replace_unused(latents)
        self.counts.fill_(1.0)
        self.sums.copy_(table)

    @torch.no_grad()
    def update(self, latents: Tensor, codes: Tensor) -> float:
        """One EMA step from latents [N, c] and codes [N]; returns the share of replaced entries."""
        self.counts *= self.decay
        self.sums *= self.decay
        self.uses *= self.decay
        self.uses += torch.bincount(codes, minlength=self.quantizer.size)
        self._accumulate(latents, codes, weight=1 - self.decay)
        self.quantizer.embedding.weight.copy_(self.sums / self.counts[:, None].clamp_min(1e-6))
        return self._replace_unused(latents)

    def usage(self) -> float:
        """Share of entries that were used in about the last hundred steps."""
        return (self.uses >= self.decay**100).float().mean().item()

    def perplexity(self) -> float:
        """Perplexity of the codes of about the last hundred steps; 0 before the first.

        exp of the entropy of the shares of use: 1 if all codes are equal, the codebook size if all
        are equally frequent.
        """
        total = self.uses.sum()
        if total == 0:
            return 0.0
        return torch.special.entr(self.uses / total).sum().exp().item()

    def _accumulate(self, latents: Tensor, codes: Tensor, weight: float) -> None:
        share = weight * self.quantizer.size / len(latents)  # so that the average count is 1
        self.counts.index_add_(0, codes, self.counts.new_full((len(latents),), share))
        self.sums.index_add_(0, codes, latents * share)

    def _sample_by_error(self, latents: Tensor, count: int) -> Tensor:
        """Random latents [count, c], with probability proportional to their quantization error."""
        codes = self.quantizer(_as_latent(latents)).flatten()
        error = (latents - self.quantizer.embedding(codes)).square().sum(1) + 1e-12
        return latents[torch.multinomial(error, count, replacement=count > len(latents))]

    def _replace_unused(self, latents: Tensor) -> float:
        unused = (self.counts < UNUSED).nonzero().flatten()
        unused = unused[: max(1, len(latents) // 8)]
        if len(unused):
            entries = self._sample_by_error(latents, len(unused))
            self.quantizer.embedding.weight[unused] = entries
            self.counts[unused] = RESET_COUNT
            self.sums[unused] = entries * RESET_COUNT
        return len(unused) / self.quantizer.size

    def state_dict(self) -> dict[str, Any]:
        """The statistics, for a checkpoint."""
        return {"counts": self.counts, "sums": self.sums, "uses": self.uses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the statistics in a checkpoint."""
        self.counts.copy_(state["counts"])
        self.sums.copy_(state["sums"])
        self.uses.copy_(state["uses"])


@torch.no_grad()
def reassign_duplicates(quantizer: VectorQuantizer, latents: Tensor, radius: float) -> int:
    """Move near-duplicate entries to where latents [N, c] have the largest quantization error.

    Entries follow density, so a frequent latent such as plain background gets many nearly equal
    entries, and which of them a patch gets is random. Of entries closer than `radius` the most used
    one stays. Returns the number of moved entries.
    """
    table = quantizer.embedding.weight
    uses = torch.bincount(quantizer(_as_latent(latents)).flatten(), minlength=quantizer.size)
    near = torch.cdist(table, table) < radius
    moved = torch.zeros(quantizer.size, dtype=torch.bool)
    for entry in uses.argsort(descending=True).tolist():
        if not moved[entry]:
            near[entry, entry] = False
            moved |= near[entry] & (uses <= uses[entry])
    error = torch.cdist(latents, table[~moved]).amin(1)
    for entry in moved.nonzero().flatten().tolist():
        worst = latents[error.argmax()]
        table[entry] = worst
        error = torch.minimum(error, (latents - worst).norm(dim=1))
    return int(moved.sum())


def _as_latent(latents: Tensor) -> Tensor:
    """[N, c] as [1, c, 1, 1, N], the layout that the quantizer expects."""
    return latents.T[None, :, None, None]
