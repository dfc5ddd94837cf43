"""Options that several commands share, and opening the model that they name."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from emu3.errors import InputError
from emu3.progress import transfer_progress

if TYPE_CHECKING:
    from emu3.api import Emu3

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


def _sampling(said: str, *, shown: bool | str = True) -> Any:
    return typer.Option(help=said, rich_help_panel="Sampling", show_default=shown)


_TOP_K = "Draw from the k likeliest; 1 is greedy, 0 all."
_TEMPERATURE = "Above 1 bolder, below 1 safer."
_CARD = "the model's"  # where nothing is said, the model's card says it

TopK = Annotated[int, _sampling(_TOP_K)]
OptionalTopK = Annotated[int | None, _sampling(_TOP_K, shown=_CARD)]
TopP = Annotated[float, _sampling("Draw from the likeliest that sum to p.")]
Temperature = Annotated[float, _sampling(_TEMPERATURE)]
OptionalTemperature = Annotated[float | None, _sampling(_TEMPERATURE, shown=_CARD)]
Ratio = Annotated[str, typer.Option(help="Width to height, up to 5:1.")]
Area = Annotated[int | None, typer.Option(help="About how many pixels.", show_default=_CARD)]
Seed = Annotated[
    int | None, typer.Option(help="The same draws the same.", show_default="by chance")
]
NegativePrompt = Annotated[
    str | None, typer.Option(help="What to keep away from.", show_default=_CARD)
]
Suffix = Annotated[str | None, typer.Option(help="Added to each prompt.", show_default=_CARD)]
_GUIDANCE = "How closely to follow the prompt; 1 is no guidance."
GuidanceScale = Annotated[float | None, typer.Option(help=_GUIDANCE, show_default=_CARD)]
ExtendGuidanceScale = Annotated[
    float | None, typer.Option(help=_GUIDANCE, show_default=f"{_CARD}; 1 without prompts")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="The file to write.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]

FEW_BITS = ("int8", "int4")
SEEDS = 2**31  # a seed by chance is short enough to be typed again


def open_model(
    model: str, vision: str | None, device: str | None, dtype: str | None, *, quiet: bool = False
) -> Emu3:
    """Open what `--model`, `--vision`, `--device` and `--dtype` name; raises InputError."""
    from huggingface_hub.utils import disable_progress_bars

    from emu3.api import Emu3
    from emu3.models.precision import stored_precision

    if quiet:
        disable_progress_bars()  # those of downloads
    with transfer_progress(f"opening {model}", quiet=quiet) as on_bytes:
        opened = Emu3.from_pretrained(
            model, vision=vision, device=device, dtype=dtype, on_bytes=on_bytes
        )
    chosen = opened.checkpoint.precision
    if (
        dtype is None
        and chosen in FEW_BITS
        and stored_precision(opened.config) is None
        and not quiet
    ):
        said = f"note: opened as {chosen}, the widest that fits into memory; --dtype says otherwise"
        typer.echo(said, err=True)
    return opened


def seed_or_random(seed: int | None) -> int:
    """The seed asked for, or one by chance."""
    return secrets.randbelow(SEEDS) if seed is None else seed


def terminal_on_stderr() -> Console | None:
    """A console on stderr where a person looks at it and lines can be redrawn; None elsewhere."""
    console = Console(stderr=True)
    # Rich alone would let FORCE_COLOR turn a log file into a terminal.
    return console if sys.stderr.isatty() and not console.is_dumb_terminal else None


def check_utf8(*texts: str | None) -> None:
    """Raise InputError on bytes of the command line that are no UTF-8, which no file could hold."""
    for text in texts:
        if text is not None and not text.isprintable() and any(map(_stray, text)):
            raise InputError(f"{text!a}: not valid UTF-8")


def _stray(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"
