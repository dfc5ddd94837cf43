"""`emu3 video` and `emu3 extend`: words to clips, and clips to longer ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from emu3.cli.options import (
    Area,
    Device,
    Dtype,
    ExtendGuidanceScale,
    GuidanceScale,
    Model,
    NegativePrompt,
    OptionalTemperature,
    OptionalTopK,
    Output,
    Quiet,
    Ratio,
    Seed,
    Suffix,
    TopP,
    Vision,
    check_utf8,
    open_model,
    seed_or_random,
    terminal_on_stderr,
)
from emu3.cli.preview import video_progress

if TYPE_CHECKING:
    from emu3.api import Emu3
    from emu3.inference.video import VideoProgress
    from emu3.outputs import VideoOutput
    from emu3.processing.video import Frame

VIDEO_EPILOG = """
[bold]Examples[/bold]

emu3 video "a red car drives by" -o car.mp4

emu3 video "a fox looks up" -o fox.gif --seconds 4 --fps 8 --seed 7

emu3 video "it starts to rain" --image street.png -o rain.webm

MP4 and WebM remember prompt, seed and settings: the same again draws the same clip.
"""

EXTEND_EPILOG = """
[bold]Examples[/bold]

emu3 extend clip.mp4 -o longer.mp4 --seconds 2

emu3 extend clip.mp4 -o longer.mp4 --seconds 30 --prompt "a red car drives by"

The new clip begins with the old one, as the vision tokenizer sees it.
A model that can talk about clips first says what it sees, and goes on with that;
--prompt "" keeps it silent.
A last group of fewer than four frames is drawn anew.
"""

Seconds = Annotated[float, typer.Option(help="How long.")]
More = Annotated[float, typer.Option(help="How much longer.")]
Fps = Annotated[float, typer.Option(help="Frames a second.")]
First = Annotated[Path | None, typer.Option(help="A picture to begin with; it decides the size.")]
Preview = Annotated[bool, typer.Option(help="The newest frame in the terminal.")]


def video(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What happens.")],
    output: Output,
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
    dtype: Dtype = None,
    seconds: Seconds = 2.0,
    fps: Fps = 8.0,
    image: First = None,
    ratio: Ratio = "1:1",
    area: Area = None,
    seed: Seed = None,
    negative_prompt: NegativePrompt = None,
    suffix: Suffix = None,
    guidance_scale: GuidanceScale = None,
    top_k: OptionalTopK = None,
    top_p: TopP = 1.0,
    temperature: OptionalTemperature = None,
    preview: Preview = True,
    quiet: Quiet = False,
) -> None:
    """Draw a clip from words."""
    from emu3.processing.image import open_image, parse_ratio

    check_utf8(prompt, negative_prompt, suffix)
    _check(output, seconds, fps, top_k, top_p, temperature)
    parse_ratio(ratio)
    first = None if image is None else open_image(image)
    m = open_model(model, vision, device, dtype, quiet=quiet)
    with _making(m, output, preview=preview, quiet=quiet) as film:
        film.out = m.video(
            prompt,
            ratio=ratio,
            area=area,
            seconds=seconds,
            fps=fps,
            image=first,
            negative_prompt=negative_prompt,
            suffix=suffix,
            guidance_scale=guidance_scale,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
            seed=seed_or_random(seed),
            on_group=film.take,
        )


def extend(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="The clip to go on with.")],
    output: Output,
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
    dtype: Dtype = None,
    seconds: More = 2.0,
    fps: Annotated[float, typer.Option(help="Frames a second, of the old clip too.")] = 8.0,
    prompt: Annotated[
        str | None, typer.Option(help="What happens; left out, the model may say so itself.")
    ] = None,
    seed: Seed = None,
    negative_prompt: NegativePrompt = None,
    suffix: Suffix = None,
    guidance_scale: ExtendGuidanceScale = None,
    top_k: OptionalTopK = None,
    top_p: TopP = 1.0,
    temperature: OptionalTemperature = None,
    preview: Preview = True,
    quiet: Quiet = False,
) -> None:
    """Go on with a clip."""
    from emu3.processing.video import open_clip

    check_utf8(prompt, negative_prompt, suffix)
    _check(output, seconds, fps, top_k, top_p, temperature)
    opened = open_clip(clip, fps)
    m = open_model(model, vision, device, dtype, quiet=quiet)
    with _making(m, output, preview=preview, quiet=quiet) as film:
        film.out = m.extend(
            opened.frames,
            seconds=seconds,
            fps=fps,
            prompt=prompt,
            negative_prompt=negative_prompt,
            suffix=suffix,
            guidance_scale=guidance_scale,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
            seed=seed_or_random(seed),
            on_group=film.take,
        )
    if prompt is None and film.out is not None and film.out.settings.prompt and not quiet:
        typer.echo(f"it sees: {film.out.settings.prompt}", err=True)


def _check(
    output: Path,
    seconds: float,
    fps: float,
    top_k: int | None,
    top_p: float,
    temperature: float | None,
) -> None:
    """Whatever can be known to be wrong before a large model is read."""
    from emu3.inference.sampling import SamplingParams
    from emu3.inference.video import num_frames
    from emu3.processing.video import check_clip_path, check_fps

    check_clip_path(output)
    check_fps(fps)
    num_frames(seconds, fps)
    SamplingParams(top_k or 0, top_p, 1.0 if temperature is None else temperature)


@dataclass
class _Film:
    """A clip on its way into its file, group by group."""

    output: Path
    seen: Callable[[VideoProgress], None]
    file: ExitStack
    add: Callable[[Frame], None] | None = None
    out: VideoOutput | None = None

    def take(self, news: VideoProgress) -> None:
        """Write the next frames, and show them."""
        from emu3.processing.video import video_writer

        if self.add is None:
            settings, fps = asdict(news.settings), news.settings.fps
            self.add = self.file.enter_context(video_writer(self.output, fps, settings))
        for frame in news.frames.numpy():
            self.add(frame)
        self.seen(news)


@contextmanager
def _making(m: Emu3, output: Path, *, preview: bool, quiet: bool) -> Iterator[_Film]:
    """The file of a clip, named on stdout once it is there; whole or not at all."""
    if not quiet and "video" not in m.checkpoint.defaults.tasks:
        typer.echo(f"note: {m.checkpoint.name} was not trained on videos", err=True)
    start, terminal = perf_counter(), None if quiet else terminal_on_stderr()
    with video_progress(terminal, preview=preview) as seen, ExitStack() as file:
        film = _Film(output, seen, file)
        yield film
    typer.echo(output)
    if not quiet and film.out is not None:
        typer.echo(summary(film.out, perf_counter() - start), err=True)


def summary(out: VideoOutput, seconds: float) -> str:
    """What was drawn, in one line."""
    count, height, width, _ = out.frames.shape
    codes = out.codes[out.settings.given :].numel()
    return (
        f"{width}x{height} px, {count} frames, {out.fps:g} a second, seed {out.settings.seed}: "
        f"{codes} codes in {seconds:.1f} s, {codes / seconds:.0f} codes/s"
    )
