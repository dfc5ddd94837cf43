"""How an id is drawn from logits: temperature, top-k, top-p, and noise that belongs to a seed.

A draw is argmax(logits + Gumbel noise), which has the same distribution as drawing from the
softmax. The noise of a row comes from that row's own generator, so a picture drawn in a batch is
the picture drawn alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emu3.errors import InputError


@dataclass(frozen=True)
class SamplingParams:
    """Filters, in the order of transformers' `generate`.

    `top_k=1` is greedy, `top_k=0` keeps all.
    """

    top_k: int = 2048
    top_p: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Raise InputError on settings that mean nothing."""
        if self.top_k < 0:
            raise InputError(f"top_k = {self.top_k} must be 0 (keep all) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p = {self.top_p} must lie in (0, 1]")
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"temperature = {self.temperature} must be above 0; top_k=1 is greedy")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest id is always taken."""
        return self.top_k == 1

    def filter(self, logits: Tensor) -> Tensor:
        """Logits [B, N] divided by the temperature, those not to be drawn at -inf."""
        if self.temperature != 1:
            logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            kept = logits.topk(self.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < kept, -torch.inf)
        if self.top_p < 1:
            ordered, order = logits.sort(descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            ordered = ordered.masked_fill(before >= self.top_p, -torch.inf)
            logits = torch.full_like(logits, -torch.inf).scatter(-1, order, ordered)
        return logits

    def draw(
        self, logits: Tensor, noise: GumbelNoise, drawing: Sequence[bool] | None = None
    ) -> Tensor:
        """One index of [0, N) for each row of logits [B, N]: [B] int64.

        Rows that are not `drawing` use up no noise; what they get means nothing.
        """
        if self.greedy:
            return logits.argmax(-1)
        return self.pick(logits, noise.gumbel(logits.shape[-1], drawing))

    def pick(self, logits: Tensor, gumbel: Tensor) -> Tensor:
        """The likeliest of the kept logits [..., N] with their noise added: [...] int64.

        On a CPU, where a question costs nothing, the filter is spared where it makes no difference:
        the likeliest of all is the likeliest of the kept if it is kept, and it is if fewer than
        `top_k` logits lie above its own.
        """
        if self.greedy:
            return logits.argmax(-1)
        if self.top_p == 1 and logits.device.type == "cpu":
            scaled = logits if self.temperature == 1 else logits / self.temperature
            chosen = (scaled + gumbel).argmax(-1)
            above = (scaled > scaled.gather(-1, chosen[..., None])).sum(-1)
            if self.top_k == 0 or bool((above < self.top_k).all()):
                return chosen
        return (self.filter(logits) + gumbel).argmax(-1)


class GumbelNoise:
    """A generator for each row of a batch, on the CPU, so that every device draws the same."""

    def __init__(self, seeds: list[int], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = device

    def gumbel(self, size: int, drawing: Sequence[bool] | None = None) -> Tensor:
        """Standard Gumbel noise [B, size] in float32; each call draws afresh.

        A row that is not `drawing` gets zeros and its generator stays where it is: the n-th draw
        of a row must not depend on what its neighbours do.
        """
        rows = torch.full((len(self.generators), size), math.exp(-1))
        for index, generator in enumerate(self.generators):
            if drawing is None or drawing[index]:
                # Seven times as fast as `exponential_`, whose logarithm would be spared.
                rows[index].uniform_(generator=generator)
        return -(-rows.to(self.device).log()).log()


def apply_cfg(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on log-probabilities: u + scale * (c - u), [B, N].

    Source: `UnbatchedClassifierFreeGuidanceLogitsProcessor` of transformers 4.44.
    """
    c, u = conditional.log_softmax(-1), unconditional.log_softmax(-1)
    return u + scale * (c - u)
