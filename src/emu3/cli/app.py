"""The Typer application: registers every command."""

from __future__ import annotations

from typing import Annotated

import typer

from emu3 import __version__
from emu3.cli import (
    bench,
    chat,
    conversion,
    encode_decode,
    evaluation,
    image,
    info,
    prepare,
    serve,
    training,
    video,
)
from emu3.cli.error_handling import CommandGroup

EPILOG = """
[bold]Examples[/bold]

emu3 image "a red apple, noto style" -o apple.png

emu3 chat apple.png "What is this?"

emu3 info nano
"""


def build() -> typer.Typer:
    """Build the command line as a Typer application."""
    app = typer.Typer(
        cls=CommandGroup,
        epilog=EPILOG,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,  # show Python's own traceback for a bug
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    app.command(epilog=image.EPILOG)(image.image)
    app.command(epilog=video.VIDEO_EPILOG)(video.video)
    app.command(epilog=video.EXTEND_EPILOG)(video.extend)
    app.command(epilog=chat.EPILOG)(chat.chat)
    app.command(epilog=encode_decode.ENCODE_EPILOG)(encode_decode.encode)
    app.command(epilog=encode_decode.DECODE_EPILOG)(encode_decode.decode)
    app.command(epilog=info.EPILOG)(info.info)
    app.command(epilog=conversion.QUANTIZE_EPILOG)(conversion.quantize)
    app.command(epilog=conversion.CONVERT_EPILOG)(conversion.convert)
    app.command(epilog=prepare.EPILOG)(prepare.prepare)
    app.command(epilog=training.EPILOG)(training.train)
    app.command(epilog=bench.EPILOG)(bench.bench)
    app.command(epilog=serve.EPILOG)(serve.serve)
    app.command("eval", epilog=evaluation.EPILOG)(evaluation.evaluate)
    return app


def main() -> None:
    """Entry point of the `emu3` command."""
    build()(prog_name="emu3")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"emu3 {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Emu3: text, images and video with one next-token transformer."""
