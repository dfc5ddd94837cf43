"""What the README says is run as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emu3.processing.video import video_writer

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if language == "sh"
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("emu3 ") and "eval" not in line  # minutes, and needs the icons
]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README takes for granted, and the folders it writes to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "docs" / "nano").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).save("photo.jpg")
    (tmp_path / "pictures").mkdir()
    Image.fromarray(noise).save("pictures/noise.png")
    (tmp_path / "pictures" / "noise.txt").write_text("a lot of noise", encoding="utf-8")
    with video_writer(tmp_path / "clip.mp4", 8) as write:
        for _ in range(5):
            write(noise)
    return tmp_path


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_the_commands_run_in_their_order(desk: Path) -> None:
    assert len(COMMANDS) >= 5
    for command in COMMANDS:
        run = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, (command, run.stderr)
    assert Image.open("apple.png").size == (64, 64)


def test_the_python_runs(desk: Path) -> None:
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)|src=\"([^\"]+)\"", README):
        path = ROOT / (target[0] or target[1])
        assert path.exists(), f"README.md links to {path.name}, which is not there"
