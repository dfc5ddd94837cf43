"""Sampling token ids from logits: temperature, top-k, top-p, guidance, and seeded noise.

A sample is argmax(logits + Gumbel noise), which is distributed as the softmax (Gumbel-max trick).
The noise of a sequence comes from a generator of its own, so that a sequence sampled in a batch is
the sequence sampled alone. `SamplingParams` belongs to one sequence; `SamplingTensors` holds the
parameters of a batch, one entry per row, so that one forward pass serves them all.
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
    """Filters, applied in the order of transformers' `generate`: temperature, top-k, top-p.

    `top_k=1` is greedy, `top_k=0` keeps all. Raises InputError on values out of range.
    """

    top_k: int = 2048
    top_p: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Raise InputError on values out of range."""
        if self.top_k < 0:
            raise InputError(f"top_k = {self.top_k} must be 0 (keep all) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p = {self.top_p} must be above 0 and at most 1")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature = {self.temperature} must be above 0; top_k=1 is greedy")

    @property
    def greedy(self) -> bool:
        """Whether the most likely id is always taken."""
        return self.top_k == 1

    def filter_logits(self, logits: Tensor) -> Tensor:
        """Logits [..., N] divided by the temperature, with -inf where nothing may be sampled."""
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

    def sample(
        self, logits: Tensor, noise: GumbelNoise, active: Sequence[bool] | None = None
    ) -> Tensor:
        """Sample one index per row of logits [B, N]: [B] int64.

        Rows that are not `active` consume no noise; their result is meaningless.
        """
        if self.greedy:
            return logits.argmax(-1)
        gumbel = noise.gumbel(logits.shape[-1], active)
        return (self.filter_logits(logits) + gumbel).argmax(-1)


class SamplingTensors:
    """The sampling parameters of a batch as tensors, one entry per row."""

    def __init__(self, params: Sequence[SamplingParams], device: torch.device) -> None:
        def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None, None]

        self.top_k = column([p.top_k for p in params], torch.long)
        self.top_p = column([p.top_p for p in params], torch.float32)
        # Greedy rows get neither temperature nor noise: argmax(logits / 1 + 0).
        self.temperature = column([1.0 if p.greedy else p.temperature for p in params], torch.float)
        self.stochastic = column([0.0 if p.greedy else 1.0 for p in params], torch.float32)
        self.has_top_p = any(p.top_p < 1 and not p.greedy for p in params)
        self.all_greedy = all(p.greedy for p in params)

    def sample(self, logits: Tensor, gumbel: Tensor) -> Tensor:
        """The index that each row's parameters select from logits and noise [B, W, N]: [B, W].

        On a CPU the filter is skipped where it changes nothing: the best of all entries is the
        best of the kept ones if it is itself kept, that is, if fewer than `top_k` logits exceed
        its own.
        """
        if self.all_greedy:
            return logits.argmax(-1)
        scaled, noise = logits / self.temperature, gumbel * self.stochastic
        if not self.has_top_p and logits.device.type == "cpu":
            chosen = (scaled + noise).argmax(-1, keepdim=True)
            rank = (scaled > scaled.gather(-1, chosen)).sum(-1, keepdim=True)
            if bool(((self.top_k == 0) | (rank < self.top_k)).all()):
                return chosen[..., 0]
        return (self._filter(scaled) + noise).argmax(-1)

    def _filter(self, scaled: Tensor) -> Tensor:
        """`SamplingParams.filter_logits` for each row, from logits divided by the temperature."""
        size = scaled.shape[-1]
        ordered, order = scaled.sort(descending=True)
        last = torch.where(self.top_k == 0, size, self.top_k.clamp(max=size)) - 1
        smallest = ordered.gather(-1, last.expand(*ordered.shape[:-1], 1))
        scaled = scaled.masked_fill(scaled < smallest, -torch.inf)
        if not self.has_top_p:
            return scaled
        ordered = ordered.masked_fill(ordered < smallest, -torch.inf)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        dropped = (before >= self.top_p) & (self.top_p < 1)
        ordered = ordered.masked_fill(dropped, -torch.inf)
        return torch.full_like(scaled, -torch.inf).scatter(-1, order, ordered)


class GumbelNoise:
    """Gumbel noise from one generator per row, on the CPU, so that all devices sample alike."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = device

    def gumbel(self, size: int, active: Sequence[bool] | None = None) -> Tensor:
        """Standard Gumbel noise [B, size] in float32; each call advances the generators.

        A row that is not `active` gets zeros and its generator stays where it is: the n-th sample
        of a row must not depend on the other rows.
        """
        rows = torch.full((len(self.generators), size), math.exp(-1))  # inactive rows: noise 0
        for index, generator in enumerate(self.generators):
            if active is None or active[index]:
                # `uniform_` and two logarithms are 7 times as fast as `exponential_` and one.
                rows[index].uniform_(generator=generator)
        return -(-rows.to(self.device).log()).log()


SEED_STEP = 0x9E3779B97F4A7C15  # odd, 2^64 / golden ratio: frames of nearby seeds do not collide


def frame_seed(seed: int, frame: int) -> int:
    """The seed of the noise of one frame of visual codes; frame 0 has the request's seed.

    Noise belongs to (seed, frame, position), so a continued video needs none of the noise of the
    frames before.
    """
    return (seed + frame * SEED_STEP) % 2**64


def apply_cfg(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on log-probabilities: u + scale * (c - u), [B, N].

    Source: `UnbatchedClassifierFreeGuidanceLogitsProcessor` of transformers 4.44.
    """
    c, u = conditional.log_softmax(-1), unconditional.log_softmax(-1)
    return u + scale * (c - u)


def apply_cfg_batched(
    logits: Tensor, conditional: Tensor, unconditional: Tensor, scale: Tensor
) -> Tensor:
    """Classifier-free guidance with a scale per sequence.

    `logits` [rows, W, N]; `conditional` and `unconditional` [S] are the two rows of each sequence,
    the same row twice for a sequence without guidance, whose scale is 1; `scale` [S]. Returns
    [S, W, N]. The logits are not normalised first: a normaliser shifts all entries of a row alike,
    which changes no sample.
    """
    if torch.equal(conditional, unconditional):
        return logits[conditional]
    return torch.lerp(logits[unconditional], logits[conditional], scale[:, None, None])
