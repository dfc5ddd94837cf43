"""Tiny models on disk, valid and damaged, and fixtures that run the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from emu3.checkpoints.loading import Checkpoint
from emu3.cli.app import build
from emu3.testing import tiny_checkpoint
from emu3.training import allocator

Emu3Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def kept_memory(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record calls of `keep_freed_memory` instead of changing the allocator of the test process."""
    calls = list[bool]()
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: calls.append(True))
    return calls


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Path:
    """The folder of a tiny model; read-only."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint.save(folder)
    return folder


@pytest.fixture
def broken(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the model that a test may damage."""
    return shutil.copytree(tiny, tmp_path_factory.mktemp("broken") / "tiny")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the working directory of the command."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.radial_gradient("L").resize((24, 16)).convert("RGB").save(path)
    return path


@pytest.fixture
def emu3() -> Emu3Command:
    """Run `emu3 …` in this process."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(build(), [str(each) for each in arguments])

    return run


@pytest.fixture
def refused(emu3: Emu3Command, here: Path) -> Callable[..., str]:
    """Run a command that must exit with 2, one line on stderr and no new file; returns the line."""

    def run(*arguments: object) -> str:
        before = sorted(here.rglob("*"))
        result = emu3(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert sorted(here.rglob("*")) == before
        return line

    return run
