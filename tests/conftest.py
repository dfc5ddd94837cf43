"""Shared by all tests: the reference data, a fixed seed for each test, one thread."""

from __future__ import annotations

import json
import lzma
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from safetensors.torch import load_file, save_file

from tests.baai_hub import baai_hub
from tests.fake_hub import FakeHub

FIXTURES = Path(__file__).resolve().parent / "fixtures"

# No deadlines: a busy machine is not a bug. Under CI the examples are the same every time.
settings.register_profile("emu3", deadline=None, derandomize=bool(os.environ.get("CI")))


def pytest_configure() -> None:
    settings.load_profile("emu3")
    # One thread: models are tiny, and some tests fork processes, which hang in their first matrix
    # product if the parent has used OpenMP threads.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Seed the random generators, so that a test does not depend on those run before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A local fake of the Hugging Face hub with BAAI's repositories, and a cache in `tmp_path`."""
    with baai_hub(monkeypatch, tmp_path / "cache") as running:
        yield running


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with BAAI's tiny checkpoints and what the original code computes with them.

    tests/fixtures holds them in a compact form; its README says what was left out.
    """
    folder = tmp_path_factory.mktemp("reference") / "published"
    shutil.copytree(FIXTURES, folder)
    decoder = folder / "Emu3-Gen-tiny"
    for path in decoder.glob("*.xz"):
        path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        path.unlink()
    rows = load_file(decoder / "rows.safetensors")
    (decoder / "rows.safetensors").unlink()
    size = json.loads((decoder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    for name in ("model.embed_tokens", "lm_head"):
        ids, values = rows.pop(f"{name}.ids").long(), rows.pop(f"{name}.rows")
        rows[f"{name}.weight"] = torch.zeros(size, values.shape[1]).index_copy(0, ids, values)
    save_file(rows, decoder / "model.safetensors", {"format": "pt"})
    return folder
