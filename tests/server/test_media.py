"""Images in data URLs: what clients' encoders write, and files with odd or damaged content."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from emu3.server.errors import APIError
from emu3.server.media import decode_image_data_url
from emu3.server.settings import Settings

IMAGES = Path(__file__).parents[1] / "fixtures" / "cases" / "images"
SETTINGS = Settings()


@pytest.mark.parametrize("name", ["rgba.png", "artist_as_double.jpg"])
def test_base64_with_line_breaks(name: str) -> None:
    """MIME's encoder writes lines of 76 characters."""
    data = (IMAGES / name).read_bytes()
    kind = "png" if name.endswith("png") else "jpeg"
    head = f"data:image/{kind};base64,"
    plain = decode_image_data_url(head + base64.b64encode(data).decode(), "p", SETTINGS)
    for lines in (base64.encodebytes(data), base64.encodebytes(data).replace(b"\n", b"\r\n ")):
        assert decode_image_data_url(head + lines.decode(), "p", SETTINGS) == plain


@pytest.mark.parametrize("text", ["", "a", "!!!!", "AAAA=AAA", "data\n\n"])
def test_other_base64_is_refused(text: str) -> None:
    with pytest.raises(APIError) as refused:
        decode_image_data_url("data:image/png;base64," + text, "p", SETTINGS)
    assert refused.value.status == 400


def test_every_cut_of_a_file_is_an_image_or_a_400() -> None:
    data = (IMAGES / "exposure_minus1_0_in_IFD0.jpg").read_bytes()
    for end in range(0, len(data), max(1, len(data) // 60)):
        url = "data:image/jpeg;base64," + base64.b64encode(data[:end]).decode()
        try:
            image = decode_image_data_url(url, "p", SETTINGS)
        except APIError as refused:
            status = refused.status
        else:
            status = 400 if image.mode == "RGB" else 500
        assert status == 400
