"""The reference of the training presets, as Markdown made from `emu3.training.presets`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from emu3.training.presets import BAAI_PRESETS, NANO_PRESETS, PRESETS_BY_NAME, LossWeights, Preset

MARKS = {"paper": "ᵖ", "script": "ˢ", "ours": ""}
HIDDEN = ("name", "from_paper", "from_script")


def presets_markdown() -> str:
    """Two tables, at BAAI's size and at nano's: a row for each field, a column for each preset."""
    parts = ["## At BAAI's size", _table(BAAI_PRESETS), "## At nano's size", _table(NANO_PRESETS)]
    return "\n\n".join(parts)


def _table(presets: Sequence[Preset]) -> str:
    head = ["field", *(f"{each.name}<br>{_command(each)}" for each in presets)]
    rows = [
        [field.name, *(_cell(each, field.name) for each in presets)]
        for field in fields(Preset)
        if field.name not in HIDDEN
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _command(preset: Preset) -> str:
    names = [name for name, each in PRESETS_BY_NAME.items() if each is preset]
    return f"`{names[0]}`" if names else "in Python"


def _cell(preset: Preset, field: str) -> str:
    return _shown(getattr(preset, field)) + MARKS[preset.source(field)]


def _shown(value: Any) -> str:
    if isinstance(value, LossWeights):
        counted = {field.name: getattr(value, field.name) for field in fields(value)}
        return ", ".join(f"{name} {weight:g}" for name, weight in counted.items() if weight)
    if isinstance(value, tuple):
        return ", ".join(_shown(each) for each in value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "nothing"
