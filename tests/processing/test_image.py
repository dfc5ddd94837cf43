"""Images to pixels and back, sizes, and damaged, malicious or unusual files."""

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
def test_pixels_match_reference(reference: Path, name: str) -> None:
    golden = load_file(reference / "golden.safetensors")
    folder = reference / "Emu3-VisionTokenizer-tiny"
    config = PreprocessorConfig.from_file(folder / "preprocessor_config.json")
    image = Image.fromarray(golden[f"vq.rgb{name}"].numpy())
    assert torch.equal(to_pixels(image, config), golden[f"vq.pixels{name}"][0])


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
def test_unresized_image_round_trips(config: PreprocessorConfig) -> None:
    image = photo()
    pixels = to_pixels(image, config)
    assert (pixels.shape, pixels.dtype) == ((3, 24, 36), torch.float32)
    back = np.asarray(to_image(pixels, config)).astype(int)
    assert (
        np.abs(back - np.asarray(image)).max() <= 1
    )  # values are truncated, not rounded, as published


def test_pixels_are_in_minus_one_to_one() -> None:
    black, white = (to_pixels(Image.new("RGB", (8, 8), c), SMALL) for c in ("black", "white"))
    torch.testing.assert_close(black, torch.full_like(black, -1.0))
    torch.testing.assert_close(white, torch.full_like(white, 1.0))


def test_pixels_out_of_range_are_clipped() -> None:
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
def test_smart_resize_keeps_ratio_within_pixel_limits(
    config: PreprocessorConfig, height: int, width: int
) -> None:
    factor = config.spatial_factor
    assume(min(height, width) >= factor and max(height, width) <= MAX_ASPECT * min(height, width))
    new = smart_resize(height, width, config)
    assert all(side > 0 and side % factor == 0 for side in new)
    assert config.min_pixels <= new[0] * new[1] <= config.max_pixels
    # Each side is within one code of exact scaling: none, or to the area of a limit.
    area = height * width
    scales = [1.0, (config.max_pixels / area) ** 0.5, (config.min_pixels / area) ** 0.5]
    assert any(
        abs(new[0] - height * scale) <= factor and abs(new[1] - width * scale) <= factor
        for scale in scales
    )


@given(st.integers(8, 64), st.integers(8, 64))
def test_smart_resize_keeps_valid_sizes(rows: int, columns: int) -> None:
    config = BOUNDS[0]
    height, width = rows * 16, columns * 16
    assume(config.min_pixels <= height * width <= config.max_pixels)
    assume(max(height, width) <= MAX_ASPECT * min(height, width))
    assert smart_resize(height, width, config) == (height, width)


@pytest.mark.parametrize("size", [(7, 100), (100, 7), (0, 0), (100, 501), (501, 100)])
def test_smart_resize_refuses_small_or_long_sizes(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"both sides must be at least 8|5 times"):
        smart_resize(*size, PreprocessorConfig())


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [("1:1", (1, 1)), ("16:9", (16, 9)), (" 3:4\n", (3, 4)), ("5:1", (5, 1)), ("10:50", (10, 50))],
)
def test_parse_ratio(ratio: str, expected: tuple[int, int]) -> None:
    assert parse_ratio(ratio) == expected


BAD_RATIOS = ["", "1", "1:", ":1", "0:1", "1:0", "-1:1", "1:1:1", "a:b", "1.5:1", "1/1", "6:1"]
BAD_RATIOS += ["1:6", "1 : 1", "１:１", "123456:123456"]


@pytest.mark.parametrize("ratio", BAD_RATIOS)
def test_invalid_ratios_raise(ratio: str) -> None:
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
def test_size_in_codes(ratio: str, area: int, size: tuple[int, int]) -> None:
    assert size_in_codes(ratio, area, 8) == size


@pytest.mark.parametrize(("ratio", "area"), [("1:1", 0), ("1:1", -64), ("1:1", 15), ("5:1", 64)])
def test_invalid_areas_raise(ratio: str, area: int) -> None:
    with pytest.raises(InputError, match=rf"^area {area}"):
        size_in_codes(ratio, area, 8)


# Files.

KINDS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def opened(content: bytes, folder: Path) -> Image.Image:
    path = folder / "image"
    path.write_bytes(content)
    return open_image(path)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_files_round_trip(tmp_path: Path, kind: str) -> None:
    assert np.array_equal(np.asarray(opened(encoded(photo(), kind), tmp_path)), np.asarray(photo()))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.png: no such file"):
        open_image(tmp_path / "nothing.png")
    with pytest.raises(InputError, match=r": "):
        open_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"a caption, not an image\n", b"\x89PNG\r\n\x1a\n"])
def test_other_files_raise(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"image: (not an image|damaged)"):
        opened(content, tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.9])
def test_truncated_file_raises(tmp_path: Path, kind: str, kept: float) -> None:
    whole = encoded(photo(), kind)
    with pytest.raises(InputError, match="damaged or truncated"):
        opened(whole[: int(len(whole) * kept)], tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_raise_input_errors_only(tmp_path: Path, kind: str) -> None:
    """Files with random bytes replaced either open or raise a one-line InputError."""
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
def test_decompression_bomb_is_refused_unread(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"too large; the limit is 100 megapixels"):
        opened(png_header(*size), tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    transposes = {
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
    for step in transposes[orientation]:
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    actual = opened(encoded(stored, "JPEG", exif=exif, quality=95), tmp_path)
    assert actual.size == scene.size
    assert np.abs(np.asarray(actual).astype(int) - np.asarray(scene)).mean() < 12


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
def test_colors_are_equal_in_every_mode(tmp_path: Path, mode: str, kind: str) -> None:
    plain = Image.new("RGB", (16, 16), RED)
    stored = plain.quantize(8) if mode == "P" else plain.convert(mode)
    image = opened(encoded(stored, kind), tmp_path)
    actual = np.asarray(to_image(to_pixels(image, SMALL), SMALL)).astype(int)
    assert np.abs(actual - RED).max() <= 4


@pytest.mark.parametrize(("mode", "grey"), [("L", 120), ("LA", 120), ("1", 255), ("I;16", 120)])
def test_greys_are_equal_in_every_mode(tmp_path: Path, mode: str, grey: int) -> None:
    """Including 16-bit images: 120 of 255 is 30,840 of 65,535."""
    if mode == "I;16":
        image = Image.fromarray(np.full((16, 16), grey * 257, np.uint16))
    else:
        image = Image.new("L", (16, 16), grey).convert(mode)
    read = opened(encoded(image, "PNG"), tmp_path)
    actual = np.asarray(to_image(to_pixels(read, SMALL), SMALL)).astype(int)
    assert np.abs(actual - grey).max() <= 1
