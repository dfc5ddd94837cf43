"""`emu3 quantize` and `emu3 convert`: a checkpoint in other numbers, or under other names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emu3.cli.options import Quiet, Vision
from emu3.errors import InputError
from emu3.progress import transfer_progress

if TYPE_CHECKING:
    from emu3.models.precision import Precision

QUANTIZE_EPILOG = """
[bold]Examples[/bold]

emu3 quantize BAAI/Emu3-Gen -o Emu3-Gen-int4 --bits 4

emu3 image "a portrait of young girl." --model Emu3-Gen-int4 -o girl.png

Matrices of the decoder take 4 or 8 bits, the embedding and the head 8, all else bfloat16.
The vision tokenizer goes along as it is.
"""

CONVERT_EPILOG = """
[bold]Examples[/bold]

emu3 convert nano -o nano-hf --to hf            [dim]for transformers' own Emu3[/dim]

emu3 convert ./Emu3-Chat-hf -o Emu3-Chat --to baai

emu3 convert BAAI/Emu3-Gen -o Emu3-Gen-bf16 --dtype bf16
"""

Source = Annotated[str, typer.Argument(metavar="MODEL", help="nano, a folder, or a hub id.")]
Folder = Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")]


def quantize(
    model: Source,
    output: Folder,
    bits: Annotated[int, typer.Option(help="4 or 8.")] = 4,
    group_size: Annotated[
        int | None, typer.Option(help="Columns that share a scale, at 4 bits.", show_default="64")
    ] = None,
    vision: Vision = None,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint whose weights have 4 or 8 bits."""
    from emu3.models.precision import GROUP_SIZE, INT4, INT8

    group_size = GROUP_SIZE if group_size is None else group_size
    if bits not in (4, 8):
        raise InputError(f"--bits {bits}: only 4 and 8 are supported")
    if group_size < 2 or group_size % 2:
        raise InputError(f"--group-size {group_size}: an even number, 2 or more")
    to = replace(INT4, group_size=group_size) if bits == 4 else INT8
    _convert(model, vision, output, "baai", to, quiet)


def convert(
    model: Source,
    output: Folder,
    to: Annotated[str, typer.Option(help="Whose layout: baai, hf or paddle.")] = "baai",
    dtype: Annotated[
        str | None, typer.Option(help="fp32 or bf16.", show_default="as it is")
    ] = None,
    vision: Vision = None,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint in another layout or precision."""
    from emu3.models.precision import parse_precision

    chosen = None if dtype is None else parse_precision(dtype)
    if chosen is not None and chosen.bits is not None:
        raise InputError(f"--dtype {dtype}: use `emu3 quantize --bits {chosen.bits}`")
    _convert(model, vision, output, to, chosen, quiet)


def _convert(
    model: str, vision: str | None, output: Path, layout: str, to: Precision | None, quiet: bool
) -> None:
    from emu3.checkpoints.convert import convert_checkpoint as write

    with transfer_progress(f"writing {output}", quiet=quiet) as on_bytes:
        write(model, vision, output, format=layout, precision=to, on_bytes=on_bytes)
    typer.echo(output)
