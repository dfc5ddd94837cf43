"""Mixed precision: products in bfloat16, everything that adds up in float32.

Weights, gradients and optimizer stay float32; `torch.autocast` casts what goes into a product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class Float32Attention(TorchFunctionMode):
    """Runs attention in float32 inside autocast.

    Measured on a CPU with bfloat16 units (24 documents of 100 ids, 8 heads of 32, forward and
    backward): 56 ms in bfloat16, whose backward falls off the fast path, 8 ms in float32.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Pass everything on; queries, keys and values as float32."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        with torch.autocast(args[0].device.type, enabled=False):
            return func(*(part.float() for part in args), **kwargs)


def has_fast_bf16(device: torch.device | str) -> bool:
    """Whether products in bfloat16 are worth asking for: a CPU needs AVX-512 or better for them.

    Measured on one without, two cores: 1.8 GFLOP/s in bfloat16, 108 in float32.
    """
    if torch.device(device).type != "cpu":
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def autocast(device: torch.device, bf16: bool) -> Iterator[None]:
    """Within: the precision of a training pass."""
    if not bf16:
        yield
    elif device.type == "cpu":
        with torch.autocast("cpu", torch.bfloat16), Float32Attention():
            yield
    else:
        with torch.autocast(device.type, torch.bfloat16):
            yield
