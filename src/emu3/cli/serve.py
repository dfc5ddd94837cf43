"""`emu3 serve`: the model over HTTP, in the dialect of OpenAI's API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emu3.cli.options import Device, Dtype, Model, Quiet, Vision, open_model

EPILOG = """
[bold]Examples[/bold]

emu3 serve

emu3 serve --model BAAI/Emu3-Gen --host 0.0.0.0 --api-key "$KEY"

curl localhost:8000/v1/images/generations -H "Content-Type: application/json" -d '{"prompt": "a fox"}'

docs/serve.md shows the rest.
"""

LIMITS = "Limits"

Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="The port.")]
Name = Annotated[
    str | None, typer.Option(help="What requests call the model.", show_default="its own")
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="EMU3_API_KEY", help="Asked of every client.", show_default="none"),
]
Queue = Annotated[int, typer.Option(min=1, help="Requests that may wait.", rich_help_panel=LIMITS)]
Slots = Annotated[
    int, typer.Option(min=1, help="Requests at work together.", rich_help_panel=LIMITS)
]
MaxBody = Annotated[int, typer.Option(min=1, help="Bytes of a body.", rich_help_panel=LIMITS)]
MaxPrompt = Annotated[
    int, typer.Option(min=1, help="Characters of all texts.", rich_help_panel=LIMITS)
]
MaxPixels = Annotated[
    int, typer.Option(min=1, help="Pixels of a picture drawn.", rich_help_panel=LIMITS)
]
MaxN = Annotated[int, typer.Option(min=1, help="Pictures of one request.", rich_help_panel=LIMITS)]
MaxTokens = Annotated[int, typer.Option(min=1, help="Tokens of an answer.", rich_help_panel=LIMITS)]
Timeout = Annotated[
    float, typer.Option(min=0.001, help="Seconds of a request.", rich_help_panel=LIMITS)
]
Drain = Annotated[
    float, typer.Option(min=0.001, help="Seconds a stop waits.", rich_help_panel=LIMITS)
]
Remote = Annotated[
    bool,
    typer.Option(
        "--remote-images/--no-remote-images",
        "--remote-pictures/--no-remote-pictures",
        help="Fetch images and videos from public http(s) URLs.",
        rich_help_panel=LIMITS,
    ),
]
MaxFrames = Annotated[int, typer.Option(min=1, help="Frames of a video.", rich_help_panel=LIMITS)]
MaxJobs = Annotated[int, typer.Option(min=1, help="Videos that may wait.", rich_help_panel=LIMITS)]
KeepVideos = Annotated[
    float | None,
    typer.Option(
        help="Hours that a finished video is kept.", show_default="until somebody deletes it"
    ),
]
JobsFolder = Annotated[
    Path | None,
    typer.Option("--jobs", help="The folder of videos.", show_default="~/.local/state/emu3/jobs"),
]
StudioOption = Annotated[
    bool | None,
    typer.Option(
        "--studio/--no-studio", help="A page for people at /.", show_default="if it is installed"
    ),
]


def serve(
    model: Model = "nano",
    vision: Vision = None,
    device: Device = None,
    dtype: Dtype = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    name: Name = None,
    api_key: ApiKey = None,
    queue: Queue = 64,
    slots: Slots = 32,
    max_body: MaxBody = 32 * 2**20,
    max_prompt: MaxPrompt = 4000,
    max_pixels: MaxPixels = 1024 * 1024,
    max_n: MaxN = 4,
    max_tokens: MaxTokens = 1024,
    timeout: Timeout = 600.0,
    drain: Drain = 600.0,
    remote_images: Remote = False,
    max_frames: MaxFrames = 512,
    max_jobs: MaxJobs = 64,
    keep_videos: KeepVideos = None,
    jobs: JobsFolder = None,
    studio: StudioOption = None,
    quiet: Quiet = False,
) -> None:
    """Answer OpenAI's API over HTTP."""
    from emu3.inference.async_engine import AsyncEngine
    from emu3.server.job_store import default_jobs_folder
    from emu3.server.run import check_extra, run
    from emu3.server.settings import Settings

    check_extra()
    page = studio is not False and has_studio(needed=studio is True, quiet=quiet)
    settings = Settings(
        model=served_name(model) if name is None else name,
        api_key=api_key,
        max_body=max_body,
        max_prompt=max_prompt,
        max_pixels=max_pixels,
        max_n=max_n,
        max_tokens=max_tokens,
        timeout=timeout,
        drain=drain,
        remote_images=remote_images,
        max_frames=max_frames,
        max_jobs=max_jobs,
        keep_videos=keep_videos,
        jobs=default_jobs_folder() if jobs is None else jobs,
    )
    m = open_model(model, vision, device, dtype, quiet=quiet)
    engine = AsyncEngine(m.checkpoint, max_waiting=queue, max_running=slots)
    if not quiet:
        typer.echo(f"serving {settings.model} on http://{host}:{port}", err=True)
    try:
        run(engine, settings, host, port, page)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("server stopped") from None


def has_studio(needed: bool, quiet: bool) -> bool:
    """Whether there is a page to be served; says so where there is none.

    Raises MissingExtraError where there has to be one.
    """
    from emu3.errors import MissingExtraError
    from emu3.server.studio import check_gradio_installed

    try:
        check_gradio_installed()
    except MissingExtraError as error:
        if needed:
            raise
        if not quiet:
            typer.echo(f"{error}; the API is served all the same", err=True)
        return False
    return True


def served_name(model: str) -> str:
    """The model's name for clients, who need not know the folders of this machine."""
    return Path(model).resolve().name if Path(model).is_dir() else model
