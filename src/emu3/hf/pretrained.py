"""Base class with a `from_pretrained` that accepts what scripts for BAAI's code pass to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import is_accelerate_available

from emu3.checkpoints.safetensors_io import abbreviate
from emu3.errors import InputError

MULTI_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # need accelerate


class Emu3PreTrainedModel(PreTrainedModel):
    """Strict loading of weights, PyTorch attention, and single devices without accelerate."""

    _supports_sdpa = True

    def __init__(self, config: Any) -> None:
        config._attn_implementation = "sdpa"  # see `from_pretrained`
        super().__init__(config)

    @classmethod
    def from_pretrained(
        cls,
        *args: Any,
        attn_implementation: object = None,
        device_map: Any = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a model as in transformers, with these differences.

        `attn_implementation` is ignored: attention is PyTorch's `scaled_dot_product_attention`. A
        `device_map` that is a single device does not need accelerate. Raises InputError on missing
        and on unexpected tensors.
        """
        device = None if is_accelerate_available() else _single_device(device_map)
        device_map = None if device is not None else device_map
        model, info = super().from_pretrained(
            *args, device_map=device_map, output_loading_info=True, **kwargs
        )
        for wrong in ("missing_keys", "unexpected_keys"):
            if info[wrong]:
                names = abbreviate(sorted(info[wrong]))
                raise InputError(f"{model.name_or_path}: {wrong.replace('_', ' ')}: {names}")
        model = model if device is None else model.to(device)
        return (model, info) if output_loading_info else model

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: modules initialize themselves, and strict loading sets every weight."""


def _single_device(device_map: Any) -> torch.device | None:
    """The device of a `device_map` that has only one; None otherwise."""
    if isinstance(device_map, dict) and device_map.keys() == {""}:
        device_map = device_map[""]
    if isinstance(device_map, int):
        return torch.device("cuda", device_map)
    if isinstance(device_map, str) and device_map not in MULTI_DEVICE_MAPS:
        return torch.device(device_map)
    return device_map if isinstance(device_map, torch.device) else None
