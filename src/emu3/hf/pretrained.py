"""`from_pretrained` with what scripts written for the published code pass to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import is_accelerate_available

from emu3.errors import InputError

SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")  # over devices: needs accelerate


class Emu3PreTrainedModel(PreTrainedModel):
    """What both models share: one attention, strict weights, and devices without accelerate."""

    _supports_sdpa = True

    def __init__(self, config: Any) -> None:
        config._attn_implementation = "sdpa"  # whatever was asked for: see `from_pretrained`
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
        """As in transformers, but for three arguments' sake and the house's.

        `attn_implementation` may name anything and changes nothing: there is one attention here,
        PyTorch's. A `device_map` that is a single device works without accelerate too. Raises
        InputError on tensors that are missing or belong to no part of the model.
        """
        device = None if is_accelerate_available() else _single(device_map)
        device_map = None if device is not None else device_map
        model, info = super().from_pretrained(
            *args, device_map=device_map, output_loading_info=True, **kwargs
        )
        for wrong in ("missing_keys", "unexpected_keys"):
            if info[wrong]:
                names = ", ".join(sorted(info[wrong])[:3])
                raise InputError(f"{model.name_or_path}: {wrong.replace('_', ' ')}: {names}")
        model = model if device is None else model.to(device)
        return (model, info) if output_loading_info else model

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the house's modules begin as they should, and loading leaves none out."""


def _single(device_map: Any) -> torch.device | None:
    """The one device that a `device_map` names, if it is one."""
    if isinstance(device_map, dict) and device_map.keys() == {""}:
        device_map = device_map[""]
    if isinstance(device_map, int):
        return torch.device("cuda", device_map)
    if isinstance(device_map, str) and device_map not in SPREAD:
        return torch.device(device_map)
    return device_map if isinstance(device_map, torch.device) else None
