"""One format of samples for every task: a JSON object, one on a line.

    {"text": "..."}                                                text to learn
    {"image": "a.png", "text": "a caption"}                        to draw: caption, then picture
    {"image": "a.png", "turns": [{"question": "...", "answer": "..."}]}    to look at and answer
    {"video": "a.mp4", "text": "a caption"}                        a clip, likewise
    {"video": "a.mp4", "turns": [{"question": "...", "answer": "..."}]}

Paths are relative to the file that names them.
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
    """A picture that is not opened yet: a file, or bytes that `path` names in messages."""

    path: Path
    data: bytes | None = None

    def open(self) -> Image.Image:
        """The picture, upright; raises InputError as `emu3.processing.image.open_image` does."""
        return open_image(self.path, self.data)


@dataclass(frozen=True)
class VideoFile:
    """A clip that is not opened yet: a file, or bytes that `path` names in messages."""

    path: Path
    data: bytes | None = None

    @contextmanager
    def open(self, fps: float) -> Iterator[Clip]:
        """The clip at so many frames a second, while it is read.

        Raises InputError as `emu3.processing.video.open_clip` does.
        """
        with ExitStack() as stack:
            path = self.path
            if self.data is not None:  # FFmpeg wants to go back and forth, so a file it is
                folder = Path(stack.enter_context(TemporaryDirectory()))
                path = folder / self.path.name
                path.write_bytes(self.data)
            yield open_clip(path, fps)


@dataclass(frozen=True)
class Sample:
    """Text alone, or a picture or clip with its caption or with questions and answers.

    Raises InputError on any other combination, and on text that is blank or cannot be UTF-8.
    """

    text: str | None = None
    image: ImageFile | None = None
    video: VideoFile | None = None
    turns: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.text is not None and self.turns:
            raise InputError(f'"text" and "turns" together; {EXPECTED_KEYS}')
        if self.image is not None and self.video is not None:
            raise InputError(f'"image" and "video" together; {EXPECTED_KEYS}')
        if self.image is None and self.video is None and self.turns:
            raise InputError(f'"turns" without an "image" or a "video"; {EXPECTED_KEYS}')
        if self.text is None and not self.turns:
            raise InputError(f'neither "text" nor "turns"; {EXPECTED_KEYS}')
        if self.text is not None:
            _check_text("text", self.text)
        for question, answer in self.turns:
            _check_text("question", question)
            _check_text("answer", answer)


def parse_line(line: bytes, folder: Path, shown: ImageFile | VideoFile | None = None) -> Sample:
    """One line of a JSONL file in `folder`, as `parse_record` has it.

    Raises InputError that says what is wrong with it.
    """
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 ({error})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({error})") from None
    if not isinstance(record, dict):
        raise InputError(f"{_json_type(record)} where a JSON object is expected")
    return parse_record(record, folder, shown)


def parse_record(
    record: Mapping[str, object], folder: Path, shown: ImageFile | VideoFile | None = None
) -> Sample:
    """The sample of a JSON object; `shown` is a picture or clip that was found outside of it.

    Raises InputError on unknown keys, wrong types and combinations that are no sample.
    """
    unknown = [key for key in record if key not in KEYS]
    if unknown:
        raise InputError(f"unknown key {unknown[0]!r}; known are {', '.join(KEYS)}")
    named = [key for key in ("image", "video") if key in record]
    if named and shown is not None:
        raise InputError(f'"{named[0]}" in the record of {shown.path.name}')
    image = shown if isinstance(shown, ImageFile) else None
    video = shown if isinstance(shown, VideoFile) else None
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
        raise InputError(f'"turns": {_json_type(value)} where a list of at least one is expected')
    return tuple(_turn(turn) for turn in value)


def _turn(value: object) -> tuple[str, str]:
    if not isinstance(value, dict) or sorted(value) != sorted(TURN_KEYS):
        raise InputError('"turns": each is an object with "question" and "answer" and nothing else')
    return _string("question", value["question"]), _string("answer", value["answer"])


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f'"{name}": {_json_type(value)} where a string is expected')
    return value


def _check_text(name: str, text: str) -> None:
    if not text.strip():
        raise InputError(f'"{name}" is blank')
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f'"{name}" has half a surrogate pair, which no UTF-8 can hold')


def _json_type(value: object) -> str:
    """What JSON calls a value."""
    if value is None:
        return "null"
    names = {bool: "a truth value", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "an empty list" if value == [] else "a list or an object")
