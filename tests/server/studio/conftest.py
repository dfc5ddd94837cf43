"""Fixtures: a studio context with a tiny checkpoint, data URLs, and servers with their studio."""

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
from emu3.server.metrics import Metrics
from emu3.server.settings import Settings
from emu3.server.studio.context import StudioContext
from emu3.testing import tiny_checkpoint

API_KEY = "a-key-for-tests"
LIMITS: dict[str, Any] = {
    "model": "tiny",
    "max_body": 200_000,
    "max_tokens": 12,
    "max_pixels": 64 * 64,
}


def checkpoint_for_all_tasks() -> Checkpoint:
    """Return a tiny checkpoint whose generation defaults list every task."""
    checkpoint = tiny_checkpoint()
    return replace(checkpoint, defaults=replace(checkpoint.defaults, tasks=TASKS))


@pytest.fixture(scope="module")
def context() -> Iterator[StudioContext]:
    engine = AsyncEngine(checkpoint_for_all_tasks(), max_waiting=8, max_running=8)
    yield StudioContext(engine, Settings(**LIMITS), Metrics(engine))
    engine.close(drain=False)


def data_url(image: Image.Image, kind: str = "png") -> str:
    out = io.BytesIO()
    image.save(out, format=kind)
    return f"data:image/{kind};base64," + base64.b64encode(out.getvalue()).decode()


@pytest.fixture
def photo() -> str:
    """A data URL of a 20×16 image."""
    return data_url(Image.radial_gradient("L").resize((20, 16)).convert("RGB"))


@contextmanager
def running_server(settings: Settings) -> Iterator[tuple[str, AsyncEngine]]:
    """Run a server with its studio in a thread; yield its URL and its engine."""
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("gradio")
    from emu3.server.app import create_app

    engine = AsyncEngine(checkpoint_for_all_tasks(), max_waiting=8, max_running=8)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        app = create_app(engine, settings, studio=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False)
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
            app.state.studio.gateway.close()
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, AsyncEngine]]:
    """A server without an API key."""
    with running_server(Settings(jobs=tmp_path_factory.mktemp("jobs"), **LIMITS)) as server:
        yield server


@pytest.fixture(scope="package")
def server_with_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, AsyncEngine]]:
    """A server that requires API_KEY."""
    jobs = tmp_path_factory.mktemp("jobs")
    with running_server(Settings(api_key=API_KEY, jobs=jobs, **LIMITS)) as server:
        yield server
