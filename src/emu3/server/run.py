"""The server as a process: listens, answers, and stops without leaving anybody halfway."""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType
from typing import Any

from emu3.errors import MissingExtraError
from emu3.inference.async_engine import AsyncEngine
from emu3.server.app import create_app
from emu3.server.settings import Settings
from emu3.server.studio import create_studio


def check_extra() -> None:
    """Raise MissingExtraError where a package is missing: before a model is read, not after."""
    for package in ("fastapi", "uvicorn", "python_multipart"):
        try:
            __import__(package)
        except ImportError:
            raise MissingExtraError(package, "serve", "emu3 serve") from None


def run(
    engine: AsyncEngine, settings: Settings, host: str, port: int, studio: bool = False
) -> None:
    """Serve until SIGTERM or Ctrl-C: then take nothing new, finish what there is, and return."""
    import uvicorn

    shown = create_studio(engine, settings) if studio else None

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: Any = None) -> None:
            """First lets pages go that are open and ask nothing."""
            if shown is not None:
                shown.gateway.close()
            await super().shutdown(sockets)

    log_lines()
    config = uvicorn.Config(
        create_app(engine, settings, shown),
        host=host,
        port=port,
        access_log=False,  # gate.py writes one, without what clients send
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain)),
    )
    # uvicorn drains on its own, and then raises the signal again for whoever was there before.
    before = signal.signal(signal.SIGTERM, _stopped)
    try:
        Server(config).run()
    finally:
        engine.close(drain=False)
        signal.signal(signal.SIGTERM, before)


def _stopped(number: int, frame: FrameType | None) -> None:
    """Nothing is left to be done."""


def log_lines() -> None:
    """One line of JSON on stderr for each request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("emu3.server")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False
