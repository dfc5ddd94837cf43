"""Where samples come from: folders and JSONL files here, tars and tables in the files beside.

A source is cut into slices, which are worked on in any order and by any process. What is in a
slice depends on the source alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from emu3.data.samples import ImageFile, Sample, VideoFile, parse_line
from emu3.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".gif")
CAPTION_SUFFIX = ".txt"
TEXT_SUFFIXES = (CAPTION_SUFFIX, ".md")
SAMPLES_PER_SLICE = 256  # samples; what a kill can cost a worker


@dataclass(frozen=True)
class LazySample:
    """Something that should be a sample. `read` raises where it is none."""

    key: str  # what it is called within its source
    read: Callable[[], Sample]


class Source(Protocol):
    """Samples in slices. Handed to other processes, so made of plain values."""

    @property
    def path(self) -> Path:
        """What a person named."""

    @property
    def num_slices(self) -> int:
        """How many there are."""

    def fingerprint(self) -> dict[str, object]:
        """What would change if the samples did, as JSON; contents are not read for it."""

    def samples(self, index: int) -> Iterator[LazySample]:
        """Those of one slice, always in the same order."""


@dataclass(frozen=True)
class JsonlSource:
    """A file with a JSON object on every line. Blank lines are nothing."""

    path: Path
    starts: tuple[int, ...]  # where each slice begins, in bytes
    per_slice: int

    @classmethod
    def open(cls, path: Path, per_slice: int = SAMPLES_PER_SLICE) -> JsonlSource:
        """Look where the lines are; a pass over the file."""
        starts, position = [], 0
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if number % per_slice == 0:
                    starts.append(position)
                position += len(line)
        return cls(path, tuple(starts), per_slice)

    @property
    def num_slices(self) -> int:
        """One for so many lines."""
        return len(self.starts)

    def fingerprint(self) -> dict[str, object]:
        """The file's size."""
        return {"kind": "jsonl", "bytes": self.path.stat().st_size, "per_slice": self.per_slice}

    def samples(self, index: int) -> Iterator[LazySample]:
        """Keys are line numbers, from 1."""
        first = index * self.per_slice
        with self.path.open("rb") as file:
            file.seek(self.starts[index])
            for number in range(first, first + self.per_slice):
                line = file.readline()
                if line.strip():
                    yield LazySample(
                        f"line {number + 1}", partial(parse_line, line, self.path.parent)
                    )


@dataclass(frozen=True)
class FolderSource:
    """Pictures and clips with captions in .txt files of the same name; other .txt and .md files are
    texts.

    Folders inside are looked into. Hidden files are not.
    """

    path: Path
    names: tuple[str, ...]  # of pictures, clips and texts, relative, sorted
    per_slice: int

    @classmethod
    def open(cls, path: Path, per_slice: int = SAMPLES_PER_SLICE) -> FolderSource:
        """Look what is there; raises InputError where no file is of any use."""
        files = sorted(_files(path))
        shown = {name for name in files if _suffix(name) in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)}
        captioned = {_stem(name) for name in shown}
        texts = {
            name
            for name in files
            if _suffix(name) in TEXT_SUFFIXES and _stem(name) not in captioned
        }
        if not shown | texts:
            known = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
            raise InputError(f"{path}: no pictures or clips ({known}) and no texts in it")
        return cls(path, tuple(sorted(shown | texts)), per_slice)

    @property
    def num_slices(self) -> int:
        """One for so many files."""
        return -(-len(self.names) // self.per_slice)

    def fingerprint(self) -> dict[str, object]:
        """A hash of names and sizes, captions aside."""
        sizes = [f"{name}\0{(self.path / name).stat().st_size}" for name in self.names]
        listing = hashlib.sha256("\n".join(sizes).encode("utf-8", "surrogateescape")).hexdigest()
        return {
            "kind": "folder",
            "files": len(self.names),
            "listing": listing,
            "per_slice": self.per_slice,
        }

    def samples(self, index: int) -> Iterator[LazySample]:
        """Keys are paths within the folder."""
        first = index * self.per_slice
        for name in self.names[first : first + self.per_slice]:
            yield LazySample(name, partial(self._read, name))

    def _read(self, name: str) -> Sample:
        path = self.path / name
        if _suffix(name) in TEXT_SUFFIXES:
            return Sample(text=_read_text(path))
        caption = path.with_suffix(CAPTION_SUFFIX)
        if not caption.is_file():
            raise InputError(f"no caption: {caption.name} is not beside it")
        words = _read_text(caption).strip()
        if _suffix(name) in VIDEO_SUFFIXES:
            return Sample(text=words, video=VideoFile(path))
        return Sample(text=words, image=ImageFile(path))


def _files(folder: Path) -> Iterator[str]:
    """Paths of files below a folder, relative to it, hidden ones aside."""
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield (Path(at) / name).relative_to(folder).as_posix()


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: not UTF-8 ({error})") from None
