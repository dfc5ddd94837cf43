"""Options that several commands share, and opening the model that they name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from emu3.errors import InputError
from emu3.progress import transferring

if TYPE_CHECKING:
    from emu3.pipeline import Emu3

Model = Annotated[
    str,
    typer.Option(
        help="nano, a folder, or a hub id such as BAAI/Emu3-Gen.", rich_help_panel="Model"
    ),
]
Vision = Annotated[
    str | None,
    typer.Option(help="The vision tokenizer, where it is not found.", rich_help_panel="Model"),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu or cuda.", show_default="cuda if any", rich_help_panel="Model"),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Precision of the decoder: fp32, bf16, int8 or int4.",
        show_default="the widest that fits, bf16 at most on cuda",
        rich_help_panel="Model",
    ),
]
TopK = Annotated[
    int,
    typer.Option(help="Draw from the k likeliest; 1 is greedy, 0 all.", rich_help_panel="Sampling"),
]
TopP = Annotated[
    float,
    typer.Option(help="Draw from the likeliest that sum to p.", rich_help_panel="Sampling"),
]
Temperature = Annotated[
    float,
    typer.Option(help="Above 1 bolder, below 1 safer.", rich_help_panel="Sampling"),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="The file to write.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]

FEW_BITS = ("int8", "int4")


def open_model(
    model: str, vision: str | None, device: str | None, dtype: str | None, *, quiet: bool = False
) -> Emu3:
    """Open what `--model`, `--vision`, `--device` and `--dtype` name; raises InputError."""
    from huggingface_hub.utils import disable_progress_bars

    from emu3.pipeline import Emu3

    if quiet:
        disable_progress_bars()  # those of downloads
    with transferring(f"opening {model}", quiet=quiet) as on_bytes:
        opened = Emu3.from_pretrained(
            model, vision=vision, device=device, dtype=dtype, on_bytes=on_bytes
        )
    chosen = opened.checkpoint.precision
    if dtype is None and chosen in FEW_BITS and opened.config.precision is None and not quiet:
        said = f"note: opened as {chosen}, the widest that fits into memory; --dtype says otherwise"
        typer.echo(said, err=True)
    return opened


def terminal_on_stderr() -> Console | None:
    """A console on stderr where a person looks at it and lines can be redrawn; None elsewhere."""
    console = Console(stderr=True)
    # Rich alone would let FORCE_COLOR turn a log file into a terminal.
    return console if sys.stderr.isatty() and not console.is_dumb_terminal else None


def check_text(*texts: str | None) -> None:
    """Raise InputError on bytes of the command line that are no UTF-8, which no file could hold."""
    for text in texts:
        if text is not None and not text.isprintable() and any(map(_stray, text)):
            raise InputError(f"{text!a}: not valid UTF-8")


def _stray(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"
