"""Speculative decoding by Jacobi iteration: several visual codes per forward pass, equal ids.

A sample is argmax(log p + g) with noise g that belongs to a seed and a position, so decoding one
code at a time is a deterministic function. A draft of the next codes is read in one forward pass,
which yields the sample at each drafted position. The first sample is always right; each following
one is right if the draft before it was confirmed. The confirmed prefix is accepted, and the
remaining samples are the next draft. The ids are therefore those of reference decoding (up to
rounding in passes of another shape), whatever the draft; only the number of passes depends on it.

Line ends and frame ends are known and are read together with the codes before them.

Source: Jacobi iteration (Song et al. 2021, arXiv 2002.03629) with the Gumbel noise held fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emu3.models.quantization import precision_of
from emu3.models.transformer import Transformer

# Positions that a forward pass is filled up to. On a CPU, 16 of them cost at most 1.8 times as much
# as four. Products with quantized weights are bound by unpacking and have less to spare.
FULL_POSITIONS, FULL_POSITIONS_QUANTIZED = 16, 4


def draft_length_for(model: Transformer, rows: int) -> int:
    """Codes of each sequence to sample per pass when so many rows share it: as many as fill it."""
    dense = precision_of(model) in ("fp32", "bf16")
    return max(1, (FULL_POSITIONS if dense else FULL_POSITIONS_QUANTIZED) // rows)


def propose_draft(
    body: NDArray[np.int64],
    positions: Sequence[int],
    first: int,
    stop: int,
    distances: Sequence[int],
    default: int,
) -> None:
    """Write draft codes `first` to `stop` into `body`, at their `positions`.

    A drafted code repeats the one at the first of the `distances` that reaches back to a code: the
    same place of the frame before, the code above, the code to the left. The very first code has
    none of these and is drafted as `default`.
    """
    for index in range(first, stop):
        back = next((far for far in distances if far <= index), None)
        body[positions[index]] = default if back is None else body[positions[index - back]]


def accept_draft(draft: Sequence[int], sampled: Sequence[int]) -> int:
    """How many of the samples are valid: one more than the drafted codes that they confirm."""
    accepted = 1
    while accepted < len(sampled) and draft[accepted - 1] == sampled[accepted - 1]:
        accepted += 1
    return accepted
