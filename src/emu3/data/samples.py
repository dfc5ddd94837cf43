"""The sample format: one JSON object for every training task.

    {"text": "..."}                                                     language modeling
    {"image": "a.png", "text": "a caption"}                             image generation
    {"image": "a.png", "turns": [{"question": "...", "answer": "..."}]} image understanding
    {"video": "a.mp4", "text": "a caption"}                             video generation
    {"video": "a.mp4", "turns": [{"question": "...", "answer": "..."}]} video understanding

In a JSONL file each line is one sample, and paths are relative to the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from emu3.errors import InputError
from emu3.processing.image import open_image
from emu3.processing.video import Clip, open_clip

KEYS = ("text", "image", "video", "turns")
TURN_KEYS = ("question", "answer")
EXPECTED_KEYS = 'expected "text", or "image" or "video" with one of "text" and "turns"'


@dataclass(frozen=True)
class ImageFile:
    """An image that is not decoded yet: a file, or bytes with a `path` for error messages."""

    path: Path
    data: bytes | None = None

    def open(self) -> Image.Image:
        """Decode the image. Raises InputError like `emu3.processing.image.open_image`."""
        return open_image(self.path, self.data)


@dataclass(frozen=True)
class VideoFile:
    """A video that is not decoded yet: a file, or bytes with a `path` for error messages."""

    path: Path
    data: bytes | None = None

    @contextmanager
    def open(self, fps: float) -> Iterator[Clip]:
        """Open the video, sampled at `fps` frames per second, for the duration of the context.

        Raises InputError like `emu3.processing.video.open_clip`.
        """
        with ExitStack() as stack:
            path = self.path
            if self.data is not None:  # FFmpeg needs a seekable file
                folder = Path(stack.enter_context(TemporaryDirectory()))
                path = folder / self.path.name
                path.write_bytes(self.data)
            yield open_clip(path, fps, strict=True)


@dataclass(frozen=True)
class Sample:
    """A text, or an image or video with either a caption or questions and answers.

    Raises InputError on any other combination, on blank text, and on text that UTF-8 cannot encode.
    """

    text: str | None = None
    image: ImageFile | None = None
    video: VideoFile | None = None
    turns: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.text is not None and self.turns:
            raise InputError(f'both "text" and "turns" are given; {EXPECTED_KEYS}')
        if self.image is not None and self.video is not None:
            raise InputError(f'both "image" and "video" are given; {EXPECTED_KEYS}')
        if self.image is None and self.video is None and self.turns:
            raise InputError(f'"turns" without an "image" or a "video"; {EXPECTED_KEYS}')
        if self.text is None and not self.turns:
            raise InputError(f'neither "text" nor "turns" is given; {EXPECTED_KEYS}')
        if self.text is not None:
            _check_text("text", self.text)
        for question, answer in self.turns:
            _check_text("question", question)
            _check_text("answer", answer)


def parse_line(line: bytes, folder: Path, media: ImageFile | VideoFile | None = None) -> Sample:
    """Parse one line of a JSONL file in `folder`. See `parse_record`.

    Raises InputError if the line is not a valid sample.
    """
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 ({error})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({error})") from None
    if not isinstance(record, dict):
        raise InputError(f"expected a JSON object, found {_json_type(record)}")
    return parse_record(record, folder, media)


def parse_record(
    record: Mapping[str, object], folder: Path, media: ImageFile | VideoFile | None = None
) -> Sample:
    """Validate a JSON object as a sample.

    Paths are relative to `folder`. `media` is an image or video that is not named in the record,
    such as the image of a WebDataset sample. Raises InputError on unknown keys, wrong types and
    invalid combinations.
    """
    unknown = [key for key in record if key not in KEYS]
    if unknown:
        raise InputError(f"unknown key {unknown[0]!r}; known keys: {', '.join(KEYS)}")
    media_keys = [key for key in ("image", "video") if key in record]
    if media_keys and media is not None:
        raise InputError(
            f'"{media_keys[0]}" is given, but the sample already has {media.path.name}; remove one'
        )
    image = media if isinstance(media, ImageFile) else None
    video = media if isinstance(media, VideoFile) else None
    if "image" in record:
        image = ImageFile(folder / _string("image", record["image"]))
    if "video" in record:
        video = VideoFile(folder / _string("video", record["video"]))
    return Sample(
        text=_string("text", record["text"]) if "text" in record else None,
        image=image,
        video=video,
        turns=_turns(record["turns"]) if "turns" in record else (),
    )


def _turns(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise InputError(
            f'"turns": expected a list of at least one turn, found {_json_type(value)}'
        )
    return tuple(_turn(turn) for turn in value)


def _turn(value: object) -> tuple[str, str]:
    if not isinstance(value, dict) or sorted(value) != sorted(TURN_KEYS):
        raise InputError(
            '"turns": each must be an object with exactly the keys "question" and "answer"'
        )
    return _string("question", value["question"]), _string("answer", value["answer"])


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f'"{name}": expected a string, found {_json_type(value)}')
    return value


def _check_text(name: str, text: str) -> None:
    if not text.strip():
        raise InputError(f'"{name}" is blank')
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f'"{name}" contains an unpaired surrogate, which UTF-8 cannot encode')


def _json_type(value: object) -> str:
    """The JSON type of a value, for error messages."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "an empty list" if value == [] else "a list or an object")
