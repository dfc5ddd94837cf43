"""Options shared by several commands, and opening the model that they name."""

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
        help="nano, a checkpoint folder, or a hub id such as BAAI/Emu3-Gen.",
        rich_help_panel="Model",
    ),
]
Vision = Annotated[
    str | None,
    typer.Option(
        help="Vision tokenizer: a folder or a hub id.",
        show_default="found beside the model or on the hub",
        rich_help_panel="Model",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu or cuda.", show_default="cuda if available", rich_help_panel="Model"),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Precision of the decoder: fp32, bf16, int8 or int4.",
        show_default="the widest that fits into memory, at most bf16 on cuda",
        rich_help_panel="Model",
    ),
]


def _sampling_option(text: str, *, default: bool | str = True) -> Any:
    return typer.Option(help=text, rich_help_panel="Sampling", show_default=default)


_TOP_K = "Sample from the k most likely tokens; 1 is greedy, 0 is all."
_TEMPERATURE = "Sampling temperature; below 1 is more conservative."
_CHECKPOINT_DEFAULT = "the checkpoint's"

TopK = Annotated[int, _sampling_option(_TOP_K)]
OptionalTopK = Annotated[int | None, _sampling_option(_TOP_K, default=_CHECKPOINT_DEFAULT)]
TopP = Annotated[
    float, _sampling_option("Sample from the most likely tokens whose probabilities sum to p.")
]
Temperature = Annotated[float, _sampling_option(_TEMPERATURE)]
OptionalTemperature = Annotated[
    float | None, _sampling_option(_TEMPERATURE, default=_CHECKPOINT_DEFAULT)
]
Ratio = Annotated[str, typer.Option(help="Aspect ratio, width:height, at most 5:1.")]
OptionalRatio = Annotated[
    str | None,
    typer.Option(help="Aspect ratio, width:height, at most 5:1.", show_default="1:1"),
]
Area = Annotated[
    int | None,
    typer.Option(help="Approximate number of pixels.", show_default=_CHECKPOINT_DEFAULT),
]
Seed = Annotated[
    int | None,
    typer.Option(help="The same seed gives the same output.", show_default="random"),
]
NegativePrompt = Annotated[
    str | None,
    typer.Option(help="What guidance steers away from.", show_default=_CHECKPOINT_DEFAULT),
]
Suffix = Annotated[
    str | None, typer.Option(help="Text added to each prompt.", show_default=_CHECKPOINT_DEFAULT)
]
_GUIDANCE_SCALE = "Strength of classifier-free guidance; 1 turns it off."
GuidanceScale = Annotated[
    float | None, typer.Option(help=_GUIDANCE_SCALE, show_default=_CHECKPOINT_DEFAULT)
]
ExtendGuidanceScale = Annotated[
    float | None,
    typer.Option(help=_GUIDANCE_SCALE, show_default=f"{_CHECKPOINT_DEFAULT}; 1 without any prompt"),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Output file.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors to stderr.")]

QUANTIZED = ("int8", "int4")
RANDOM_SEEDS = 2**31  # random seeds are below this, short enough to be typed again


def open_model(
    model: str, vision: str | None, device: str | None, dtype: str | None, *, quiet: bool = False
) -> Emu3:
    """Open the model named by `--model`, `--vision`, `--device` and `--dtype`.

    Raises InputError if it is missing, damaged or not supported.
    """
    from huggingface_hub.utils import disable_progress_bars

    from emu3.api import Emu3
    from emu3.models.precision import stored_precision

    if quiet:
        disable_progress_bars()  # those of downloads
    with transfer_progress(f"loading {model}", quiet=quiet) as on_bytes:
        opened = Emu3.from_pretrained(
            model, vision=vision, device=device, dtype=dtype, on_bytes=on_bytes
        )
    precision = opened.checkpoint.precision
    chosen_here = dtype is None and stored_precision(opened.config) is None
    if chosen_here and precision in QUANTIZED and not quiet:
        typer.echo(
            f"note: loaded as {precision}, the widest precision that fits into memory; "
            "choose another with --dtype",
            err=True,
        )
    return opened


def seed_or_random(seed: int | None) -> int:
    """The given seed, or a random one."""
    return secrets.randbelow(RANDOM_SEEDS) if seed is None else seed


def terminal_on_stderr() -> Console | None:
    """A console on stderr if it is a terminal that can redraw lines; else None."""
    console = Console(stderr=True)
    # isatty: Rich alone would treat a log file as a terminal if FORCE_COLOR is set.
    return console if sys.stderr.isatty() and not console.is_dumb_terminal else None


def check_utf8(*texts: str | None) -> None:
    """Raise InputError on text that is not UTF-8 and so cannot be written to a file."""
    for text in texts:
        if text is not None and not text.isprintable() and any(map(_is_surrogate, text)):
            raise InputError(f"{text!a}: not valid UTF-8")


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"
