"""`emu3 eval`: how well a model does."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emu3.cli.options import Device, Dtype, Model, Vision, open_model
from emu3.errors import InputError
from emu3.files import check_writable

if TYPE_CHECKING:
    from emu3.api import Emu3
    from recipes.nano.emoji_world import Icons

EPILOG = """
[bold]Examples[/bold]

emu3 eval nano -o report.json --sheets sheets

emu3 eval nano --model runs/nano/last --samples 24      [dim]a quick look[/dim]

emu3 eval nano --only video --samples 60

Needs the extra emoji: pip install "emu3\\[emoji]"
"""

PAIRS, MOVING_PAIRS = 120, 60
"""How many pairs of each kind are measured unless told otherwise."""


class Part(StrEnum):
    """What is measured."""

    pictures = "pictures"
    video = "video"


def build() -> typer.Typer:
    """The group of evaluations."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
    app.callback()(_evaluate)
    app.command(epilog=EPILOG)(nano)
    return app


def _evaluate() -> None:
    """Measure how well a model does."""


def nano(
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
    dtype: Dtype = None,
    only: Annotated[
        Part | None, typer.Option(help="Pictures or clips alone; else all that the model can.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help=f"Pairs of each kind; {PAIRS} for pictures and {MOVING_PAIRS} for clips."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Picks pairs, scenes and drawings.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the report there, as JSON.")
    ] = None,
    sheets: Annotated[
        Path | None, typer.Option(help="Write pictures and clips that were drawn into this folder.")
    ] = None,
) -> None:
    """Measure drawing and answering on Emoji World, with chance, ceiling and intervals."""
    if output is not None:
        check_writable(output)
    if sheets is not None:
        _check_sheets(sheets)
    from recipes.nano.emoji_world import Icons
    from recipes.nano.evaluation.report import save_report

    icons = Icons.load()
    m = open_model(model, vision, device, dtype)
    if only is Part.video and "video" not in m.checkpoint.defaults.tasks:
        raise InputError(f"{m.checkpoint.name} was not trained on videos; leave out --only video")
    try:
        parts = _measured(m, icons, only, samples, seed, sheets)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("no report written") from None
    if output is not None:
        save_report(parts, output)


def _measured(
    m: Emu3, icons: Icons, only: Part | None, samples: int | None, seed: int, sheets: Path | None
) -> dict[str, dict[str, object]]:
    """What was found of each part, printed as soon as it is there."""
    from recipes.nano.evaluation import Judge, evaluate_moving, evaluate_nano
    from recipes.nano.evaluation.report import DrawingSettings

    card = m.checkpoint.defaults
    drawing = DrawingSettings.of(card)
    pictures = only is not Part.video
    clips = only is not Part.pictures and "video" in card.tasks
    # Made once where two need it; one alone makes its own.
    judge = Judge.build(icons) if pictures and clips else None
    common: dict[str, Any] = {"seed": seed, "icons": icons, "sheets": sheets, "judge": judge}
    parts: dict[str, dict[str, object]] = {}
    for name, wanted, evaluate, pairs in (
        ("pictures", pictures, evaluate_nano, PAIRS),
        ("video", clips, evaluate_moving, MOVING_PAIRS),
    ):
        if wanted:
            count = pairs if samples is None else samples
            report = evaluate(m, samples=count, drawing=drawing, **common)
            report.print()
            parts[name] = report.to_dict()
    return parts


def _check_sheets(folder: Path) -> None:
    """Raise InputError where the sheets could not be written; their folder is made if need be."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder for the sheets")
    missing = [folder, *folder.absolute().parents]
    nearest = next(path for path in missing if path.exists())
    check_writable(nearest / "seen.png")
