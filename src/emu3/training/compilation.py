"""`torch.compile` for the blocks of a decoder, applied from outside.

Measured on two cores with bfloat16 units (nano, 48 documents of 100 tokens, forward and backward):
81 documents a second instead of 59 to 72. Each sequence length is compiled separately, which takes
about ten seconds; that is why sequences are padded to a multiple. Attention over several documents
packed into a sequence is not compiled, because its mask differs from sequence to sequence.
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
"""A good multiple to pad sequences of one short document to."""

MATH_ATTENTION_MAX_LENGTH = 256
"""Sequence length up to which unfused attention is the faster one on a CPU.

Measured with AVX-512, sequences of 100 tokens: 1.05 to 1.27 s for 48 documents instead of 1.33 to
1.49.
"""

_RECOMPILE_LIMIT = 64  # compiled versions of a block before it falls back to eager mode

Forward = Callable[[Tensor, RotaryTables, KVStore | None, AttentionBias], Tensor]


def compile_blocks(model: Transformer) -> None:
    """Compile the blocks of a decoder for training, in place; call it before `shard_model`.

    Passes with a KV cache stay in eager mode, because the cache grows. Rounding and the random
    numbers of dropout differ from eager mode.
    """
    torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
    for block in model.model.layers:
        assert isinstance(block, Block)
        compiled = torch.compile(block.forward, dynamic=False)
        block.forward = partial(_forward, block.forward, compiled)  # type: ignore[method-assign]


def _forward(
    eager: Forward,
    compiled: Forward,
    x: Tensor,
    rotary: RotaryTables,
    cache: KVStore | None,
    bias: AttentionBias,
) -> Tensor:
    if cache is not None:
        return eager(x, rotary, cache, bias)
    use_math = x.device.type == "cpu" and x.shape[1] <= MATH_ATTENTION_MAX_LENGTH
    with sdpa_kernel(SDPBackend.MATH) if use_math else nullcontext():
        return compiled(x, rotary, cache, bias)
