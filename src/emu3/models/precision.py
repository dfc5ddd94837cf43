"""In which numbers a decoder is held: fp32, bf16, or 8 or 4 bits with activations in bf16."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from emu3.config import DecoderConfig
from emu3.errors import InputError

GROUP_SIZE = 64  # columns of a row that share a scale and a zero point at 4 bits


@dataclass(frozen=True)
class Precision:
    """`dtype` of activations, cache and whatever is not quantised; `bits` of the matrices."""

    name: str
    dtype: torch.dtype
    bits: int | None = None
    group_size: int = GROUP_SIZE


FP32 = Precision("fp32", torch.float32)
BF16 = Precision("bf16", torch.bfloat16)
INT8 = Precision("int8", torch.bfloat16, bits=8)
INT4 = Precision("int4", torch.bfloat16, bits=4)
PRECISIONS = (FP32, BF16, INT8, INT4)


def parse_precision(wanted: str | torch.dtype | Precision) -> Precision:
    """`"fp32"`, `"bf16"`, `"int8"`, `"int4"`, or PyTorch's dtype. Raises InputError."""
    if isinstance(wanted, Precision):
        return wanted
    for one in PRECISIONS:
        long = str(one.dtype).removeprefix("torch.")
        if wanted == one.name or (one.bits is None and wanted in (one.dtype, long)):
            return one
    names = ", ".join(one.name for one in PRECISIONS)
    raise InputError(f"no such precision: {str(wanted)!r}; one of {names}")


def stored_precision(config: DecoderConfig) -> Precision | None:
    """The precision that a checkpoint's weight files are quantized to, or None if they are not."""
    stored = config.quantization_config
    if stored is None:
        return None
    return Precision(f"int{stored['bits']}", torch.bfloat16, stored["bits"], stored["group_size"])
