"""Pictures to pixels and back; sizes; and files that are broken, hostile or merely unusual."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from emu3.config import PreprocessorConfig
from emu3.errors import InputError
from emu3.processing.image import (
    MAX_ASPECT,
    open_image,
    parse_ratio,
    size_in_codes,
    smart_resize,
    to_array,
    to_image,
    to_pixels,
)

SMALL = PreprocessorConfig(min_pixels=64, max_pixels=4096, spatial_factor=4)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def photo(height: int = 24, width: int = 36) -> Image.Image:
    return Image.fromarray(noise(height, width))


@pytest.mark.parametrize("name", ["0", "1"])
def test_pixels_are_those_of_the_reference(reference: Path, name: str) -> None:
    golden = load_file(reference / "golden.safetensors")
    folder = reference / "Emu3-VisionTokenizer-tiny"
    config = PreprocessorConfig.from_file(folder / "preprocessor_config.json")
    picture = Image.fromarray(golden[f"vq.rgb{name}"].numpy())
    assert torch.equal(to_pixels(picture, config), golden[f"vq.pixels{name}"][0])


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        PreprocessorConfig(
            min_pixels=64,
            max_pixels=4096,
            spatial_factor=4,
            image_mean=(0.48, 0.46, 0.41),
            image_std=(0.27, 0.26, 0.28),
        ),
    ],
)
def test_a_picture_that_needs_no_resizing_comes_back(config: PreprocessorConfig) -> None:
    picture = photo()
    pixels = to_pixels(picture, config)
    assert (pixels.shape, pixels.dtype) == ((3, 24, 36), torch.float32)
    back = np.asarray(to_image(pixels, config)).astype(int)
    assert (
        np.abs(back - np.asarray(picture)).max() <= 1
    )  # values are cut, not rounded, as published


def test_pixels_lie_between_minus_one_and_one() -> None:
    black, white = (to_pixels(Image.new("RGB", (8, 8), c), SMALL) for c in ("black", "white"))
    torch.testing.assert_close(black, torch.full_like(black, -1.0))
    torch.testing.assert_close(white, torch.full_like(white, 1.0))


def test_pixels_beyond_the_range_are_cut() -> None:
    pixels = torch.tensor([-3.0, 3.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    dark, light = to_array(pixels, SMALL)
    assert dark.shape == (2, 2, 3)
    assert (dark == 0).all()
    assert (light == 255).all()


BOUNDS = [
    PreprocessorConfig(),
    PreprocessorConfig(min_pixels=4096, max_pixels=16384),
    PreprocessorConfig(min_pixels=1024, max_pixels=100_000, spatial_factor=16),
]


@given(st.sampled_from(BOUNDS), st.integers(8, 4000), st.integers(8, 4000))
def test_sizes_are_whole_codes_of_the_same_shape_within_the_bounds(
    config: PreprocessorConfig, height: int, width: int
) -> None:
    factor = config.spatial_factor
    assume(min(height, width) >= factor and max(height, width) <= MAX_ASPECT * min(height, width))
    new = smart_resize(height, width, config)
    assert all(side > 0 and side % factor == 0 for side in new)
    assert config.min_pixels <= new[0] * new[1] <= config.max_pixels
    # Each side is within one code of what an exact scaling gives: none, or to a bound's area.
    area = height * width
    scales = [1.0, (config.max_pixels / area) ** 0.5, (config.min_pixels / area) ** 0.5]
    assert any(
        abs(new[0] - height * scale) <= factor and abs(new[1] - width * scale) <= factor
        for scale in scales
    )


@given(st.integers(8, 64), st.integers(8, 64))
def test_a_size_that_fits_stays(rows: int, columns: int) -> None:
    config = BOUNDS[0]
    height, width = rows * 16, columns * 16
    assume(config.min_pixels <= height * width <= config.max_pixels)
    assume(max(height, width) <= MAX_ASPECT * min(height, width))
    assert smart_resize(height, width, config) == (height, width)


@pytest.mark.parametrize("size", [(7, 100), (100, 7), (0, 0), (100, 501), (501, 100)])
def test_sizes_out_of_shape_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"both sides need 8|5 times"):
        smart_resize(*size, PreprocessorConfig())


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [("1:1", (1, 1)), ("16:9", (16, 9)), (" 3:4\n", (3, 4)), ("5:1", (5, 1)), ("10:50", (10, 50))],
)
def test_ratios_are_width_to_height(ratio: str, expected: tuple[int, int]) -> None:
    assert parse_ratio(ratio) == expected


BAD_RATIOS = ["", "1", "1:", ":1", "0:1", "1:0", "-1:1", "1:1:1", "a:b", "1.5:1", "1/1", "6:1"]
BAD_RATIOS += ["1:6", "1 : 1", "１:１", "123456:123456"]


@pytest.mark.parametrize("ratio", BAD_RATIOS)
def test_other_ratios_are_refused(ratio: str) -> None:
    with pytest.raises(InputError, match=r"^ratio "):
        parse_ratio(ratio)
    with pytest.raises(InputError, match=r"^ratio "):
        size_in_codes(ratio, 4096, 8)


@pytest.mark.parametrize(
    ("ratio", "area", "size"),
    [
        ("1:1", 720 * 720, (90, 90)),
        ("16:9", 720 * 720, (68, 120)),
        ("9:16", 720 * 720, (120, 68)),
        ("16:9", 64 * 64, (6, 11)),
        ("1:1", 64, (1, 1)),
    ],
)
def test_sizes_in_codes(ratio: str, area: int, size: tuple[int, int]) -> None:
    assert size_in_codes(ratio, area, 8) == size


@pytest.mark.parametrize(("ratio", "area"), [("1:1", 0), ("1:1", -64), ("1:1", 15), ("5:1", 64)])
def test_an_area_without_a_code_is_refused(ratio: str, area: int) -> None:
    with pytest.raises(InputError, match=rf"^area {area}"):
        size_in_codes(ratio, area, 8)


# Files.

KINDS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def opened(content: bytes, folder: Path) -> Image.Image:
    path = folder / "picture"
    path.write_bytes(content)
    return open_image(path)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_file_is_the_picture_in_it(tmp_path: Path, kind: str) -> None:
    assert np.array_equal(np.asarray(opened(encoded(photo(), kind), tmp_path)), np.asarray(photo()))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.png: no such file"):
        open_image(tmp_path / "nothing.png")
    with pytest.raises(InputError, match=r": "):
        open_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"a caption, not a picture\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"picture: (not a picture|broken)"):
        opened(content, tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.9])
def test_a_file_cut_short_is_refused(tmp_path: Path, kind: str, kept: float) -> None:
    whole = encoded(photo(), kind)
    with pytest.raises(InputError, match="broken or cut short"):
        opened(whole[: int(len(whole) * kept)], tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_never_raise_anything_else(tmp_path: Path, kind: str) -> None:
    """Bytes exchanged at random places: a picture, or one line of complaint."""
    rng = random.Random(0)
    whole = encoded(photo(), kind)
    refused: list[str] = []
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 20)):
            damaged[rng.randrange(min(len(damaged), 300))] = rng.randrange(256)
        try:
            assert opened(bytes(damaged), tmp_path).mode
        except InputError as error:
            refused.append(str(error))
    assert refused
    assert not any("\n" in message for message in refused)


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = (
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (body, data)
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_001, 10_000), (100_000, 100_000)])
def test_a_bomb_is_refused_unread(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"too large; at most 100 megapixels"):
        opened(png_header(*size), tmp_path)


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_stands_upright(tmp_path: Path, turn: int) -> None:
    """A camera held any way, and the note of it in the file: the scene is the same."""
    lying = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    scene = Image.new("RGB", (32, 16), "white")
    scene.paste("red", (0, 0, 8, 8))
    stored = scene
    for step in lying[turn]:
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = turn
    shown = opened(encoded(stored, "JPEG", exif=exif, quality=95), tmp_path)
    assert shown.size == scene.size
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(scene)).mean() < 12


RED = (200, 30, 40)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("CMYK", "JPEG"),
        ("YCbCr", "JPEG"),
        ("RGBA", "WEBP"),
    ],
)
def test_colours_are_the_same_in_every_mode(tmp_path: Path, mode: str, kind: str) -> None:
    plain = Image.new("RGB", (16, 16), RED)
    stored = plain.quantize(8) if mode == "P" else plain.convert(mode)
    picture = opened(encoded(stored, kind), tmp_path)
    shown = np.asarray(to_image(to_pixels(picture, SMALL), SMALL)).astype(int)
    assert np.abs(shown - RED).max() <= 4


@pytest.mark.parametrize(("mode", "grey"), [("L", 120), ("LA", 120), ("1", 255), ("I;16", 120)])
def test_greys_are_the_same_in_every_mode(tmp_path: Path, mode: str, grey: int) -> None:
    """Sixteen bits a pixel too: 120 of 255 is 30,840 of 65,535."""
    if mode == "I;16":
        picture = Image.fromarray(np.full((16, 16), grey * 257, np.uint16))
    else:
        picture = Image.new("L", (16, 16), grey).convert(mode)
    read = opened(encoded(picture, "PNG"), tmp_path)
    shown = np.asarray(to_image(to_pixels(read, SMALL), SMALL)).astype(int)
    assert np.abs(shown - grey).max() <= 1
