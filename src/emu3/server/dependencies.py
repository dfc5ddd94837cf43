"""What routes get from the application: engine, settings, video worker, and validated bodies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from emu3.inference.async_engine import AsyncEngine
from emu3.server.errors import APIError, invalid_request
from emu3.server.media import VideoDecoder
from emu3.server.metrics import Metrics
from emu3.server.settings import Settings
from emu3.server.video_worker import VideoWorker


def get_engine(request: Request) -> AsyncEngine:
    """Return the engine of the application."""
    engine: AsyncEngine = request.app.state.engine
    return engine


def get_settings(request: Request) -> Settings:
    """Return the operator's settings."""
    settings: Settings = request.app.state.settings
    return settings


def get_metrics(request: Request) -> Metrics:
    """Return the metrics of the application."""
    metrics: Metrics = request.app.state.metrics
    return metrics


def get_video_worker(request: Request) -> VideoWorker:
    """Return the video worker; there is one if the model generates videos."""
    worker: VideoWorker = request.app.state.video_worker
    return worker


def get_video_decoder(request: Request) -> VideoDecoder | None:
    """Return the decoder of uploaded videos; None if the model does not read videos."""
    checkpoint = get_engine(request).checkpoint
    if "video" not in checkpoint.defaults.tasks:
        return None
    return VideoDecoder(checkpoint.vision_processor.preprocessor, get_settings(request))


def require_task(task: str) -> Callable[[Request], None]:
    """Return a dependency that refuses requests if the model was not trained for `task`."""

    def check(request: Request) -> None:
        if task not in get_engine(request).checkpoint.defaults.tasks:
            raise unsupported_task(get_settings(request), task)

    return check


def unsupported_task(settings: Settings, task: str) -> APIError:
    """Return the error for a task that the model was not trained for."""
    return invalid_request(None, f"{settings.model} was not trained for this task ({task})")


EngineDep = Annotated[AsyncEngine, Depends(get_engine)]
SettingsDep = Annotated[Settings, Depends(get_settings)]
MetricsDep = Annotated[Metrics, Depends(get_metrics)]
VideoWorkerDep = Annotated[VideoWorker, Depends(get_video_worker)]
VideoDecoderDep = Annotated[VideoDecoder | None, Depends(get_video_decoder)]
