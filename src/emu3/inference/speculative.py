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

# Token positions per forward pass that drafts are chosen for. On a CPU, 16 positions cost at most
# 1.8 times as much as four; more are compute-bound. Quantized weights are bound by unpacking.
POSITIONS_PER_PASS, POSITIONS_PER_PASS_QUANTIZED = 16, 4


def draft_length_for(model: Transformer, rows: int) -> int:
    """Codes that each sequence samples per pass when `rows` rows share it."""
    dense = precision_of(model) in ("fp32", "bf16")
    return max(1, (POSITIONS_PER_PASS if dense else POSITIONS_PER_PASS_QUANTIZED) // rows)


def propose_draft(
    body: NDArray[np.int64],
    positions: Sequence[int],
    first: int,
    stop: int,
    offsets: Sequence[int],
    initial: int,
) -> None:
    """Write draft codes `first` to `stop` into `body`, at their `positions`.

    A drafted code copies the code `offset` positions earlier, for the first of the `offsets` that
    does not go before the start: the same position of the frame before, the code above, the code to
    the left. The very first code is drafted as the id `initial`.
    """
    for index in range(first, stop):
        offset = next((each for each in offsets if each <= index), None)
        source = initial if offset is None else body[positions[index - offset]]
        body[positions[index]] = source


def accept_draft(draft: Sequence[int], sampled: Sequence[int]) -> int:
    """How many of the samples are valid: one more than the drafted codes that they confirm."""
    accepted = 1
    while accepted < len(sampled) and draft[accepted - 1] == sampled[accepted - 1]:
        accepted += 1
    return accepted
