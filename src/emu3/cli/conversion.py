"""`emu3 quantize` and `emu3 convert`: write a checkpoint in another precision or format."""

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

The linear layers of the decoder are quantized to 4 or 8 bits, the embedding and the head to 8;
all other weights become bfloat16. The vision tokenizer is copied unchanged.
"""

CONVERT_EPILOG = """
[bold]Examples[/bold]

emu3 convert nano -o nano-hf --to hf            [dim]for transformers' own Emu3[/dim]

emu3 convert ./Emu3-Chat-hf -o Emu3-Chat --to baai

emu3 convert BAAI/Emu3-Gen -o Emu3-Gen-bf16 --dtype bf16
"""

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="nano, a folder, or a hub id.")]
OutputFolder = Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")]


def quantize(
    model: ModelArgument,
    output: OutputFolder,
    bits: Annotated[int, typer.Option(help="4 or 8.")] = 4,
    group_size: Annotated[
        int | None,
        typer.Option(help="Columns that share a scale, with 4 bits.", show_default="64"),
    ] = None,
    vision: Vision = None,
    quiet: Quiet = False,
) -> None:
    """Quantize the weights of a checkpoint to 4 or 8 bits."""
    from emu3.models.precision import GROUP_SIZE, INT4, INT8

    group_size = GROUP_SIZE if group_size is None else group_size
    if bits not in (4, 8):
        raise InputError(f"--bits {bits} is not supported; use 4 or 8")
    if group_size < 2 or group_size % 2:
        raise InputError(f"--group-size {group_size} must be an even number of at least 2")
    precision = replace(INT4, group_size=group_size) if bits == 4 else INT8
    _convert(model, vision, output, "baai", precision, quiet)


def convert(
    model: ModelArgument,
    output: OutputFolder,
    to: Annotated[str, typer.Option(help="Checkpoint format: baai, hf or paddle.")] = "baai",
    dtype: Annotated[
        str | None, typer.Option(help="fp32 or bf16.", show_default="as stored")
    ] = None,
    vision: Vision = None,
    quiet: Quiet = False,
) -> None:
    """Convert a checkpoint to another format or precision."""
    from emu3.models.precision import parse_precision

    precision = None if dtype is None else parse_precision(dtype)
    if precision is not None and precision.bits is not None:
        raise InputError(
            f"--dtype {dtype} is not supported here; use `emu3 quantize --bits {precision.bits}`"
        )
    _convert(model, vision, output, to, precision, quiet)


def _convert(
    model: str,
    vision: str | None,
    output: Path,
    format: str,
    precision: Precision | None,
    quiet: bool,
) -> None:
    from emu3.checkpoints.convert import convert_checkpoint

    with transfer_progress(f"writing {output}", quiet=quiet) as on_bytes:
        convert_checkpoint(
            model, vision, output, format=format, precision=precision, on_bytes=on_bytes
        )
    typer.echo(output)
