"""FLOP count of a training step and peak FLOP/s of a device, for model FLOPs utilization (MFU)."""

from __future__ import annotations

from functools import cache
from time import perf_counter

import torch

from emu3.config import DecoderConfig

PASSES = 3  # the forward pass counts one, the backward pass two


def matmul_parameters(config: DecoderConfig) -> int:
    """Number of weights that each token is multiplied with: all matrices but the embeddings."""
    hidden, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    attention = hidden * (2 * heads + 2 * keys)
    mlp = 3 * hidden * config.intermediate_size
    return config.num_hidden_layers * (attention + mlp) + hidden * config.vocab_size


def flops_per_token(config: DecoderConfig, length: int) -> float:
    """FLOP of one token in a document of `length` tokens, forward and backward.

    Two for each weight, and two for each channel of each attended position, of which a token has
    half the document on average. Recomputed activations do not count (Chowdhery et al. 2022,
    arXiv 2204.02311, appendix B).
    """
    heads = config.num_attention_heads * config.head_dim
    attention = 2 * config.num_hidden_layers * heads * length / 2  # queries x keys, then x values
    return 2 * PASSES * (matmul_parameters(config) + attention)


@cache
def measure_peak_flops(device: torch.device, bf16: bool) -> float:
    """FLOP/s of the fastest of five square matrix products, in bfloat16 or float32.

    Somewhat below the data sheet of the device. Takes 0.1 s on two CPU cores.
    """
    side = 512 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if bf16 else torch.float32
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):  # the first is a warm-up
        start = perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits for the GPU
        best = min(best, perf_counter() - start)
    return 2 * side**3 / best
