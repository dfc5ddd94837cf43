"""`emu3 image`: words to picture files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emu3.cli.options import (
    Area,
    Device,
    Dtype,
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
from emu3.cli.preview import image_progress
from emu3.errors import InputError

if TYPE_CHECKING:
    from emu3.api import Emu3
    from emu3.inference.images import OnRow
    from emu3.outputs import ImageOutput

AT_ONCE = 16  # pictures drawn at a time and then written: a long run that is ended keeps them

EPILOG = """
[bold]Examples[/bold]

emu3 image "a red apple, noto style" -o apple.png

emu3 image "a fox" "an owl" -n 2 -o zoo.png      [dim]zoo-1.png to zoo-4.png[/dim]

emu3 image "a lighthouse at dusk" --model BAAI/Emu3-Gen --ratio 16:9 --seed 7 -o light.jpg

The file remembers prompt, seed and settings: the same again draws the same picture.

Many are drawn sixteen at a time and then written: whoever ends a long run keeps these.
"""

Prompts = Annotated[
    list[str], typer.Argument(metavar="PROMPT", help="What to draw; one picture for each.")
]
NumImages = Annotated[int, typer.Option("-n", "--num-images", help="For each prompt.")]
Preview = Annotated[bool, typer.Option(help="The picture growing in the terminal.")]


def image(
    prompts: Prompts,
    output: Output,
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
    dtype: Dtype = None,
    ratio: Ratio = "1:1",
    area: Area = None,
    num_images: NumImages = 1,
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
    """Draw pictures from words."""
    check_utf8(*prompts, negative_prompt, suffix)
    paths = names(output, len(prompts) * num_images)
    seed = seed_or_random(seed)
    _check(paths, ratio, top_k, top_p, temperature, seed)
    m = open_model(model, vision, device, dtype, quiet=quiet)
    start = perf_counter()
    terminal, written = None if quiet else terminal_on_stderr(), list[Path]()
    how = {
        "ratio": ratio,
        "area": area,
        "negative_prompt": negative_prompt,
        "suffix": suffix,
        "guidance_scale": guidance_scale,
        "top_k": top_k,
        "top_p": top_p,
        "temperature": temperature,
    }
    each = [prompt for prompt in prompts for _ in range(num_images)]
    try:
        with image_progress(terminal, len(paths), m.decode if preview else None) as on_row:
            out = _draw(m, each, paths, seed, how, on_row, written.append)
    except KeyboardInterrupt:
        if not written:
            raise
        raise KeyboardInterrupt(f"{len(written)} of {len(paths)} pictures written") from None
    finally:  # not while the bar is there
        for path in written:
            typer.echo(path)
    if not quiet:
        typer.echo(summary(out, perf_counter() - start), err=True)


def names(output: Path, count: int) -> list[Path]:
    """The files of so many pictures: the name itself for one, else numbered from 1."""
    if count < 1:
        raise InputError("--num-images must be at least 1")
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{number}") for number in range(1, count + 1)]


def summary(out: ImageOutput, seconds: float) -> str:
    """What was drawn, in one line."""
    picture, first, last = out.images[0], out.settings[0].seed, out.settings[-1].seed
    codes = sum(each.numel() for each in out.codes)
    size = f"{picture.width}x{picture.height} px"
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    many = "" if len(out.images) == 1 else f"{len(out.images)} pictures of "
    return f"{many}{size}, {seeds}: {codes} codes in {seconds:.1f} s, {codes / seconds:.0f} codes/s"


def _check(
    paths: list[Path],
    ratio: str,
    top_k: int | None,
    top_p: float,
    temperature: float | None,
    seed: int,
) -> None:
    """Whatever can be known to be wrong before a large model is read."""
    from emu3.inference.sampling import SamplingParams
    from emu3.inference.validation import check_seed
    from emu3.outputs import check_image_path
    from emu3.processing.image import parse_ratio

    for path in paths:
        check_image_path(path)
    parse_ratio(ratio)
    check_seed(seed, len(paths))
    SamplingParams(top_k or 0, top_p, 1.0 if temperature is None else temperature)


def _draw(
    m: Emu3,
    prompts: list[str],
    paths: list[Path],
    seed: int,
    how: dict[str, Any],
    on_row: OnRow | None,
    on_file: Callable[[Path], None],
) -> ImageOutput:
    """Draw a picture for each prompt and write it, `AT_ONCE` at a time; all of them are given back.

    Picture i has seed `seed + i`, as if all were drawn at once.
    """
    from emu3.outputs import ImageOutput

    parts = list[ImageOutput]()
    for start in range(0, len(paths), AT_ONCE):
        some = prompts[start : start + AT_ONCE]
        parts.append(m.image(some, seed=seed + start, on_row=on_row, **how))
        for index, path in enumerate(paths[start : start + AT_ONCE]):
            on_file(parts[-1].save(path, index))
    return ImageOutput(
        [each for part in parts for each in part.images],
        [each for part in parts for each in part.codes],
        [each for part in parts for each in part.settings],
    )
