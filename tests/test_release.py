"""The wheel is built, installed without the checkout and without any extra, and run."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

from tools.check_dist import sdist_problems, wheel_problems

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def core_distributions() -> set[str]:
    """What `pip install emu3` installs besides emu3: its requirements, and theirs."""
    found, left = set[str](), ["emu3"]
    while left:
        for line in distribution(left.pop()).requires or []:
            wanted = Requirement(line)
            applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
            if applies and wanted.name not in found:
                found.add(wanted.name)
                left.append(wanted.name)
    return found


def link_distributions(names: set[str], folder: Path) -> None:
    """Make the files of installed distributions importable from a folder, without copying them."""
    folder.mkdir()
    for name in names:
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            source = Path(str(distribution(name).locate_file(top)))
            if not (folder / top).exists() and source.exists():
                (folder / top).symlink_to(source)


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel, and nothing that only an extra needs."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    link_distributions(core_distributions(), folder / "core")
    (site_packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site_packages / "core.pth").write_text(f"{folder / 'core'}\n", encoding="utf-8")
    (wheel,) = built.glob("*.whl")
    install = ["pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True, capture_output=True)
    return python.parent


def test_packages_are_complete(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    assert wheel_problems(wheel) == []
    assert sdist_problems(sdist) == []


def test_demo_runs_from_installed_wheel(installed: Path, tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    emu3 = str(installed / "emu3")
    where = run(str(installed / "python"), "-c", "import emu3; print(emu3.__file__)")
    assert Path(where).is_relative_to(installed.parent)
    run(emu3, "image", "a red apple, noto style", "-o", "apple.png", "--seed", "0")
    assert Image.open(tmp_path / "apple.png").size == (64, 64)
    assert "apple" in run(emu3, "chat", "apple.png", "What is this?").lower()
