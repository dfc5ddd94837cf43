"""`emu3 chat`: a question about pictures and clips, or about none."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emu3.cli.options import (
    Device,
    Dtype,
    Model,
    Temperature,
    TopK,
    TopP,
    Vision,
    check_utf8,
    open_model,
)
from emu3.errors import InputError

if TYPE_CHECKING:
    from typing import TextIO

EPILOG = """
[bold]Examples[/bold]

emu3 chat apple.png "What is this?"

emu3 chat before.jpg after.jpg "What has changed?" --model BAAI/Emu3-Chat

emu3 chat clip.mp4 "Which way does it move?"

emu3 chat "Name three fruits." --top-k 50 --temperature 0.7
"""

UNFINISHED = "\ufffd"  # bytes of a character whose rest is still to come


def chat(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Pictures and clips, or none.")
    ] = None,
    *,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The last, in quotes.")],
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
    dtype: Dtype = None,
    fps: Annotated[float, typer.Option(help="Frames a second that are seen of a clip.")] = 8.0,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of the answer at most.")] = 1024,
    seed: Annotated[int, typer.Option(help="Counts where --top-k is not 1.")] = 0,
    top_k: TopK = 1,
    top_p: TopP = 1.0,
    temperature: Temperature = 1.0,
) -> None:
    """Ask about pictures and clips; clips are seen after the pictures."""
    from emu3.inference.sampling import SamplingParams
    from emu3.processing.image import open_image
    from emu3.processing.video import check_fps, is_video, open_clip

    check_utf8(question)
    if os.path.isfile(question):
        raise InputError(f"{question} is a file; the question comes last: emu3 chat FILE TEXT")
    SamplingParams(top_k, top_p, temperature)
    check_fps(fps)
    moving = {path: is_video(path) for path in files or []}
    pictures = [open_image(path) for path in files or [] if not moving[path]]
    clips = [open_clip(path, fps) for path in files or [] if moving[path]]
    m = open_model(model, vision, device, dtype)
    stream = Stream(sys.stdout)
    try:
        answer = m.chat(
            question,
            pictures,
            clips,
            max_new_tokens=max_new_tokens,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
            seed=seed,
            on_text=stream.grow if sys.stdout.isatty() else None,
        )
        stream.finish(answer)
    except KeyboardInterrupt:
        stream.break_off()
        raise


class Stream:
    """Writes an answer as it grows, each part once."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.shown = file, ""

    def grow(self, text: str) -> None:
        """Write what is new in `text`, all of the answer so far."""
        text = text.rstrip(UNFINISHED)
        if text.startswith(self.shown):
            self.file.write(text[len(self.shown) :])
            self.file.flush()
            self.shown = text

    def finish(self, answer: str) -> None:
        """Write the rest of the answer, and end the line."""
        if not answer.startswith(self.shown):
            self.break_off()  # what was shown has changed since: once more, whole
        self.file.write(answer[len(self.shown) :] + "\n")

    def break_off(self) -> None:
        """End the line that is being written, if any."""
        if self.shown:
            self.file.write("\n")
        self.shown = ""
