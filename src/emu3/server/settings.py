"""All that an operator decides, limits first."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from emu3.errors import InputError
from emu3.processing.video import check_fps
from emu3.server.job_store import default_jobs_folder


@dataclass(frozen=True)
class Settings:
    """Limits of one request. Whoever exceeds one is told its name and its value."""

    model: str = "nano"  # the name that requests use
    api_key: str | None = field(default=None, repr=False)  # None lets everybody in
    max_body: int = 32 * 2**20  # bytes
    max_prompt: int = 4000  # characters of all texts together
    max_pixels: int = 1024 * 1024  # of a picture that is drawn
    max_input_pixels: int = 32_000_000  # of a picture that is sent
    max_images: int = 8  # that are sent with one question
    max_n: int = 4
    max_tokens: int = 1024
    max_guidance: float = 30.0
    timeout: float = 600.0  # seconds from the request to its end
    drain: float = 600.0  # seconds that a stop waits for those at work
    retry_after: int = 5  # seconds, told to whoever finds the queue full
    remote_images: bool = False  # fetch pictures from public addresses
    max_fetch: int = 16 * 2**20  # bytes of a picture fetched
    max_videos: int = 2  # that are sent with one question
    max_frames: int = 512  # of a video, one that is sent or one that is made
    max_video_pixels: int = 2**26  # in all of its frames, as the model sees them
    max_decode_seconds: float = 30.0  # seconds that it may take to read a clip that is sent
    chat_fps: float = 8.0  # frames a second of a clip that is asked about
    max_jobs: int = 64  # videos that wait or are made
    max_running_videos: int = 4  # videos that are made at the same time
    keep_videos: float | None = None  # hours from a video's end; None: until somebody deletes it
    jobs: Path = field(default_factory=default_jobs_folder)  # the folder of videos

    def __post_init__(self) -> None:
        """Raise InputError on limits that let nothing through."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                raise InputError(f"{each.name} = {value} must be above 0")
        if self.keep_videos == math.inf:
            raise InputError("keep_videos = inf; leave it out to keep all until they are deleted")
        check_fps(self.chat_fps)
        if not self.model:
            raise InputError("the model needs a name to be asked for")
        if self.api_key is not None and not self.api_key.strip():
            raise InputError("the API key is empty; leave it out to let everybody in")
