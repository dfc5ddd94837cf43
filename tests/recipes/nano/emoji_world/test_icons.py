"""Download, cropping and caching of icons; real ones only if they are cached already."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from emu3.errors import InputError
from recipes.nano.emoji_world import (
    ICON_SIZES,
    OBJECTS,
    STYLES,
    Icons,
    default_folder,
    fetch_icons,
    rasterise,
)
from recipes.nano.emoji_world import icons as module


def circle_set() -> dict[str, object]:
    """An Iconify set in which every object is the same wide red ellipse in a corner."""
    body = '<ellipse cx="10" cy="6" rx="8" ry="4" fill="#f00"/>'
    first, *others = OBJECTS
    return {
        "icons": {first: {"body": body}},
        "aliases": {name: {"parent": first} for name in others},
        "width": 32,
        "height": 32,
    }


def test_missing_npm_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match=r"Node\.js.*noto\.json"):
        fetch_icons(tmp_path)


def test_existing_files_are_not_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: pytest.fail("npm was searched for"))
    for style in STYLES:
        (tmp_path / f"{style}.json").write_text("{}")
    assert fetch_icons(tmp_path) == {style: tmp_path / f"{style}.json" for style in STYLES}


def test_icons_are_cropped_centred_and_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("resvg_py", reason="drawing icons needs the extra nano")
    monkeypatch.setattr(module, "OBJECTS", OBJECTS[:5])
    for style in STYLES:
        (tmp_path / f"{style}.json").write_text(json.dumps(circle_set()))
    out = rasterise(tmp_path, 40)
    assert out.shape == (5, 3, 40, 40, 4)
    assert (out == out[0, 0]).all()
    alpha = out[0, 0, ..., 3]
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    assert columns[0] == 0
    assert columns[-1] == 39
    assert (rows[0], rows[-1]) == (10, 29)

    cached = module.cache_path(tmp_path, 40)
    assert cached.is_file()
    np.save(cached, out * 0)
    assert not rasterise(tmp_path, 40).any()
    assert not list(tmp_path.glob("*.tmp"))


def test_downscaling_leaves_no_dark_fringe() -> None:
    image = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (3, 3, 125, 121))
    out = module.crop_and_centre(image, 40)
    assert (out[out[..., 3] > 16][:, :3] > 240).all()


def test_cache_folder_is_configurable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMU3_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "emoji_world"


def test_real_icons_fill_their_squares() -> None:
    if not all(module.cache_path(default_folder(), size).is_file() for size in ICON_SIZES):
        pytest.skip("the real icons are not cached on this machine, and fetching needs npm")
    icons = Icons.load()
    for size in ICON_SIZES:
        array = icons.arrays[size]
        assert array.shape == (400, 3, size, size, 4)
        alpha = array[..., 3] >= 8
        assert alpha.any(axis=(2, 3)).all(), "no icon is empty"
        longer = np.maximum(_span(alpha, across=3), _span(alpha, across=2))
        assert (longer >= size - 2).all()


def _span(visible: NDArray[np.bool_], across: int) -> NDArray[np.int64]:
    """Lines from the first to the last visible one, gaps included."""
    filled = np.asarray(visible.any(axis=across))
    lines = filled.shape[-1]
    return np.asarray(lines - filled.argmax(axis=-1) - filled[..., ::-1].argmax(axis=-1))
