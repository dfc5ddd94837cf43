"""What a session has made: each with its settings, the newest first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from emu3.outputs import ImageSettings, save_image
from emu3.server.studio.media_cache import Shelf

MOST = 60  # of one session


@dataclass(frozen=True)
class Kept:
    """A picture or a clip on the shelf."""

    url: str
    size: tuple[int, int]  # width, height
    settings: dict[str, object]
    name: str  # of the file, when it is saved
    moves: bool = False


def keep(kept: list[Kept], new: Kept) -> None:
    """Put one in front; the oldest goes when there are too many."""
    kept.insert(0, new)
    del kept[MOST:]


def keep_picture(shelf: Shelf, picture: Image.Image, settings: ImageSettings) -> Kept:
    """A picture as `emu3 image` writes it, its settings in the PNG."""
    said = asdict(settings)
    with TemporaryDirectory(prefix="emu3-studio-") as folder:
        path = Path(folder) / "picture.png"
        save_image(picture, path, said)
        url = shelf.put(path.read_bytes(), "image/png", ".png")
    return Kept(url, picture.size, said, file_name(settings.prompt, settings.seed) + ".png")


def file_name(prompt: str, seed: int) -> str:
    """A name made of the prompt's first words, and the seed."""
    plain = "".join(c if c.isalnum() and c.isascii() else " " for c in prompt.lower())
    return "-".join([*plain.split()[:6], str(seed)])
