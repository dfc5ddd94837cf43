"""`emu3 image`: generate image files from text."""

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
    from emu3.api import Emu3, OnRow
    from emu3.outputs import ImageOutput

BATCH_SIZE = 16  # images are written after each batch, so that an interrupted run keeps them

EPILOG = """
[bold]Examples[/bold]

emu3 image "a red apple, noto style" -o apple.png

emu3 image "a fox" "an owl" -n 2 -o zoo.png      [dim]zoo-1.png to zoo-4.png[/dim]

emu3 image "a lighthouse at dusk" --model BAAI/Emu3-Gen --ratio 16:9 --seed 7 -o light.jpg

The file stores prompt, seed and settings, from which the same image can be generated again.

More than sixteen images are generated and written in batches of sixteen; Ctrl-C keeps those
already written.
"""

Prompts = Annotated[
    list[str], typer.Argument(metavar="PROMPT", help="One or more texts, each an image.")
]
NumImages = Annotated[int, typer.Option("-n", "--num-images", help="Images per prompt.")]
Preview = Annotated[bool, typer.Option(help="Show the first image in the terminal as it grows.")]


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
    """Generate images from text."""
    check_utf8(*prompts, negative_prompt, suffix)
    paths = output_paths(output, len(prompts) * num_images)
    seed = seed_or_random(seed)
    _check_arguments(paths, ratio, top_k, top_p, temperature, seed)
    m = open_model(model, vision, device, dtype, quiet=quiet)
    start = perf_counter()
    terminal, written = None if quiet else terminal_on_stderr(), list[Path]()
    settings = {
        "ratio": ratio,
        "area": area,
        "negative_prompt": negative_prompt,
        "suffix": suffix,
        "guidance_scale": guidance_scale,
        "top_k": top_k,
        "top_p": top_p,
        "temperature": temperature,
    }
    repeated = [prompt for prompt in prompts for _ in range(num_images)]
    try:
        with image_progress(terminal, len(paths), m.decode if preview else None) as on_row:
            out = _generate(m, repeated, paths, seed, settings, on_row, written.append)
    except KeyboardInterrupt:
        if not written:
            raise
        raise KeyboardInterrupt(f"{len(written)} of {len(paths)} images written") from None
    finally:  # after the progress bar has gone
        for path in written:
            typer.echo(path)
    if not quiet:
        typer.echo(summary(out, perf_counter() - start), err=True)


def output_paths(output: Path, count: int) -> list[Path]:
    """The files of `count` images: `output` itself for one, else numbered from 1."""
    if count < 1:
        raise InputError("--num-images must be at least 1")
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{number}") for number in range(1, count + 1)]


def summary(out: ImageOutput, seconds: float) -> str:
    """One line about the generated images."""
    image, first, last = out.images[0], out.settings[0].seed, out.settings[-1].seed
    codes = sum(each.numel() for each in out.codes)
    size = f"{image.width}x{image.height} px"
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    count = "" if len(out.images) == 1 else f"{len(out.images)} images of "
    return (
        f"{count}{size}, {seeds}: {codes} codes in {seconds:.1f} s, {codes / seconds:.0f} codes/s"
    )


def _check_arguments(
    paths: list[Path],
    ratio: str,
    top_k: int | None,
    top_p: float,
    temperature: float | None,
    seed: int,
) -> None:
    """Raise InputError on invalid arguments before the model, which may be large, is loaded."""
    from emu3.inference.sampling import SamplingParams
    from emu3.inference.validation import check_seed
    from emu3.outputs import check_image_path
    from emu3.processing.image import parse_ratio

    for path in paths:
        check_image_path(path)
    parse_ratio(ratio)
    check_seed(seed, len(paths))
    SamplingParams(top_k or 0, top_p, 1.0 if temperature is None else temperature)


def _generate(
    m: Emu3,
    prompts: list[str],
    paths: list[Path],
    seed: int,
    settings: dict[str, Any],
    on_row: OnRow | None,
    on_file: Callable[[Path], None],
) -> ImageOutput:
    """Generate one image per prompt and write it, `BATCH_SIZE` at a time.

    Image i has seed `seed + i`, independent of the batches. Returns all images.
    """
    from emu3.outputs import ImageOutput

    batches = list[ImageOutput]()
    for start in range(0, len(paths), BATCH_SIZE):
        batch = prompts[start : start + BATCH_SIZE]
        batches.append(m.image(batch, seed=seed + start, on_row=on_row, **settings))
        for index, path in enumerate(paths[start : start + BATCH_SIZE]):
            on_file(batches[-1].save(path, index))
    return ImageOutput(
        [each for batch in batches for each in batch.images],
        [each for batch in batches for each in batch.codes],
        [each for batch in batches for each in batch.settings],
    )
