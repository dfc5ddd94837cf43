"""The HTTP server: the engine behind the part of OpenAI's API that Emu3 implements.

Read `app.py` first (the application factory), then `routes/` (one module per group of paths) and
`schemas.py` (request and response bodies). `event_stream.py` connects a route to the engine;
`video_worker.py` runs video jobs in the background. Needs the extra `serve`; `check_extra` says so
before anything else is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu3.lazy import lazy_exports

if TYPE_CHECKING:
    from emu3.server.app import create_app
    from emu3.server.run import check_extra, run_server
    from emu3.server.settings import Settings

__all__ = ["Settings", "check_extra", "create_app", "run_server"]

_MODULES = {"create_app": "app", "check_extra": "run", "run_server": "run", "Settings": "settings"}

__getattr__ = lazy_exports(__name__, _MODULES)
