"""`emu3 serve`: the model over HTTP, with OpenAI's API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emu3.cli.options import Device, Dtype, Model, Quiet, Vision, open_model

EPILOG = """
[bold]Examples[/bold]

emu3 serve

emu3 serve --model BAAI/Emu3-Gen --host 0.0.0.0 --api-key "$KEY"

curl localhost:8000/v1/images/generations --json '{"prompt": "a fox"}'

More: docs/how-to/serve.md, docs/reference/http.md
"""

LIMITS = "Limits"
ACCESS = "Access from browsers and through proxies (comma-separated or repeated)"

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
Name = Annotated[
    str | None,
    typer.Option(help="Model name that requests use.", show_default="name of the checkpoint"),
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="EMU3_API_KEY", help="API key of clients.", show_default="none"),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        metavar="NAME",
        help="Host names to answer for without an API key, besides localhost.",
        rich_help_panel=ACCESS,
        show_default="none",
    ),
]
AllowedOrigins = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-origins",
        metavar="ORIGIN",
        help="Origins whose web pages may use the server (CORS); * for all.",
        rich_help_panel=ACCESS,
        show_default="none",
    ),
]
ForwardedAllowIps = Annotated[
    list[str] | None,
    typer.Option(
        "--forwarded-allow-ips",
        metavar="IP",
        help="Proxies, addresses or networks, whose X-Forwarded-* headers are believed.",
        rich_help_panel=ACCESS,
        show_default="none",
    ),
]
Queue = Annotated[int, typer.Option(min=1, help="Requests in the queue.", rich_help_panel=LIMITS)]
Slots = Annotated[
    int, typer.Option(min=1, help="Requests running at a time.", rich_help_panel=LIMITS)
]
MaxBody = Annotated[
    int, typer.Option(min=1, help="Bytes of a request body.", rich_help_panel=LIMITS)
]
MaxPrompt = Annotated[
    int, typer.Option(min=1, help="Characters of all texts of a request.", rich_help_panel=LIMITS)
]
MaxPixels = Annotated[
    int, typer.Option(min=1, help="Pixels of a generated image.", rich_help_panel=LIMITS)
]
MaxN = Annotated[int, typer.Option(min=1, help="Images per request.", rich_help_panel=LIMITS)]
MaxTokens = Annotated[int, typer.Option(min=1, help="Tokens of an answer.", rich_help_panel=LIMITS)]
Timeout = Annotated[
    float,
    typer.Option(
        min=0.001, help="Seconds until an image or chat request fails.", rich_help_panel=LIMITS
    ),
]
Drain = Annotated[
    float,
    typer.Option(
        min=0.001, help="Seconds that a shutdown waits for requests.", rich_help_panel=LIMITS
    ),
]
RemoteImages = Annotated[
    bool,
    typer.Option(help="Fetch images and videos from public URLs.", rich_help_panel=LIMITS),
]
FormerRemoteImages = Annotated[bool, typer.Option("--remote-pictures", hidden=True)]
MaxFrames = Annotated[int, typer.Option(min=1, help="Frames of a video.", rich_help_panel=LIMITS)]
MaxJobs = Annotated[int, typer.Option(min=1, help="Unfinished video jobs.", rich_help_panel=LIMITS)]
KeepVideos = Annotated[
    float | None,
    typer.Option(
        help="Hours after which finished videos are deleted.", show_default="they are kept"
    ),
]
JobsFolder = Annotated[
    Path | None,
    typer.Option("--jobs", help="Folder of video jobs.", show_default="~/.local/state/emu3/jobs"),
]
StudioOption = Annotated[
    bool | None,
    typer.Option(
        "--studio/--no-studio",
        help="Serve the web studio at /.",
        show_default="if Gradio is installed",
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
    allowed_hosts: AllowedHosts = None,
    allowed_origins: AllowedOrigins = None,
    forwarded_allow_ips: ForwardedAllowIps = None,
    queue: Queue = 64,
    slots: Slots = 32,
    max_body: MaxBody = 32 * 2**20,
    max_prompt: MaxPrompt = 4000,
    max_pixels: MaxPixels = 1024 * 1024,
    max_n: MaxN = 4,
    max_tokens: MaxTokens = 1024,
    timeout: Timeout = 600.0,
    drain: Drain = 600.0,
    remote_images: RemoteImages = False,
    former_remote_images: FormerRemoteImages = False,
    max_frames: MaxFrames = 512,
    max_jobs: MaxJobs = 64,
    keep_videos: KeepVideos = None,
    jobs: JobsFolder = None,
    studio: StudioOption = None,
    quiet: Quiet = False,
) -> None:
    """Serve a model over HTTP with OpenAI's API."""
    from emu3.inference.async_engine import AsyncEngine
    from emu3.server.job_store import default_jobs_folder
    from emu3.server.run import check_extra, run_server
    from emu3.server.settings import Settings

    check_extra()
    with_studio = studio is not False and studio_available(studio is True, quiet)
    settings = Settings(
        model=served_name(model) if name is None else name,
        host=host,
        api_key=api_key,
        allowed_hosts=split_commas(allowed_hosts),
        allowed_origins=split_commas(allowed_origins),
        forwarded_allow_ips=split_commas(forwarded_allow_ips),
        max_body=max_body,
        max_prompt=max_prompt,
        max_pixels=max_pixels,
        max_n=max_n,
        max_tokens=max_tokens,
        timeout=timeout,
        drain=drain,
        remote_images=remote_images or former_remote_images,
        max_frames=max_frames,
        max_jobs=max_jobs,
        keep_videos=keep_videos,
        jobs=default_jobs_folder() if jobs is None else jobs,
    )
    loaded = open_model(model, vision, device, dtype, quiet=quiet)
    engine = AsyncEngine(loaded.checkpoint, max_waiting=queue, max_running=slots)
    if not quiet:
        typer.echo(f"serving {settings.model} on http://{host}:{port}", err=True)
    try:
        run_server(engine, settings, port, with_studio)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("server stopped") from None


def studio_available(required: bool, quiet: bool) -> bool:
    """Return whether Gradio is installed; print a hint if it is not.

    Raises MissingExtraError if the studio is `required`.
    """
    from emu3.errors import MissingExtraError
    from emu3.server.studio import check_gradio_installed

    try:
        check_gradio_installed()
    except MissingExtraError as error:
        if required:
            raise
        if not quiet:
            typer.echo(f"{error}; serving the API without it", err=True)
        return False
    return True


def served_name(model: str) -> str:
    """Return the name of a model for clients: of a folder, only the last part of its path."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def split_commas(values: list[str] | None) -> tuple[str, ...]:
    """Return the comma-separated parts of all values of an option."""
    return tuple(
        part.strip() for value in values or () for part in value.split(",") if part.strip()
    )
