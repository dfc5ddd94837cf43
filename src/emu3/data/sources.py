"""Sources of samples: the `Source` protocol, JSONL files and folders.

`webdataset` and `parquet` have further sources. A source is divided into slices, which are
processed in any order and by any process. The content of a slice depends on the source alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Protocol

from emu3.data.samples import ImageFile, Sample, VideoFile, parse_line
from emu3.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".gif")
CAPTION_SUFFIX = ".txt"
TEXT_SUFFIXES = (CAPTION_SUFFIX, ".md")
SAMPLES_PER_SLICE = 256  # work that is lost if a worker is killed


@dataclass(frozen=True)
class LazySample:
    """A sample that is not read yet. `read` raises InputError if it is invalid."""

    key: str  # identifies the sample within its source
    read: Callable[[], Sample]


class Source(Protocol):
    """Samples, divided into slices. Sources are pickled for worker processes."""

    @property
    def path(self) -> Path:
        """The file or folder of the source."""

    @property
    def num_slices(self) -> int:
        """The number of slices."""

    def fingerprint(self) -> dict[str, object]:
        """JSON that changes if the samples change, such as file sizes; contents are not read."""

    def samples(self, index: int) -> Iterator[LazySample]:
        """The samples of one slice, always in the same order."""


@dataclass(frozen=True)
class JsonlSource:
    """A file with one JSON object per line. Blank lines are ignored."""

    path: Path
    starts: tuple[int, ...]  # byte offset of each slice
    samples_per_slice: int

    @classmethod
    def open(cls, path: Path, samples_per_slice: int = SAMPLES_PER_SLICE) -> JsonlSource:
        """Read the file once to find the byte offsets of its slices."""
        starts, position = [], 0
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if number % samples_per_slice == 0:
                    starts.append(position)
                position += len(line)
        return cls(path, tuple(starts), samples_per_slice)

    @property
    def num_slices(self) -> int:
        """One slice per `samples_per_slice` lines."""
        return len(self.starts)

    def fingerprint(self) -> dict[str, object]:
        """The size of the file."""
        return {
            "kind": "jsonl",
            "bytes": self.path.stat().st_size,
            "per_slice": self.samples_per_slice,
        }

    def samples(self, index: int) -> Iterator[LazySample]:
        """The samples of one slice; keys are line numbers from 1."""
        first = index * self.samples_per_slice
        with self.path.open("rb") as file:
            file.seek(self.starts[index])
            for number in range(first, first + self.samples_per_slice):
                line = file.readline()
                if line.strip():
                    read = partial(parse_line, line, self.path.parent)
                    yield LazySample(f"line {number + 1}", read)


@dataclass(frozen=True)
class FolderSource:
    """Images and videos with captions in `.txt` files of the same name, and text files.

    `.txt` and `.md` files that are no caption are texts. Subfolders are included, hidden files are
    not.
    """

    path: Path
    names: tuple[str, ...]  # relative paths of images, videos and texts, sorted
    samples_per_slice: int

    @classmethod
    def open(cls, path: Path, samples_per_slice: int = SAMPLES_PER_SLICE) -> FolderSource:
        """List the files. Raises InputError if the folder has no samples."""
        files = sorted(_files(path))
        media = {name for name in files if _suffix(name) in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)}
        captioned = {_stem(name) for name in media}
        texts = {
            name
            for name in files
            if _suffix(name) in TEXT_SUFFIXES and _stem(name) not in captioned
        }
        if not media | texts:
            known = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, *TEXT_SUFFIXES))
            raise InputError(f"{path}: no images, videos or texts in it ({known})")
        return cls(path, tuple(sorted(media | texts)), samples_per_slice)

    @property
    def num_slices(self) -> int:
        """One slice per `samples_per_slice` files, captions not counted."""
        return -(-len(self.names) // self.samples_per_slice)

    def fingerprint(self) -> dict[str, object]:
        """A hash of file names and sizes, without captions."""
        sizes = [f"{name}\0{(self.path / name).stat().st_size}" for name in self.names]
        listing = hashlib.sha256("\n".join(sizes).encode("utf-8", "surrogateescape")).hexdigest()
        return {
            "kind": "folder",
            "files": len(self.names),
            "listing": listing,
            "per_slice": self.samples_per_slice,
        }

    def samples(self, index: int) -> Iterator[LazySample]:
        """The samples of one slice; keys are paths relative to the folder."""
        first = index * self.samples_per_slice
        for name in self.names[first : first + self.samples_per_slice]:
            yield LazySample(name, partial(self._read, name))

    def _read(self, name: str) -> Sample:
        path = self.path / name
        if _suffix(name) in TEXT_SUFFIXES:
            return Sample(text=_read_text(path))
        caption_file = _caption_file(path)
        caption = _read_text(caption_file).strip()
        if _suffix(name) in VIDEO_SUFFIXES:
            return Sample(text=caption, video=VideoFile(path))
        return Sample(text=caption, image=ImageFile(path))


def _caption_file(path: Path) -> Path:
    """The caption's file: `IMG_1.TXT` is the caption of `IMG_1.JPG` as well as `IMG_1.txt`."""
    for letters in product(*((each, each.upper()) for each in CAPTION_SUFFIX[1:])):
        file = path.with_suffix("." + "".join(letters))
        if file.is_file():
            return file
    expected = path.with_suffix(CAPTION_SUFFIX).name
    raise InputError(f"no caption; expected the file {expected} beside it")


def _files(folder: Path) -> Iterator[str]:
    """Paths of the files below a folder, relative to it, without hidden files and folders."""
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
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: not UTF-8 ({error})") from None
