"""The web studio of `emu3 serve`: a Gradio page at `/` that runs on the server's own engine.

Read `app` first: it assembles the page from one module per tab. `gateway` and `auth` decide which
requests reach Gradio. Importing this package needs neither Gradio nor FastAPI; `create_studio`
does.
"""

from emu3.server.studio.app import Studio, check_gradio_installed, create_studio

__all__ = ["Studio", "check_gradio_installed", "create_studio"]
