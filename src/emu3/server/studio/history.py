"""The history of a page: generated images and videos with their settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from emu3.inference.events import VideoResult
from emu3.outputs import ImageSettings, save_image
from emu3.processing.video import video_writer
from emu3.server.studio.conversion import frame_arrays
from emu3.server.studio.media_cache import MediaCache

MAX_ITEMS = 60  # of one page


@dataclass(frozen=True)
class HistoryItem:
    """A generated image or video, whose file is in the media cache."""

    url: str
    size: tuple[int, int]  # (width, height) in pixels
    settings: dict[str, object]
    file_name: str  # suggested for the download
    is_video: bool = False


def add_item(history: list[HistoryItem], item: HistoryItem) -> None:
    """Insert an item at the front and drop the oldest ones above MAX_ITEMS."""
    history.insert(0, item)
    del history[MAX_ITEMS:]


def store_image(cache: MediaCache, image: Image.Image, settings: ImageSettings) -> HistoryItem:
    """Cache an image as the PNG that `emu3 image` writes, with its settings in the metadata."""
    metadata = asdict(settings)
    with TemporaryDirectory(prefix="emu3-studio-") as folder:
        path = Path(folder) / "image.png"
        save_image(image, path, metadata)
        url = cache.put(path.read_bytes(), "image/png", ".png")
    name = file_stem(settings.prompt, settings.seed) + ".png"
    return HistoryItem(url, image.size, metadata, name)


def store_video(cache: MediaCache, result: VideoResult) -> HistoryItem:
    """Cache a video as the MP4 that `emu3 video` writes, with its settings in the metadata.

    Raises MissingExtraError without PyAV.
    """
    metadata = asdict(result.settings)
    frames = frame_arrays(result)
    height, width, _ = frames[0].shape
    with TemporaryDirectory(prefix="emu3-studio-") as folder:
        path = Path(folder) / "video.mp4"
        with video_writer(path, result.fps, metadata) as add_frame:
            for each in frames:
                add_frame(each)
        url = cache.put(path.read_bytes(), "video/mp4", ".mp4")
    name = file_stem(result.settings.prompt, result.settings.seed) + ".mp4"
    return HistoryItem(url, (width, height), metadata, name, is_video=True)


def file_stem(prompt: str, seed: int) -> str:
    """A file name without suffix: the first six ASCII words of the prompt, and the seed."""
    plain = "".join(c if c.isalnum() and c.isascii() else " " for c in prompt.lower())
    return "-".join([*plain.split()[:6], str(seed)])
