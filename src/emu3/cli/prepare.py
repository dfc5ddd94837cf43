"""`emu3 prepare`: tokenize images, videos and texts into shards for training."""

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

emu3 prepare images -o data           [dim]a.png with caption a.txt; other .txt are texts[/dim]

emu3 prepare train.jsonl more.tar -o data --model BAAI/Emu3-Stage1

A line of JSONL is {"text": …}, {"image": …, "text": …}, or {"image": …, "turns": \[…]}; for a
video, "video" instead of "image".
To resume an interrupted run, run the same command again. Samples that could not be used are listed
in skipped.jsonl.
"""


def prepare(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="JSONL, parquet or tar files; folders of these; folders of images, videos and "
            "texts; or folders written by save_to_disk.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Number of processes.", show_default="one per CPU; 1 on cuda"),
    ] = None,
    samples_per_slice: Annotated[
        int,
        typer.Option(
            "--slice", help="Samples per shard, for sources that do not determine it themselves."
        ),
    ] = 256,
    text: Annotated[str, typer.Option(help="Name of the text column in tables.")] = "text",
    image: Annotated[str, typer.Option(help="Name of the image column in tables.")] = "image",
    fps: Annotated[float, typer.Option(help="Frames per second to sample videos at.")] = 8.0,
    quiet: Quiet = False,
) -> None:
    """Tokenize images, videos and texts into shards for training."""
    from emu3.checkpoints.loading import DeviceConfig
    from emu3.data.discovery import find_sources
    from emu3.data.parquet import ColumnNames
    from emu3.data.prepare import prepare_dataset
    from emu3.data.workers import TokenizerConfig
    from emu3.errors import InputError

    if workers is None:
        on_cuda = DeviceConfig.resolve(device, None).device.type == "cuda"
        workers = 1 if on_cuda else os.cpu_count() or 1
    found = find_sources(sources, ColumnNames(text, image), samples_per_slice)
    tokenizer_config = TokenizerConfig(model, vision, device, fps)
    total = sum(source.num_slices for source in found)
    try:
        with count_progress(f"preparing {output}", total, quiet=quiet) as advance:
            result = prepare_dataset(found, output, tokenizer_config, workers, advance)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "finished shards are kept; run the same command again to resume"
        ) from None
    if not result.samples:
        raise InputError(
            f"{output}: no sample is valid; {output / 'skipped.jsonl'} has the reasons of "
            f"{result.skipped} skipped ones"
        )
    typer.echo(output)
    if not quiet:
        typer.echo(_summary(result), err=True)


def _summary(result: PrepareResult) -> str:
    ids = ", ".join(f"{count} {name}" for name, count in result.ids.items())
    counts = f"{result.samples} samples, {sum(result.ids.values())} ids ({ids})"
    skipped = f"{result.skipped} skipped" + (", see skipped.jsonl" if result.skipped else "")
    return f"{counts}, {skipped}"
