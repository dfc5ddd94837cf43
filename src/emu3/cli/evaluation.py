"""`emu3 eval`: token loss and image reconstruction of any checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from emu3.cli.options import Device, Dtype, Vision, open_model
from emu3.errors import InputError
from emu3.files import atomic_write, check_writable

EPILOG = """
[bold]Examples[/bold]

emu3 eval BAAI/Emu3-Chat --data data        [dim]a folder that emu3 prepare wrote[/dim]

emu3 eval nano --images photos --limit 100 --json report.json

The figures of nano's model card come from: python -m recipes.nano.evaluate
"""


def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="nano, a folder, or a hub id such as BAAI/Emu3-Gen."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder that `emu3 prepare` wrote: measure the loss by token role.",
            metavar="DIR",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="A folder of images: measure how well the vision tokenizer reconstructs them.",
            metavar="DIR",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Documents and images to measure at most.", show_default="all"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the report there, as JSON.", metavar="FILE")
    ] = None,
    vision: Vision = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Measure the token loss and the image reconstruction of a checkpoint."""
    if data is None and images is None:
        raise InputError(
            "nothing to measure: pass --data DIR (a folder that `emu3 prepare` wrote) or "
            "--images DIR; the figures of nano's model card come from "
            "`python -m recipes.nano.evaluate`"
        )
    for folder in (data, images):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} must be at least 1")
    if output is not None:
        check_writable(output)
    from rich.console import Console

    from emu3.data.dataset import TokenDataset, read_index
    from emu3.evaluation import evaluate_reconstruction, evaluate_token_loss, find_images

    # Refuse before the model is loaded, which may take minutes.
    paths = None if images is None else find_images(images, limit)
    if data is not None:
        read_index(data)
    opened = open_model(model, vision, device, dtype)
    report: dict[str, Any] = {
        "model": opened.checkpoint.name,
        "dtype": opened.checkpoint.precision,
    }
    console = Console(markup=False)  # a name may have brackets
    if data is not None:
        dataset = TokenDataset.open(data, opened.text_tokenizer)
        loss = evaluate_token_loss(opened.checkpoint.decoder, dataset, limit)
        console.print(loss.table())
        if loss.too_long:
            typer.echo(f"{loss.too_long} documents are longer than the context: left out", err=True)
        report["data"] = loss.to_dict()
    if paths is not None:
        quality = evaluate_reconstruction(opened.checkpoint.vision_processor, paths)
        console.print(quality.table())
        report["images"] = quality.to_dict()
    if output is not None:
        with atomic_write(output) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
