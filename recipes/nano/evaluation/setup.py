"""What every evaluation begins with: bounds that are checked, and what was not given made."""

from __future__ import annotations

from pathlib import Path

from emu3.errors import InputError
from recipes.nano.emoji_world import Icons
from recipes.nano.evaluation.icon_classifier import Judge


def check_asked(samples: int, most: int, seed: int) -> None:
    """Raise InputError unless there are so many held-out pairs, and the seed is none below 0."""
    if not 1 <= samples <= most:
        raise InputError(f"samples must be 1 to {most}, the held-out pairs, not {samples}")
    if seed < 0:
        raise InputError(f"seed must be 0 or more, not {seed}")


def opened(icons: Icons | None, judge: Judge | None, sheets: Path | None) -> tuple[Icons, Judge]:
    """Icons and judge, made where they were not given; the folder of sheets is made too.

    Raises MissingExtraError without scikit-image.
    """
    icons = Icons.load() if icons is None else icons
    judge = Judge.build(icons) if judge is None else judge
    if sheets is not None:
        sheets.mkdir(parents=True, exist_ok=True)
    return icons, judge
