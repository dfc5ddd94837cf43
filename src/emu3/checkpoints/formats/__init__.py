"""Checkpoint formats: tensor names, orientation and config files of BAAI, transformers and Paddle.

The modules map names and rewrite config files; they read no tensors. Start with `registry`, which
defines `CheckpointFormat` and detects the format of a folder.
"""

from emu3.checkpoints.formats.registry import (
    BAAI,
    FORMATS,
    HF,
    PADDLE,
    CheckpointFormat,
    detect_format,
)

__all__ = ["BAAI", "FORMATS", "HF", "PADDLE", "CheckpointFormat", "detect_format"]
