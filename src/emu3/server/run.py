"""Run the server as a process: listen, answer, and shut down after the running requests."""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType
from typing import Any

from emu3.errors import MissingExtraError
from emu3.inference.async_engine import AsyncEngine
from emu3.server.settings import Settings


def check_extra() -> None:
    """Raise MissingExtraError if a package of the extra `serve` is not installed."""
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        try:
            __import__(package)
        except ImportError:
            raise MissingExtraError(package, "serve", "emu3 serve") from None


def run_server(engine: AsyncEngine, settings: Settings, port: int, studio: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C, then refuse new requests and finish the running ones."""
    check_extra()
    import uvicorn

    from emu3.server.app import create_app

    app = create_app(engine, settings, studio)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: Any = None) -> None:
            """First close the connections that open pages of the studio hold."""
            if app.state.studio is not None:
                app.state.studio.gateway.close()
            await super().shutdown(sockets)

    configure_logging()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=port,
        access_log=False,  # RequestLogMiddleware writes one without what clients send
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # ForwardedHeadersMiddleware reads them
        timeout_graceful_shutdown=max(1, round(settings.drain)),
    )
    # After its graceful shutdown uvicorn raises SIGTERM again for the handler that was there
    # before; the default one would end the process with an error.
    previous = signal.signal(signal.SIGTERM, _ignore_signal)
    try:
        Server(config).run()
    finally:
        engine.close(drain=False)
        signal.signal(signal.SIGTERM, previous)


def _ignore_signal(number: int, frame: FrameType | None) -> None:
    pass


def configure_logging() -> None:
    """Write the access log to stderr, one JSON object per line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("emu3.server")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False
