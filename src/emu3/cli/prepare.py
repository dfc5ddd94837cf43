"""`emu3 prepare`: what a person has to shards of ids, to learn from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emu3.cli.options import Device, Model, Quiet, Vision
from emu3.progress import count_progress

if TYPE_CHECKING:
    from emu3.data.prepare import PrepareResult

EPILOG = r"""
[bold]Examples[/bold]

emu3 prepare pictures -o data         [dim]a.png with caption a.txt; other .txt are texts[/dim]

emu3 prepare train.jsonl more.tar -o data --model BAAI/Emu3-Stage1

A line of JSONL: {"text": …}, {"image": …, "text": …}, or {"image": …, "turns": \[…]}; for a
clip "video" instead of "image".
Stopped, the same command goes on. What could not be used is in skipped.jsonl.
"""


def prepare(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="JSONL, parquet or tar files, or folders: of these, of pictures, clips and "
            "texts, or made by save_to_disk.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes.", show_default="one a CPU; 1 on cuda"),
    ] = None,
    per_slice: Annotated[
        int, typer.Option("--slice", help="Samples in a shard, where the source leaves it open.")
    ] = 256,
    text: Annotated[str, typer.Option(help="The column of texts in a table.")] = "text",
    image: Annotated[str, typer.Option(help="The column of pictures in a table.")] = "image",
    fps: Annotated[float, typer.Option(help="Frames a second that clips are seen at.")] = 8.0,
    quiet: Quiet = False,
) -> None:
    """Turn pictures, clips and texts into shards of ids to train on."""
    from emu3.checkpoints.loading import DeviceConfig
    from emu3.data.discovery import find_sources
    from emu3.data.parquet import ColumnNames
    from emu3.data.prepare import prepare as write
    from emu3.data.workers import TokenizerConfig as Chosen

    if workers is None:
        on_cuda = DeviceConfig.resolve(device, None).device.type == "cuda"
        workers = 1 if on_cuda else os.cpu_count() or 1
    found = find_sources(sources, ColumnNames(text, image), per_slice)
    chosen = Chosen(model, vision, device, fps)
    total = sum(source.num_slices for source in found)
    try:
        with count_progress(f"preparing {output}", total, quiet=quiet) as advance:
            counts = write(found, output, chosen, workers, advance)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished shards stay; the same command goes on") from None
    typer.echo(output)
    if not quiet:
        typer.echo(_told(counts), err=True)


def _told(counts: PrepareResult) -> str:
    ids = ", ".join(f"{count} {name}" for name, count in counts.ids.items())
    said = f"{counts.samples} samples, {sum(counts.ids.values())} ids ({ids})"
    return f"{said}, {counts.skipped} skipped" + (", see skipped.jsonl" if counts.skipped else "")
