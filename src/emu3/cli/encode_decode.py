"""`emu3 encode` and `emu3 decode`: the vision tokenizer without the decoder model."""

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

The file, read with `np.load("codes.npz")`, has the arrays `codes`, int64 \[h, w], and `model`. For
a video, `codes` are \[t, h, w], and `fps` and `frames` are its frame rate and number of frames.
"""

DECODE_EPILOG = """
[bold]Examples[/bold]

emu3 encode photo.jpg -o codes.npz && emu3 decode codes.npz -o back.png

emu3 decode mine.npy -o mine.png      [dim]any integer array of codes, height by width[/dim]

emu3 encode clip.mp4 -o codes.npz && emu3 decode codes.npz -o back.mp4
"""


Fps = Annotated[
    float | None,
    typer.Option(help="Frames per second of a video.", show_default="the file's"),
]


@dataclass(frozen=True)
class CodesFile:
    """The contents of a codes file: codes [h, w] of an image or [t, h, w] of a video, and metadata.

    `model` is the name of the model that encoded them.
    """

    codes: NDArray[np.int64]
    model: str | None = None
    fps: float | None = None
    frames: int | None = None


def encode(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An image or a video.")],
    output: Output,
    fps: Fps = None,
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
) -> None:
    """Encode an image or a video to visual codes."""
    from emu3.processing.image import open_image
    from emu3.processing.video import is_video

    if output.suffix.lower() != ".npz":
        raise InputError(f"{output}: the name must end in .npz")
    check_writable(output)
    if is_video(file):
        arrays = encode_video(file, fps, lambda: load_vision_processor(model, vision, device))
    elif fps is not None:
        raise InputError(f"{file}: an image has no frame rate; leave out --fps")
    else:
        image = open_image(file)
        arrays = {"codes": load_vision_processor(model, vision, device).encode(image).numpy()}
    with atomic_write(output) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, model=np.array(model), **arrays)
    typer.echo(output)
    typer.echo(summary(arrays), err=True)


def encode_video(
    path: Path, fps: float | None, load: Callable[[], VisionProcessor]
) -> dict[str, NDArray[Any]]:
    """Encode a video file to the arrays `codes` [t, h, w], `fps` and `frames`.

    `load` gives the vision processor; it is called once the file is known to be readable.
    """
    from emu3.processing.video import open_clip

    clip = open_clip(path, fps)
    groups = list(load().encode_frames(clip.frames))
    return {
        "codes": np.concatenate([group.codes.numpy() for group in groups]),
        "fps": np.array(clip.fps),
        "frames": np.array(sum(group.frames for group in groups)),
    }


def summary(arrays: dict[str, NDArray[Any]]) -> str:
    """One line about the encoded file."""
    shape = "x".join(map(str, arrays["codes"].shape))
    if "fps" not in arrays:
        return f"{shape} codes, height by width"
    return f"{shape} codes, time by height by width; {arrays['frames']} frames"


def decode(
    codes: Annotated[Path, typer.Argument(metavar="CODES", help="A .npz or .npy file of codes.")],
    output: Output,
    fps: Fps = None,
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
) -> None:
    """Decode visual codes to an image or a video."""
    import torch

    from emu3.outputs import check_image_path, save_image

    check_output(output)
    loaded = read_codes(codes)
    if loaded.codes.ndim == 3:
        loaded = loaded if fps is None else replace(loaded, fps=fps)
        summary = decode_video(
            codes, loaded, output, model, lambda: load_vision_processor(model, vision, device)
        )
    elif fps is not None:
        raise InputError(f"{codes}: an image has no frame rate; leave out --fps")
    else:
        check_image_path(output)
        processor = load_vision_processor(model, vision, device)
        image = processor.decode_image(torch.from_numpy(loaded.codes))
        save_image(image, output, {"model": model})
        summary = f"{image.width}x{image.height} px"
    typer.echo(output)
    typer.echo(summary, err=True)
    if loaded.model not in (None, model):
        typer.echo(f"note: these codes were encoded by {loaded.model}, not {model}", err=True)


def check_output(path: Path) -> None:
    """Raise InputError if `path` has no suffix of an image or video, or is not writable."""
    from emu3 import outputs
    from emu3.processing import video

    suffixes = dict.fromkeys((*outputs.FORMATS, *video.FORMATS))
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: the name must end in {', '.join(suffixes)}")
    check_writable(path)


def decode_video(
    path: Path, loaded: CodesFile, output: Path, model: str, load: Callable[[], VisionProcessor]
) -> str:
    """Decode codes [t, h, w] of the file `path` to a video, frame by frame; returns a summary."""
    from emu3.processing.video import check_clip_path, check_fps, video_writer

    fps = loaded.fps
    if fps is None:
        raise InputError(f"{path}: the file has no frame rate; give one with --fps")
    check_fps(fps)
    check_clip_path(output)
    processor = load()
    count, size = 0, (0, 0)
    with video_writer(output, fps, {"model": model}) as add_frame:
        for frame in processor.decode_frames(
            frame_groups(path, loaded, processor.frames_per_group)
        ):
            add_frame(frame)
            count, size = count + 1, (frame.shape[1], frame.shape[0])
    return f"{size[0]}x{size[1]} px, {count} frames, {fps:g} fps"


def frame_groups(path: Path, loaded: CodesFile, group_size: int) -> Iterator[FrameGroup]:
    """Split codes [t, h, w] into groups of `group_size` frames; the last may have fewer."""
    import torch

    from emu3.processing.vision_processor import FrameGroup

    groups = len(loaded.codes)
    capacity = groups * group_size
    frames = capacity if loaded.frames is None else loaded.frames
    if not capacity - group_size < frames <= capacity:
        raise InputError(
            f"{path}: {frames} frames do not match {groups} groups of {group_size} frames"
        )
    for start, codes in zip(
        range(0, capacity, group_size), torch.from_numpy(loaded.codes), strict=True
    ):
        yield FrameGroup(codes[None], min(group_size, frames - start))


def load_vision_processor(model: str, vision: str | None, device: str | None) -> VisionProcessor:
    """Load the vision tokenizer of a model without its decoder."""
    from emu3.checkpoints import loading
    from emu3.checkpoints.hub import find_model, find_vision_tokenizer

    config = loading.DeviceConfig.resolve(device, None)
    folder = find_vision_tokenizer(find_model(model, weights=False), vision, model)
    return loading.load_vision_processor(folder, config.device)


def read_codes(path: Path) -> CodesFile:
    """Read a .npz or .npy file of codes. Raises InputError if it is not valid."""
    arrays = _load_arrays(path)
    codes = arrays["codes"]
    if codes.ndim not in (2, 3) or not codes.size:
        raise InputError(
            f"{path}: codes have shape {list(codes.shape)}, "
            "expected height by width, or time by height by width"
        )
    if codes.dtype.kind not in "iu":
        raise InputError(f"{path}: codes are {codes.dtype}, expected integers")
    largest = int(codes.max())
    if largest > np.iinfo(np.int64).max:  # the conversion to int64 would wrap around
        raise InputError(f"{path}: code {largest} is larger than any codebook")
    model = str(arrays["model"]) if "model" in arrays else None
    fps, frames = (_number(path, arrays, key) for key in ("fps", "frames"))
    return CodesFile(codes.astype(np.int64), model, fps, None if frames is None else int(frames))


def _number(path: Path, arrays: dict[str, NDArray[Any]], key: str) -> float | None:
    """The single number stored under `key`, or None if it is absent."""
    array = arrays.get(key)
    if array is None:
        return None
    if array.size != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise InputError(f"{path}: {key} is not a single finite number")
    return float(array.item())


def _load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The known arrays of a .npz; a .npy gives `codes` only."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"codes": loaded}
        with loaded as file:
            if "codes" not in file:
                names = ", ".join(file.files) or "nothing"
                raise InputError(f"{path}: no array named codes; the file contains {names}")
            return {key: file[key] for key in ("codes", "model", "fps", "frames") if key in file}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give a file") from None
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a readable .npz or .npy of codes ({error})") from None
