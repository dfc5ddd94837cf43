"""All commands put together."""

from __future__ import annotations

from typing import Annotated

import typer

from emu3 import __version__
from emu3.cli import (
    bench,
    chat,
    clip,
    codes,
    conversion,
    evaluation,
    info,
    picture,
    prepare,
    serve,
    training,
)
from emu3.cli.failures import Commands

EPILOG = """
[bold]Examples[/bold]

emu3 image "a red apple, noto style" -o apple.png

emu3 chat apple.png "What is this?"

emu3 info nano
"""


def build() -> typer.Typer:
    """The whole command line, as a Typer application."""
    app = typer.Typer(
        cls=Commands,
        epilog=EPILOG,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,  # a bug shows Python's own traceback, whole
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_emu3)
    app.command(epilog=picture.EPILOG)(picture.image)
    app.command(epilog=clip.VIDEO_EPILOG)(clip.video)
    app.command(epilog=clip.EXTEND_EPILOG)(clip.extend)
    app.command(epilog=chat.EPILOG)(chat.chat)
    app.command(epilog=codes.ENCODE_EPILOG)(codes.encode)
    app.command(epilog=codes.DECODE_EPILOG)(codes.decode)
    app.command(epilog=info.EPILOG)(info.info)
    app.command(epilog=conversion.QUANTIZE_EPILOG)(conversion.quantize)
    app.command(epilog=conversion.CONVERT_EPILOG)(conversion.convert)
    app.command(epilog=prepare.EPILOG)(prepare.prepare)
    app.command(epilog=training.EPILOG)(training.train)
    app.command(epilog=bench.EPILOG)(bench.bench)
    app.command(epilog=serve.EPILOG)(serve.serve)
    app.add_typer(evaluation.build(), name="eval")
    return app


def main() -> None:
    """What `emu3` runs."""
    build()(prog_name="emu3")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"emu3 {__version__}")
        raise typer.Exit


def _emu3(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which it is.")
    ] = False,
) -> None:
    """Emu3: one next-token transformer that draws pictures and answers questions about them."""
