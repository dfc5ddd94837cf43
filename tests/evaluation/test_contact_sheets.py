"""Contact sheets of images and videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emu3.errors import InputError
from emu3.evaluation import save_contact_sheet, save_video_contact_sheet


def test_sheet_frames_correct_and_wrong_images(tmp_path: Path) -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    path = tmp_path / "sheet.png"
    save_contact_sheet([black] * 60, [black + 9] * 60, [True, False] * 30, path)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (8 * 80, 6 * 144, 3), "48 cells"
    correct, wrong = sheet[5, 5], sheet[5, 144 + 5]
    assert correct[1] > correct[0]
    assert wrong[0] > wrong[1]
    assert (sheet[40, 8:72] == 0).all(), "generated"
    assert (sheet[40, 72:136] == 9).all(), "expected"


def test_images_of_several_sizes_are_refused(tmp_path: Path) -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(InputError, match="one size"):
        save_contact_sheet([black], [black[:32]], [True], tmp_path / "sheet.png")


def test_video_sheet_has_all_frames(tmp_path: Path) -> None:
    path = tmp_path / "sheet.webp"
    videos = [np.full((4, 16, 16, 3), 40 * each, np.uint8) for each in range(7)]
    for each in videos:
        each[2] = 255 - each[2]
    save_video_contact_sheet(videos, path)
    with Image.open(path) as sheet:
        assert sheet.size == (6 * 20, 2 * 20)
        assert sheet.n_frames == 4
