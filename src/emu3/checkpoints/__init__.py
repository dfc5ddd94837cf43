"""Checkpoints on disk and on the Hugging Face hub: find, download, load, save and convert.

Start with `loading`, which defines `Checkpoint` and `load_checkpoint`; `formats` has the tensor
names and config files of each checkpoint format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu3.lazy import lazy_exports

if TYPE_CHECKING:
    from emu3.checkpoints.convert import convert_checkpoint
    from emu3.checkpoints.generation_defaults import GenerationDefaults, GenerationSettings
    from emu3.checkpoints.hub import find_model, find_vision_tokenizer
    from emu3.checkpoints.loading import Checkpoint, DeviceConfig, load_checkpoint

__all__ = [
    "Checkpoint",
    "DeviceConfig",
    "GenerationDefaults",
    "GenerationSettings",
    "convert_checkpoint",
    "find_model",
    "find_vision_tokenizer",
    "load_checkpoint",
]

_MODULES = {
    "Checkpoint": "loading",
    "DeviceConfig": "loading",
    "GenerationDefaults": "generation_defaults",
    "GenerationSettings": "generation_defaults",
    "convert_checkpoint": "convert",
    "find_model": "hub",
    "find_vision_tokenizer": "hub",
    "load_checkpoint": "loading",
}

__getattr__ = lazy_exports(__name__, _MODULES)
