"""What all tests share: the reference data, one seed for each test, and few threads."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.baai_hub import baai_hub
from tests.fake_hub import FakeHub

ROOT = Path(__file__).resolve().parents[1]

# A busy machine is no bug: no deadlines. Under CI the examples are the same every time.
settings.register_profile("emu3", deadline=None, derandomize=bool(os.environ.get("CI")))


def pytest_configure() -> None:
    settings.load_profile("emu3")
    # Toy sizes: more only get in the way. And tests fork processes in order to kill them: a fork of
    # a process that has run OpenMP's threads hangs in its first product.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test draws the same random numbers, alone or after others."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub on this machine with BAAI's repositories, and a cache of its own in `tmp_path`."""
    with baai_hub(monkeypatch, tmp_path / "cache") as running:
        yield running


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with BAAI's tiny checkpoints and what the original code computes with them."""
    folder = ROOT.parent / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip("needs ../shared/reference, which is not here")
    return folder
