"""Image files of every kind that people have: odd metadata, transparency, deep greys, profiles."""

from __future__ import annotations

import io
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from emu3.errors import InputError
from emu3.processing.image import DEEP_GREYS, open_image, to_rgb
from emu3.processing.video import open_clip

CASES = Path(__file__).parents[1] / "fixtures" / "cases" / "images"


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def file_of(image: Image.Image, image_format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format=image_format, **options)
    return out.getvalue()


@pytest.mark.parametrize("name", ["exposure_minus1_0_in_IFD0.jpg", "artist_as_double.jpg"])
def test_odd_exif_values_do_not_matter(name: str) -> None:
    with Image.open(CASES / name) as opened:
        turned = opened.convert("RGB").transpose(Image.Transpose.ROTATE_270)
    assert (pixels(open_image(CASES / name)) == pixels(turned)).all()


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation(orientation: int) -> None:
    """The upright image is what Pillow's own function gives for a well-formed file."""
    from PIL import ImageOps

    source = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(source, "PNG", exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = ImageOps.exif_transpose(opened)
    assert (pixels(open_image(Path("a.png"), data)) == pixels(expected)).all()


def test_damaged_files_are_refused() -> None:
    with pytest.raises(InputError, match=r"damaged\.qoi: damaged or truncated"):
        open_image(CASES / "damaged.qoi")
    with pytest.raises(InputError, match=r"damaged301\.gif: not a video, or damaged"):
        list(open_clip(CASES / "damaged301.gif").frames)


@pytest.mark.parametrize("name", ["panda_sticker.png", "rgba.png", "palette.png", "still.gif"])
def test_transparent_parts_are_white(name: str) -> None:
    with Image.open(CASES / name) as opened:
        alpha = np.asarray(opened.convert("RGBA"))[..., 3]
    assert (alpha == 0).any()
    assert (pixels(open_image(CASES / name))[alpha == 0] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "P", "L", "RGB"])
def test_transparency_of_every_mode(mode: str) -> None:
    """A black image, half of it transparent, by an alpha channel or a transparent colour."""
    if mode in ("P", "L", "RGB"):
        image = Image.new("L", (4, 2), 0)
        image.paste(9, (0, 0, 2, 2))
        image = image.convert(mode)
        index = image.getpixel((0, 0))
        data = file_of(image, "PNG", transparency=index)
        found = pixels(open_image(Path("a.png"), data))
        assert found[0, 3].max() <= 9
    else:
        alpha = Image.new("L", (4, 2), 255)
        alpha.paste(0, (0, 0, 2, 2))
        image = Image.new("LA" if mode in ("LA", "La") else "RGBA", (4, 2))
        image.putalpha(alpha)
        found = pixels(to_rgb(image.convert(mode)))
        assert (found[:, 2:] == 0).all()
    assert (found[:, :2] == 255).all()


@pytest.mark.parametrize("name", ["grey16.pgm", "grey16.png", "int32.tif"])
@pytest.mark.parametrize("plain", [False, True])
def test_deep_greys_are_ramps(name: str, plain: bool) -> None:
    with Image.open(CASES / name) as opened:
        values = pixels(to_rgb(opened, plain=plain))
    assert values.mean() == pytest.approx(127, abs=2)
    assert values.min() <= 1
    assert values.max() >= 254


@pytest.mark.parametrize("scale", [1, 255, 65535, 1e7, -1e7])
def test_float_greys_of_every_range(scale: float) -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    data = file_of(Image.fromarray(ramp * np.float32(scale)), "TIFF")
    values = pixels(open_image(Path("a.tif"), data))[..., 0]
    expected = ramp * 255 if scale > 0 else 255 - ramp * 255
    assert np.abs(values - expected).max() <= 1


def test_a_grey_that_is_not_a_number_is_black() -> None:
    image = Image.fromarray(np.array([[np.nan, np.inf], [0.0, 1.0]], np.float32))
    assert pixels(to_rgb(image))[..., 0].tolist() == [[0, 0], [0, 255]]


def test_profiles_are_converted_to_srgb() -> None:
    red = pixels(open_image(CASES / "swapped_icc.png")).reshape(-1, 3).mean(0)
    assert np.abs(red - [30, 30, 220]).max() < 12
    with Image.open(CASES / "swapped_icc.png") as opened:
        plain = pixels(to_rgb(opened, plain=True)).reshape(-1, 3).mean(0)
    assert np.abs(plain - [220, 30, 30]).max() < 2


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("profile", [b"no profile", b"", "srgb", "lab"])
def test_a_profile_that_cannot_apply_changes_nothing(mode: str, profile: bytes | str) -> None:
    source = Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8, 3), np.uint8))
    image = source.convert(mode)
    expected = pixels(to_rgb(image.copy()))
    if isinstance(profile, str):
        created = ImageCms.createProfile("sRGB" if profile == "srgb" else "LAB")
        profile = ImageCms.ImageCmsProfile(created).tobytes()
    image.info["icc_profile"] = profile
    assert (pixels(to_rgb(image)) == expected).all()


@pytest.mark.parametrize("path", sorted(CASES.iterdir()), ids=lambda path: path.name)
def test_a_second_conversion_changes_nothing(path: Path) -> None:
    try:
        image = open_image(path)
    except InputError:
        return
    assert (pixels(to_rgb(image)) == pixels(image)).all()


WRITABLE = "PNG JPEG GIF TIFF BMP TGA PPM ICO PCX DDS QOI JPEG2000 SGI MPO"
FORMATS = [*WRITABLE.split(), *(n for n in ("AVIF", "WEBP") if features.check(n.lower()))]


def mutations(data: bytes, rng: random.Random, count: int) -> list[bytes]:
    """Files with flipped bytes, cut short, with a part repeated or overwritten."""
    found = []
    for _ in range(count):
        copy = bytearray(data)
        kind, at = rng.randrange(4), rng.randrange(len(data))
        if kind == 0:
            for _ in range(rng.randint(1, 8)):
                copy[rng.randrange(min(len(copy), rng.choice((64, len(copy)))))] = rng.randrange(
                    256
                )
        elif kind == 1:
            del copy[at:]
        elif kind == 2:
            copy[at:at] = copy[at : at + rng.randint(1, 64)]
        else:
            copy[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        found.append(bytes(copy))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("image_format", [*FORMATS, *sorted(p.name for p in CASES.iterdir())])
def test_mutated_files_are_read_or_refused(image_format: str) -> None:
    rng = random.Random(image_format)
    if image_format in FORMATS:
        source = Image.fromarray(np.random.default_rng(2).integers(0, 255, (24, 32, 3), np.uint8))
        data = file_of(source.convert("P") if image_format == "GIF" else source, image_format)
    else:
        data = (CASES / image_format).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pytest replaces the filters that the module sets
        for mutated in mutations(data, rng, 300):
            try:
                image = open_image(Path("file"), mutated)
            except InputError as refused:
                message = str(refused)
            else:
                message = f"file: {image.mode}"
            assert message.startswith("file: ")
            assert "\n" not in message


def test_every_deep_grey_is_known() -> None:
    assert {mode for mode in Image.MODES if mode[0] in "IF"} <= set(DEEP_GREYS)
