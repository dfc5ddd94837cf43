"""`emu3 encode` and `emu3 decode`: the vision tokenizer alone."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from emu3.cli.options import Device, Model, Output, Vision
from emu3.errors import InputError
from emu3.files import atomic_write, check_writable

if TYPE_CHECKING:
    from emu3.processing.vision_processor import FrameGroup, VisionProcessor

ENCODE_EPILOG = r"""
[bold]Examples[/bold]

emu3 encode photo.jpg -o codes.npz

emu3 encode photo.jpg -o codes.npz --model BAAI/Emu3-Chat

emu3 encode clip.mp4 -o codes.npz --fps 8

`np.load("codes.npz")` has `codes`, int64 \[h, w], and `model`, the name. Of a clip `codes` are
\[t, h, w], and `fps` and `frames` say how fast and how many frames they stand for.
"""

DECODE_EPILOG = """
[bold]Examples[/bold]

emu3 encode photo.jpg -o codes.npz && emu3 decode codes.npz -o back.png

emu3 decode mine.npy -o mine.png      [dim]any integer array of codes, height by width[/dim]

emu3 encode clip.mp4 -o codes.npz && emu3 decode codes.npz -o back.mp4
"""


Fps = Annotated[
    float | None,
    typer.Option(help="Frames a second of a clip.", show_default="as the file has it"),
]


@dataclass(frozen=True)
class Codes:
    """Codes [h, w] of a picture or [t, h, w] of a clip, and what their file says about them."""

    codes: NDArray[np.int64]
    model: str | None = None
    fps: float | None = None
    frames: int | None = None


def encode(
    picture: Annotated[Path, typer.Argument(metavar="FILE", help="A picture or a clip.")],
    output: Output,
    fps: Fps = None,
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
) -> None:
    """Turn a picture or a clip into codes."""
    from emu3.processing.image import open_image
    from emu3.processing.video import is_video

    if output.suffix.lower() != ".npz":
        raise InputError(f"{output}: end the name in .npz")
    check_writable(output)
    if is_video(picture):
        arrays = encode_clip(picture, fps, lambda: open_codec(model, vision, device))
    elif fps is not None:
        raise InputError(f"{picture}: a picture has no frame rate; leave out --fps")
    else:
        opened = open_image(picture)
        arrays = {"codes": open_codec(model, vision, device).encode(opened).numpy()}
    with atomic_write(output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, model=np.array(model), **arrays)
    typer.echo(output)
    typer.echo(described(arrays), err=True)


def encode_clip(
    path: Path, fps: float | None, vision_processor: Callable[[], VisionProcessor]
) -> dict[str, NDArray[Any]]:
    """The arrays that say all of a clip in codes: `codes` [t, h, w], `fps` and `frames`."""
    from emu3.processing.video import open_clip

    clip = open_clip(path, fps)
    groups = list(vision_processor().encode_frames(clip.frames))
    return {
        "codes": np.concatenate([group.codes.numpy() for group in groups]),
        "fps": np.array(clip.fps),
        "frames": np.array(sum(group.frames for group in groups)),
    }


def described(arrays: dict[str, NDArray[Any]]) -> str:
    """One line about what was encoded."""
    sides = "x".join(map(str, arrays["codes"].shape))
    if "fps" not in arrays:
        return f"{sides} codes, height by width"
    return f"{sides} codes, time by height by width; {arrays['frames']} frames"


def decode(
    codes: Annotated[Path, typer.Argument(metavar="CODES", help="A .npz or .npy of codes.")],
    output: Output,
    fps: Fps = None,
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
) -> None:
    """Turn codes back into a picture or a clip."""
    import torch

    from emu3.outputs import check_image_path, save_image

    check_output(output)
    given = read_codes(codes)
    if given.codes.ndim == 3:
        given = given if fps is None else replace(given, fps=fps)
        said = decode_clip(codes, given, output, model, lambda: open_codec(model, vision, device))
    elif fps is not None:
        raise InputError(f"{codes}: a picture in codes has no frame rate; leave out --fps")
    else:
        check_image_path(output)
        picture = open_codec(model, vision, device).decode_image(torch.from_numpy(given.codes))
        save_image(picture, output, {"model": model})
        said = f"{picture.width}x{picture.height} px"
    typer.echo(output)
    typer.echo(said, err=True)
    if given.model not in (None, model):
        typer.echo(f"note: these codes were made by {given.model}, not {model}", err=True)


def check_output(path: Path) -> None:
    """Raise InputError on what could hold neither a picture nor a clip, before codes are read."""
    from emu3 import outputs as output
    from emu3.processing import video

    suffixes = dict.fromkeys((*output.FORMATS, *video.FORMATS))
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: end the name in {', '.join(suffixes)}")
    check_writable(path)


def decode_clip(
    path: Path, given: Codes, output: Path, model: str, opened: Callable[[], VisionProcessor]
) -> str:
    """Write the clip of codes [t, h, w] frame by frame; gives a line about it."""
    from emu3.processing.video import check_clip_path, check_fps, video_writer

    rate = given.fps
    if rate is None:
        raise InputError(f"{path}: does not say its frame rate; give one with --fps")
    check_fps(rate)
    check_clip_path(output)
    vision_processor = opened()
    frames, shape = 0, (0, 0)
    with video_writer(output, rate, {"model": model}) as add:
        for frame in vision_processor.decode_frames(in_groups(path, given, vision_processor.group)):
            add(frame)
            frames, shape = frames + 1, (frame.shape[1], frame.shape[0])
    return f"{shape[0]}x{shape[1]} px, {frames} frames, {rate:g} a second"


def in_groups(path: Path, given: Codes, group: int) -> Iterator[FrameGroup]:
    """Codes [t, h, w] group by group, the last with the frames that are left for it."""
    import torch

    from emu3.processing.vision_processor import FrameGroup

    most = len(given.codes) * group
    frames = most if given.frames is None else given.frames
    if not most - group < frames <= most:
        raise InputError(f"{path}: {frames} frames cannot be {len(given.codes)} groups of {group}")
    for start, codes in zip(range(0, most, group), torch.from_numpy(given.codes), strict=True):
        yield FrameGroup(codes[None], min(group, frames - start))


def open_codec(model: str, vision: str | None, device: str | None) -> VisionProcessor:
    """The vision tokenizer that goes with a model, without the model."""
    from emu3.checkpoints import loading as checkpoint
    from emu3.checkpoints.hub import find_model, find_vision_tokenizer

    place = checkpoint.DeviceConfig.resolve(device, None)
    folder = find_vision_tokenizer(find_model(model, weights=False), vision, model)
    return checkpoint.load_vision_processor(folder, place.device)


def read_codes(path: Path) -> Codes:
    """Codes of a file, and what it says about them.

    Raises InputError on whatever is no picture and no clip in codes.
    """
    arrays = _load(path)
    codes = arrays["codes"]
    if codes.ndim not in (2, 3) or not codes.size:
        raise InputError(
            f"{path}: codes have shape {list(codes.shape)}, "
            "expected height by width, or time by height by width"
        )
    if codes.dtype.kind not in "iu":
        raise InputError(f"{path}: codes are {codes.dtype}, expected integers")
    largest = int(codes.max())
    if largest > np.iinfo(np.int64).max:  # would turn negative below
        raise InputError(f"{path}: no codebook has a code {largest}")
    model = str(arrays["model"]) if "model" in arrays else None
    fps, frames = (_number(path, arrays, key) for key in ("fps", "frames"))
    return Codes(codes.astype(np.int64), model, fps, None if frames is None else int(frames))


def _number(path: Path, arrays: dict[str, NDArray[Any]], key: str) -> float | None:
    """One number of a .npz, None where it is not in it."""
    array = arrays.get(key)
    if array is None:
        return None
    if array.size != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise InputError(f"{path}: {key} is not one number")
    return float(array.item())


def _load(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz that are ours; a .npy has `codes` alone."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"codes": loaded}
        with loaded as file:
            if "codes" not in file:
                held = ", ".join(file.files) or "nothing"
                raise InputError(f"{path}: no array named codes in it, but {held}")
            return {key: file[key] for key in ("codes", "model", "fps", "frames") if key in file}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name a file") from None
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a readable .npz or .npy of codes ({error})") from None
