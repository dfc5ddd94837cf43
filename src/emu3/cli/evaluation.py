"""`emu3 eval`: how well a model does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emu3.cli.options import Device, Dtype, Model, Vision, open_model
from emu3.errors import InputError
from emu3.files import check_writable

EPILOG = """
[bold]Examples[/bold]

emu3 eval nano -o report.json --sheets sheets

emu3 eval nano --model runs/nano/last --samples 24      [dim]a quick look[/dim]

Needs the extra emoji: pip install "emu3\\[emoji]"
"""


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
    samples: Annotated[int, typer.Option(help="Pairs of object and style, of each kind.")] = 120,
    seed: Annotated[int, typer.Option(help="Picks pairs, scenes and drawings.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the report there, as JSON.")
    ] = None,
    sheets: Annotated[
        Path | None, typer.Option(help="Write seen.png and held_out.png into this folder.")
    ] = None,
) -> None:
    """Measure drawing and answering on Emoji World, with chance, ceiling and intervals."""
    if output is not None:
        check_writable(output)
    if sheets is not None:
        _check_sheets(sheets)
    from emu3.emoji_world import Icons
    from emu3.evaluate import evaluate_nano
    from emu3.evaluate.report import DrawingSettings

    icons = Icons.load()
    m = open_model(model, vision, device, dtype)
    card = m.checkpoint.card
    drawing = DrawingSettings(
        guidance_scale=card.guidance_scale, top_k=card.top_k, temperature=card.temperature
    )
    try:
        report = evaluate_nano(
            m, samples=samples, seed=seed, icons=icons, sheets=sheets, drawing=drawing
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("no report written") from None
    report.print()
    if output is not None:
        report.save(output)


def _check_sheets(folder: Path) -> None:
    """Raise InputError where the sheets could not be written; their folder is made if need be."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder for the sheets")
    missing = [folder, *folder.absolute().parents]
    nearest = next(path for path in missing if path.exists())
    check_writable(nearest / "seen.png")
