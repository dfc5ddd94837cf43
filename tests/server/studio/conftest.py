"""Rooms with a toy engine, pictures as data URLs, and a server with its studio."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from emu3.checkpoints.generation_defaults import TASKS
from emu3.checkpoints.loading import Checkpoint
from emu3.inference.async_engine import AsyncEngine
from emu3.server.settings import Settings
from emu3.server.studio.context import Room
from emu3.testing import tiny_checkpoint

KEY = "a-key-for-tests"
LIMITS: dict[str, Any] = {
    "model": "tiny",
    "max_body": 200_000,
    "max_tokens": 12,
    "max_pixels": 64 * 64,
}


def all_round() -> Checkpoint:
    """A toy that is said to know everything."""
    checkpoint = tiny_checkpoint()
    return replace(checkpoint, defaults=replace(checkpoint.defaults, tasks=TASKS))


@pytest.fixture(scope="module")
def room() -> Iterator[Room]:
    engine = AsyncEngine(all_round(), queue=8, slots=8)
    yield Room(engine, Settings(**LIMITS))
    engine.close(drain=False)


def data_url(picture: Image.Image, kind: str = "png") -> str:
    out = io.BytesIO()
    picture.save(out, format=kind)
    return f"data:image/{kind};base64," + base64.b64encode(out.getvalue()).decode()


@pytest.fixture
def photo() -> str:
    return data_url(Image.radial_gradient("L").resize((20, 16)).convert("RGB"))


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[str, AsyncEngine]]:
    """The address of a server with its studio, and the engine behind it."""
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("gradio")
    from emu3.server.app import create_app
    from emu3.server.studio.app import studio

    engine = AsyncEngine(all_round(), queue=8, slots=8)
    made = studio(engine, settings)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            create_app(engine, settings, made), log_level="warning", access_log=False
        )
        server: Any = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        host, port = listening.getsockname()
        try:
            yield f"http://{host}:{port}", engine
        finally:
            made.door.close()
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, AsyncEngine]]:
    with serving(Settings(jobs=tmp_path_factory.mktemp("jobs"), **LIMITS)) as server:
        yield server


@pytest.fixture(scope="package")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, AsyncEngine]]:
    jobs = tmp_path_factory.mktemp("jobs")
    with serving(Settings(api_key=KEY, jobs=jobs, **LIMITS)) as server:
        yield server
