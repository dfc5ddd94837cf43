"""What the operator of a server decides: limits above all."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

from emu3.errors import InputError
from emu3.processing.video import check_fps
from emu3.server.job_store import default_jobs_folder

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Settings:
    """Settings of a server. Error messages name the limits by these names."""

    model: str = "nano"  # the name that clients use
    host: str = "127.0.0.1"  # the address that the server listens on
    api_key: str | None = field(default=None, repr=False)  # None: no authentication
    allowed_hosts: tuple[str, ...] = ()  # further names in `Host`, without a key; "*": all
    allowed_origins: tuple[str, ...] = ()  # of web pages that may send requests; "*": all
    forwarded_allow_ips: tuple[str, ...] = ()  # proxies whose X-Forwarded-* are believed
    max_body: int = 32 * 2**20  # bytes of a request body
    max_prompt: int = 4000  # characters of all texts of a request
    max_pixels: int = 1024 * 1024  # of a generated image or frame
    max_input_pixels: int = 32_000_000  # of an uploaded image or frame
    max_images: int = 8  # uploaded with one chat request
    max_n: int = 4  # images per request
    max_tokens: int = 1024  # of an answer
    max_guidance: float = 30.0
    timeout: float = 600.0  # seconds from a request to its response; videos have no limit
    drain: float = 600.0  # seconds that a shutdown waits for running requests
    retry_after: int = 5  # seconds, for the Retry-After header of 429 responses
    remote_images: bool = False  # fetch images and videos from public URLs
    max_fetch: int = 16 * 2**20  # bytes of a fetched file
    max_videos: int = 2  # uploaded with one chat request
    max_frames: int = 512  # of an uploaded or generated video
    max_video_pixels: int = 2**26  # in all frames of a video, as the model sees them
    max_decode_seconds: float = 30.0  # for decoding an uploaded video
    chat_fps: float = 8.0  # frames per second at which chat videos are sampled
    max_jobs: int = 64  # unfinished video jobs
    max_running_videos: int = 4
    keep_videos: float | None = None  # hours after completion; None: until they are deleted
    jobs: Path = field(default_factory=default_jobs_folder)  # the folder of video jobs

    def __post_init__(self) -> None:
        """Raise InputError on values that would refuse every request."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                raise InputError(f"{each.name} = {value} must be above 0")
        if self.keep_videos == math.inf:
            raise InputError("keep_videos = inf: leave it out to keep videos until deleted")
        check_fps(self.chat_fps)
        if not self.model:
            raise InputError("model: the served model needs a name")
        if self.api_key is not None and not self.api_key.strip():
            raise InputError("api_key: must not be blank; leave it out to accept every client")
        for origin in self.allowed_origins:
            parts = urlsplit(origin)
            if origin != "*" and (not parts.scheme or origin != f"{parts.scheme}://{parts.netloc}"):
                raise InputError(
                    f"allowed_origins: {origin!r} is not an origin such as https://example.org"
                )
        for address in self.forwarded_allow_ips:
            try:
                _ = address == "*" or ipaddress.ip_network(address, strict=False)
            except ValueError:
                raise InputError(
                    f"forwarded_allow_ips: {address!r} is not an IP address or network"
                ) from None
