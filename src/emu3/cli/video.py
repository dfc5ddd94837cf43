"""`emu3 video` and `emu3 extend`: generate videos from text, and continue videos."""

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
    OptionalRatio,
    OptionalTemperature,
    OptionalTopK,
    Output,
    Quiet,
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
    from emu3.inference.events import VideoFrames
    from emu3.outputs import VideoOutput
    from emu3.processing.video import Frame

VIDEO_EPILOG = """
[bold]Examples[/bold]

emu3 video "a red car drives by" -o car.mp4

emu3 video "a fox looks up" -o fox.gif --seconds 4 --fps 8 --seed 7

emu3 video "it starts to rain" --image street.png -o rain.webm

MP4 and WebM files store prompt, seed and settings, from which the same video can be generated
again.
"""

EXTEND_EPILOG = """
[bold]Examples[/bold]

emu3 extend clip.mp4 -o longer.mp4 --seconds 2

emu3 extend clip.mp4 -o longer.mp4 --seconds 30 --prompt "a red car drives by"

The output begins with the old video, reconstructed by the vision tokenizer. Frames are coded in
groups of four; an incomplete last group is generated anew.

Without --prompt, a model trained on videos first captions the video and uses the caption as the
prompt; --prompt "" turns this off.
"""

Seconds = Annotated[float, typer.Option(help="Length in seconds.")]
MoreSeconds = Annotated[float, typer.Option(help="Seconds to add.")]
Fps = Annotated[float, typer.Option(help="Frames per second.")]
FirstImage = Annotated[
    Path | None, typer.Option(help="Image to begin with; also determines the size.")
]
Preview = Annotated[bool, typer.Option(help="Show the newest frame in the terminal.")]


def video(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What happens in the video.")],
    output: Output,
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
    dtype: Dtype = None,
    seconds: Seconds = 2.0,
    fps: Fps = 8.0,
    image: FirstImage = None,
    ratio: OptionalRatio = None,
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
    """Generate a video from text."""
    from emu3.processing.image import open_image, parse_ratio

    check_utf8(prompt, negative_prompt, suffix)
    _check_arguments(output, seconds, fps, top_k, top_p, temperature)
    if ratio is not None:
        parse_ratio(ratio)
    first = None if image is None else open_image(image)
    m = open_model(model, vision, device, dtype, quiet=quiet)
    with _video_file(m, output, preview=preview, quiet=quiet) as file:
        file.result = m.video(
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
            on_group=file.write_group,
        )


def extend(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="The video to continue.")],
    output: Output,
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
    dtype: Dtype = None,
    seconds: MoreSeconds = 2.0,
    fps: Annotated[
        float, typer.Option(help="Frames per second; the old video is resampled to it.")
    ] = 8.0,
    prompt: Annotated[
        str | None,
        typer.Option(help="What happens in the video.", show_default="a caption by the model"),
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
    """Continue a video."""
    from emu3.processing.video import open_clip

    check_utf8(prompt, negative_prompt, suffix)
    _check_arguments(output, seconds, fps, top_k, top_p, temperature)
    opened = open_clip(clip, fps)
    m = open_model(model, vision, device, dtype, quiet=quiet)
    with _video_file(m, output, preview=preview, quiet=quiet) as file:
        file.result = m.extend(
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
            on_group=file.write_group,
        )
    if prompt is None and file.result is not None and file.result.settings.prompt and not quiet:
        typer.echo(f"caption: {file.result.settings.prompt}", err=True)


def _check_arguments(
    output: Path,
    seconds: float,
    fps: float,
    top_k: int | None,
    top_p: float,
    temperature: float | None,
) -> None:
    """Raise InputError on invalid arguments before the model, which may be large, is loaded."""
    from emu3.inference.sampling import SamplingParams
    from emu3.inference.validation import num_frames
    from emu3.processing.video import check_clip_path, check_fps

    check_clip_path(output)
    check_fps(fps)
    num_frames(seconds, fps)
    SamplingParams(top_k or 0, top_p, 1.0 if temperature is None else temperature)


@dataclass
class _VideoFile:
    """A video file that is written group by group while the video is generated."""

    path: Path
    on_progress: Callable[[VideoFrames], None]
    stack: ExitStack
    add_frame: Callable[[Frame], None] | None = None
    result: VideoOutput | None = None

    def write_group(self, progress: VideoFrames) -> None:
        """Append the new frames. The first call opens the file, with the settings it stores."""
        from emu3.processing.video import video_writer

        if self.add_frame is None:
            settings = progress.settings
            writer = video_writer(self.path, settings.fps, asdict(settings))
            self.add_frame = self.stack.enter_context(writer)
        for frame in progress.frames.numpy():
            self.add_frame(frame)
        self.on_progress(progress)


@contextmanager
def _video_file(m: Emu3, output: Path, *, preview: bool, quiet: bool) -> Iterator[_VideoFile]:
    """Write a video with a progress bar; prints its path once the file is complete.

    An error or interruption inside the block leaves no file.
    """
    if not quiet and "video" not in m.checkpoint.defaults.tasks:
        typer.echo(f"note: {m.checkpoint.name} was not trained on videos", err=True)
    start, terminal = perf_counter(), None if quiet else terminal_on_stderr()
    with video_progress(terminal, preview=preview) as on_progress, ExitStack() as stack:
        file = _VideoFile(output, on_progress, stack)
        yield file
    typer.echo(output)
    if not quiet and file.result is not None:
        typer.echo(summary(file.result, perf_counter() - start), err=True)


def summary(out: VideoOutput, seconds: float) -> str:
    """One line about the generated video."""
    frames, height, width, _ = out.frames.shape
    codes = out.codes[out.settings.given :].numel()
    return (
        f"{width}x{height} px, {frames} frames, {out.fps:g} fps, seed {out.settings.seed}: "
        f"{codes} codes in {seconds:.1f} s, {codes / seconds:.0f} codes/s"
    )
