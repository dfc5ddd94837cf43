"""Number formats of the decoder's weights: fp32, bf16, int8 or int4.

With int8 and int4, activations and the KV cache are bfloat16 (weight-only quantization).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from emu3.config import DecoderConfig
from emu3.errors import InputError

GROUP_SIZE = 64  # columns of a matrix row that share a scale and a zero point at 4 bits


@dataclass(frozen=True)
class Precision:
    """`dtype` of activations, KV cache and unquantized weights; `bits` of quantized matrices."""

    name: str
    dtype: torch.dtype
    bits: int | None = None
    group_size: int = GROUP_SIZE


FP32 = Precision("fp32", torch.float32)
BF16 = Precision("bf16", torch.bfloat16)
INT8 = Precision("int8", torch.bfloat16, bits=8)
INT4 = Precision("int4", torch.bfloat16, bits=4)
PRECISIONS = (FP32, BF16, INT8, INT4)


def parse_precision(value: str | torch.dtype | Precision) -> Precision:
    """Parse `"fp32"`, `"bf16"`, `"int8"`, `"int4"`, or a torch dtype such as `torch.bfloat16`.

    Raises InputError on anything else.
    """
    if isinstance(value, Precision):
        return value
    for precision in PRECISIONS:
        torch_name = str(precision.dtype).removeprefix("torch.")
        if value == precision.name:
            return precision
        if precision.bits is None and value in (precision.dtype, torch_name):
            return precision
    names = ", ".join(precision.name for precision in PRECISIONS)
    raise InputError(f"unknown precision {str(value)!r}; use one of {names}")


def stored_precision(config: DecoderConfig) -> Precision | None:
    """The precision that a checkpoint's weight files are quantized to, or None if they are not."""
    stored = config.quantization_config
    if stored is None:
        return None
    return Precision(f"int{stored['bits']}", torch.bfloat16, stored["bits"], stored["group_size"])
