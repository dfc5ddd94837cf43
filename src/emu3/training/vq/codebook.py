"""Learning a codebook: entries follow the mean of what they are chosen for, idle ones move house.

Exponential moving averages instead of a codebook loss are from van den Oord et al. 2017
(arXiv 1711.00937, appendix A.1). How Emu3 trained its codebook was never disclosed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emu3.models.vq.quantizer import VectorQuantizer

IDLE = 0.03  # an entry used less than this, the average being 1, is moved to where it is needed
FRESH = 0.1  # what a moved entry starts with: some hundred steps to prove itself


class CodebookTrainer:
    """Moves the entries of a quantizer; its statistics are part of a checkpoint."""

    def __init__(self, quantizer: VectorQuantizer, decay: float = 0.99) -> None:
        self.quantizer, self.decay = quantizer, decay
        quantizer.embedding.weight.requires_grad_(False)
        table = quantizer.embedding.weight
        self.counts = torch.ones(quantizer.size, device=table.device)
        self.sums = table.detach().clone()
        self.uses = torch.zeros_like(self.counts)  # unlike counts, untouched by a revival

    @torch.no_grad()
    def start(self, rows: Tensor, rounds: int = 12) -> None:
        """Place all entries by k-means over latents [N, c], spread out at first."""
        table = self.quantizer.embedding.weight
        table.copy_(rows[:1].expand_as(table))
        placed = 1
        while placed < len(table):  # in doubling waves, each where the error is largest
            take = min(placed, len(table) - placed)
            table[placed : placed + take] = self._far_rows(rows, take)
            placed += take
        for _ in range(rounds):
            self.counts.fill_(0.0)
            self.sums.copy_(table * 1e-3)
            self.counts += 1e-3
            self._accumulate(rows, self.quantizer(_as_latent(rows)).flatten(), weight=1.0)
            table.copy_(self.sums / self.counts[:, None])
            self._revive(rows)
        self.counts.fill_(1.0)
        self.sums.copy_(table)

    @torch.no_grad()
    def update(self, rows: Tensor, codes: Tensor) -> float:
        """One step from latents [N, c] and codes [N]; returns the share of entries revived."""
        self.counts *= self.decay
        self.sums *= self.decay
        self.uses *= self.decay
        self.uses += torch.bincount(codes, minlength=self.quantizer.size)
        self._accumulate(rows, codes, weight=1 - self.decay)
        self.quantizer.embedding.weight.copy_(self.sums / self.counts[:, None].clamp_min(1e-6))
        return self._revive(rows)

    def used(self) -> float:
        """The share of entries that some latent of the last hundred steps chose."""
        return (self.uses >= self.decay**100).float().mean().item()

    def perplexity(self) -> float:
        """How many entries, used equally, would say as much as the last hundred steps' codes do.

        e to the entropy of the shares of use; 1 where all codes are one, `size` where all are
        equally frequent, and 0 before there are any.
        """
        total = self.uses.sum()
        if total == 0:
            return 0.0
        return torch.special.entr(self.uses / total).sum().exp().item()

    def _accumulate(self, rows: Tensor, codes: Tensor, weight: float) -> None:
        share = weight * self.quantizer.size / len(rows)  # an average entry then counts 1.0
        self.counts.index_add_(0, codes, self.counts.new_full((len(rows),), share))
        self.sums.index_add_(0, codes, rows * share)

    def _far_rows(self, rows: Tensor, take: int) -> Tensor:
        """`take` of the rows, the likelier the worse the codebook fits them."""
        codes = self.quantizer(_as_latent(rows)).flatten()
        error = (rows - self.quantizer.embedding(codes)).square().sum(1) + 1e-12
        return rows[torch.multinomial(error, take, replacement=take > len(rows))]

    def _revive(self, rows: Tensor) -> float:
        idle = (self.counts < IDLE).nonzero().flatten()
        idle = idle[: max(1, len(rows) // 8)]
        if len(idle):
            fresh = self._far_rows(rows, len(idle))
            self.quantizer.embedding.weight[idle] = fresh
            self.counts[idle] = FRESH
            self.sums[idle] = fresh * FRESH
        return len(idle) / self.quantizer.size

    def state_dict(self) -> dict[str, Tensor]:
        """The statistics."""
        return {"counts": self.counts, "sums": self.sums, "uses": self.uses}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from the statistics of a checkpoint."""
        self.counts.copy_(state["counts"])
        self.sums.copy_(state["sums"])
        if "uses" in state:  # checkpoints of old have none, and nothing but the log needs it
            self.uses.copy_(state["uses"])


@torch.no_grad()
def reassign_duplicates(quantizer: VectorQuantizer, rows: Tensor, radius: float) -> int:
    """Move entries that double another one to where latents [N, c] are fitted worst.

    Entries follow density, so a frequent latent (plain background) ends up with many entries a
    hair apart, and which of them a patch gets is noise. Of entries closer than `radius` the most
    used one stays. Returns how many moved.
    """
    table = quantizer.embedding.weight
    uses = torch.bincount(quantizer(_as_latent(rows)).flatten(), minlength=quantizer.size)
    near = torch.cdist(table, table) < radius
    moved = torch.zeros(quantizer.size, dtype=torch.bool)
    for entry in uses.argsort(descending=True).tolist():
        if not moved[entry]:
            near[entry, entry] = False
            moved |= near[entry] & (uses <= uses[entry])
    error = torch.cdist(rows, table[~moved]).amin(1)
    for entry in moved.nonzero().flatten().tolist():
        worst = rows[error.argmax()]
        table[entry] = worst
        error = torch.minimum(error, (rows - worst).norm(dim=1))
    return int(moved.sum())


def _as_latent(rows: Tensor) -> Tensor:
    """[N, c] as the [1, c, 1, 1, N] that a quantizer reads."""
    return rows.T[None, :, None, None]
