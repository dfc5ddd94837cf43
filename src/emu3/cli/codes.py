"""`emu3 encode` and `emu3 decode`: the vision tokenizer alone."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from emu3.cli.options import Device, Model, Output, Vision
from emu3.errors import InputError
from emu3.files import check_writable, replacing

if TYPE_CHECKING:
    from emu3.codec import Codec

ENCODE_EPILOG = r"""
[bold]Examples[/bold]

emu3 encode photo.jpg -o codes.npz

emu3 encode photo.jpg -o codes.npz --model BAAI/Emu3-Chat

`np.load("codes.npz")` has `codes`, int64 \[h, w], and `model`, the name.
"""

DECODE_EPILOG = """
[bold]Examples[/bold]

emu3 encode photo.jpg -o codes.npz && emu3 decode codes.npz -o back.png

emu3 decode mine.npy -o mine.png      [dim]any integer array of codes, height by width[/dim]
"""


def encode(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture file.")],
    output: Output,
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
) -> None:
    """Turn a picture into codes."""
    from emu3.image import open_image

    if output.suffix.lower() != ".npz":
        raise InputError(f"{output}: end the name in .npz")
    check_writable(output)
    opened = open_image(picture)
    codes = open_codec(model, vision, device).encode(opened).numpy()
    with replacing(output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, codes=codes, model=np.array(model))
    typer.echo(output)
    typer.echo(f"{codes.shape[0]}x{codes.shape[1]} codes, height by width", err=True)


def decode(
    codes: Annotated[Path, typer.Argument(metavar="CODES", help="A .npz or .npy of codes.")],
    output: Output,
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
) -> None:
    """Turn codes back into a picture."""
    import torch

    from emu3.output import check_picture_path, save_picture

    check_picture_path(output)
    array, made_by = read_codes(codes)
    picture = open_codec(model, vision, device).picture(torch.from_numpy(array))
    save_picture(picture, output, {"model": model})
    typer.echo(output)
    typer.echo(f"{picture.width}x{picture.height} px", err=True)
    if made_by not in (None, model):
        typer.echo(f"note: these codes were made by {made_by}, not {model}", err=True)


def open_codec(model: str, vision: str | None, device: str | None) -> Codec:
    """The vision tokenizer that goes with a model, without the model."""
    from emu3 import checkpoint
    from emu3.hub import find_model, find_vision

    place = checkpoint.Place.choose(device, None)
    folder = find_vision(find_model(model, weights=False), vision, model)
    return checkpoint.open_codec(folder, place.device)


def read_codes(path: Path) -> tuple[NDArray[np.int64], str | None]:
    """Codes [h, w] of a file, and the model that it says made them.

    Raises InputError on whatever is no picture in codes.
    """
    codes, made_by = _load(path)
    if codes.ndim == 3:
        raise InputError(f"{path}: a clip of codes {list(codes.shape)}; only pictures are decoded")
    if codes.ndim != 2 or not codes.size:
        raise InputError(f"{path}: codes have shape {list(codes.shape)}, expected height by width")
    if codes.dtype.kind not in "iu":
        raise InputError(f"{path}: codes are {codes.dtype}, expected integers")
    largest = int(codes.max())
    if largest > np.iinfo(np.int64).max:  # would turn negative below
        raise InputError(f"{path}: no codebook has a code {largest}")
    return codes.astype(np.int64), made_by


def _load(path: Path) -> tuple[NDArray[Any], str | None]:
    """The array of a .npy, or `codes` and `model` of a .npz."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded as file:
            if "codes" not in file:
                held = ", ".join(file.files) or "nothing"
                raise InputError(f"{path}: no array named codes in it, but {held}")
            return file["codes"], str(file["model"]) if "model" in file else None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a readable .npz or .npy of codes ({error})") from None
