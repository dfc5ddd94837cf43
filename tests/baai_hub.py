"""BAAI's two repositories, small, on a hub of one's own (`fake_hub.py`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants

from emu3.checkpoints.hub import BAAI_VISION_TOKENIZER
from tests.fake_hub import FakeHub, running

GEN = "BAAI/Emu3-Gen"
SHARDS = [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
CHUNK = 100_000  # bytes written at a time; the library's ten million would ask for large files
WEIGHTS = {name: bytes([n]) * 4_000_000 for n, name in enumerate(SHARDS)}


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


INDEX = {"metadata": {"total_size": 1}, "weight_map": {f"layer.{n}": n for n in SHARDS}}
DECODER = {
    "README.md": b"not for us",
    "config.json": as_json({"model_type": "Emu3"}),
    "emu3.tiktoken": b"IQ== 0",
    "emu3_vision_tokens.txt": b"<|visual token 000000|>",
    "model.safetensors.index.json": as_json(INDEX),
    **WEIGHTS,
}
VISION = {
    "config.json": as_json({"model_type": "Emu3VisionVQ"}),
    "preprocessor_config.json": b"{}",
    "model.safetensors": b"vision",
}
TOGETHER = {
    "config.json": as_json({"model_type": "emu3"}),
    "chat_template.jinja": b"{{ text }}",
    "model.safetensors": b"both",
    "preprocessor_config.json": b"{}",
    "processor_config.json": b"{}",
    "tokenizer.json": b"{}",
}


@contextmanager
def baai_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[FakeHub]:
    """A hub with both, a cache of its own, and no login."""
    with running() as hub:
        # The library reads its environment when it is imported, which has happened long ago.
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        hub.add(GEN, DECODER)
        hub.add(BAAI_VISION_TOKENIZER, VISION)
        yield hub
