"""Names of tensors in transformers' Emu3, from ours.

Source: `modeling_emu3.py`, and for older repositories `conversion_mapping.py`, of transformers
5.23.0.
"""

from __future__ import annotations

import re

VISION = (
    (r"^encoder\.down\.", "encoder.down_block.down."),
    (r"^decoder\.up\.", "decoder.up_block.up."),
    (r"^(encoder|decoder)\.mid\.", r"\1.middle_block."),
    (r"\.attn_1\.norm\.", ".attn_norm."),
    (r"\.attn\.(\d+)\.norm\.", r".attn_norms.\1."),
    (r"\.(attn_1|attn\.\d+)\.([qkv])\.", r".\1.\2_proj."),
    (r"\.(attn_1|attn\.\d+)\.proj_out\.", r".\1.out_proj."),
)
"""Patterns in our names of the vision tokenizer, and what stands in their place, in this order."""

OLD = (
    ("text_model.model.", "model.text_model."),
    ("text_model.lm_head.", "lm_head."),
    ("vqmodel.", "model.vqmodel."),
)
"""Prefixes of repositories saved before transformers' pull request 37033, and those since."""


def decoder_name(ours: str) -> str:
    """`model.norm.weight` to `model.text_model.norm.weight`; the head keeps its name."""
    if ours.startswith("model."):
        return f"model.text_model.{ours.removeprefix('model.')}"
    return ours


def vision_name(ours: str) -> str:
    """`quantize.embedding.weight` to `model.vqmodel.quantize.embedding.weight`.

    The attention's `q`, `k`, `v` and `proj_out` are 1x1 convolutions [C, C, 1, 1] with us, linear
    layers [C, C] there: the same numbers, and whoever copies reshapes to the shape wanted.
    """
    for pattern, theirs in VISION:
        ours = re.sub(pattern, theirs, ours)
    return f"model.vqmodel.{ours}"


def shape(ours: str, size: tuple[int, ...]) -> tuple[int, ...]:
    """The shape there of a tensor of ours: the attention's matrices lose their 1x1."""
    return size[:2] if "_proj." in vision_name(ours) and size[2:] == (1, 1) else size


def canonical_name(name: str) -> str:
    """The name today of a tensor in a stored repository; names of today stay."""
    for old, new in OLD:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
