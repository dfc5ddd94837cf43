"""A decoder's blocks compiled for training, put on from outside: fewer trips to memory.

Measured on two cores with units for bfloat16 (nano, 48 documents of 100 ids, forward and backward):
81 documents a second instead of 59 to 72. Each length of rows is compiled by itself, in ten seconds
or so, which is why rows are padded. Attention over rows that are packed from several documents is
left as it is written, for these differ from row to row.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from emu3.models.attention import AttentionBias, RotaryTables
from emu3.models.kv_cache import KVStore
from emu3.models.transformer import Block, Transformer

PAD_MULTIPLE = 8
"""Ids that rows of one document each are well padded to a multiple of."""

SHORT = 256
"""Ids of a row up to which attention on a CPU is faster as plain products than in blocks.

Measured with AVX-512 alone, rows of 100: 1.05 to 1.27 s for 48 documents instead of 1.33 to 1.49.
"""

_LENGTHS = 64  # ways of one block that are kept before it runs as it is written

Forward = Callable[[Tensor, RotaryTables, KVStore | None, AttentionBias], Tensor]


def compile_blocks(model: Transformer) -> None:
    """From here on compile what runs without a cache; in its place, and before `shard_model`.

    With a cache, blocks run as they are written: what grows must not be compiled. Rounding differs
    from theirs, and so does the randomness of dropout.
    """
    torch._dynamo.config.recompile_limit = _LENGTHS
    for block in model.model.layers:
        assert isinstance(block, Block)
        compiled = torch.compile(block.forward, dynamic=False)
        block.forward = partial(_chosen, block.forward, compiled)  # type: ignore[method-assign]


def _chosen(
    written: Forward,
    compiled: Forward,
    x: Tensor,
    by: RotaryTables,
    cache: KVStore | None,
    bias: AttentionBias,
) -> Tensor:
    if cache is not None:
        return written(x, by, cache, bias)
    plain = x.device.type == "cpu" and x.shape[1] <= SHORT
    with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        return compiled(x, by, cache, bias)
