"""`emu3 chat`: ask about images and videos, or a text-only question."""

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

INCOMPLETE_CHARACTER = "\ufffd"  # ends a partial answer whose last UTF-8 character is incomplete


def chat(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Image and video files, optional.")
    ] = None,
    *,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="The last argument, in quotes.")
    ],
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
    dtype: Dtype = None,
    fps: Annotated[float, typer.Option(help="Frames per second read from videos.")] = 8.0,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of the answer.")] = 1024,
    seed: Annotated[int, typer.Option(help="Seed; has no effect with --top-k 1.")] = 0,
    top_k: TopK = 1,
    top_p: TopP = 1.0,
    temperature: Temperature = 1.0,
) -> None:
    """Ask about images and videos. The model reads images before videos."""
    from emu3.inference.sampling import SamplingParams
    from emu3.processing.image import open_image
    from emu3.processing.video import check_fps, is_video, open_clip

    check_utf8(question)
    if os.path.isfile(question):
        raise InputError(f"{question} is a file; the question comes last: emu3 chat FILE QUESTION")
    SamplingParams(top_k, top_p, temperature)
    check_fps(fps)
    video_files = {path for path in files or [] if is_video(path)}
    images = [open_image(path) for path in files or [] if path not in video_files]
    videos = [open_clip(path, fps) for path in files or [] if path in video_files]
    m = open_model(model, vision, device, dtype)
    stream = AnswerStream(sys.stdout)
    try:
        answer = m.chat(
            question,
            images,
            videos,
            max_new_tokens=max_new_tokens,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
            seed=seed,
            on_text=stream.update if sys.stdout.isatty() else None,
        )
        stream.finish(answer)
    except KeyboardInterrupt:
        stream.end_line()
        raise


class AnswerStream:
    """Writes an answer incrementally from calls with the whole text so far."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.written = file, ""

    def update(self, text: str) -> None:
        """Write what is new in `text`, the whole answer so far."""
        text = text.rstrip(INCOMPLETE_CHARACTER)
        if text.startswith(self.written):
            self.file.write(text[len(self.written) :])
            self.file.flush()
            self.written = text

    def finish(self, answer: str) -> None:
        """Write the rest of the answer and end the line."""
        if not answer.startswith(self.written):
            self.end_line()  # the text changed after it was written: write it again, whole
        self.file.write(answer[len(self.written) :] + "\n")

    def end_line(self) -> None:
        """End the current line, if it is not empty."""
        if self.written:
            self.file.write("\n")
        self.written = ""
