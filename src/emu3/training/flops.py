"""What a step costs in floating-point operations, and how many of them a machine has to give."""

from __future__ import annotations

from functools import cache
from time import perf_counter

import torch

from emu3.config import DecoderConfig

PASSES = 3  # forward is one, backward two


def matmul_parameters(config: DecoderConfig) -> int:
    """Weights that every id is multiplied with: all matrices but the table of embeddings."""
    hidden, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    attention = hidden * (2 * heads + 2 * keys)
    mlp = 3 * hidden * config.intermediate_size
    return config.num_hidden_layers * (attention + mlp) + hidden * config.vocab_size


def flops_per_token(config: DecoderConfig, length: int) -> float:
    """Of one id in a document of `length` ids, forward and backward.

    A multiplication and an addition for each weight, and for each channel of each id looked back
    on, of which an id sees half the document on average. What is computed twice to save memory
    does not count, so that a share of the ceiling is the useful share (Chowdhery et al. 2022,
    arXiv 2204.02311, appendix B).
    """
    heads = config.num_attention_heads * config.head_dim
    looks = 2 * config.num_hidden_layers * heads * length / 2  # queries by keys, then by values
    return 2 * PASSES * (matmul_parameters(config) + looks)


@cache
def measure_peak_flops(device: torch.device, bf16: bool) -> float:
    """FLOP/s of the best of five square products, in the precision of a run.

    Measured, and so somewhat below a data sheet's; 0.1 s on two cores of a CPU.
    """
    side = 512 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if bf16 else torch.float32
    one = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):  # the first of them warms up
        start = perf_counter()
        product = one @ one
        product[0, 0].item()  # waits for a GPU
        best = min(best, perf_counter() - start)
    return 2 * side**3 / best
