"""A server on a port of its own, with a tiny model."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from emu3.checkpoints.loading import Checkpoint
from emu3.inference.async_engine import AsyncEngine
from emu3.server.settings import Settings
from emu3.testing import tiny_checkpoint

KEY = "a-key-for-tests"


@dataclass(frozen=True)
class Server:
    """A running server, its engine and its settings."""

    url: str
    engine: AsyncEngine
    settings: Settings


@contextmanager
def serving(
    settings: Settings, checkpoint: Checkpoint | None = None, **bounds: int
) -> Iterator[Server]:
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    from emu3.server.app import create_app

    engine = AsyncEngine(checkpoint or tiny_checkpoint(), **bounds)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(engine, settings), log_level="warning", access_log=False)
        server: Any = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        host, port = listening.getsockname()
        yield Server(f"http://{host}:{port}", engine, settings)
        server.should_exit = True
        thread.join()
    assert not engine.stats().open


def video_checkpoint() -> Checkpoint:
    """A tiny model whose generation defaults list the task `video`."""
    checkpoint = tiny_checkpoint()
    return replace(
        checkpoint, defaults=replace(checkpoint.defaults, tasks=("image", "chat", "video"))
    )


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    settings = Settings(
        model="tiny", api_key=KEY, max_pixels=64 * 64, max_body=3 * 2**20, max_tokens=64
    )
    with serving(settings, max_waiting=32, max_running=8) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client
