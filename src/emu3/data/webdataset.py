"""WebDataset tar files: files with the same name up to the first dot are one sample.

A sample is an image or video with its caption in `.txt`, or with the other keys of a JSONL sample
in `.json`. Other members are ignored. If there is a caption, `.json` is ignored too: such files
usually hold metadata. The module needs no package beyond `tarfile`.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from emu3.data.samples import ImageFile, Sample, VideoFile, parse_line, parse_record
from emu3.data.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, LazySample
from emu3.errors import InputError

MEMBER_SUFFIXES = tuple(
    suffix.removeprefix(".") for suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".txt", ".json")
)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class TarSource:
    """A tar file. It is one slice, because tar has no index to start reading in the middle."""

    path: Path
    num_slices: int = 1

    def fingerprint(self) -> dict[str, object]:
        """The size of the file."""
        return {"kind": "tar", "bytes": self.path.stat().st_size}

    def samples(self, index: int) -> Iterator[LazySample]:
        """All samples; keys are member names up to the first dot."""
        key, parts = "", dict[str, bytes]()
        for name, suffix, data in _members(self.path):
            if name != key:
                if parts:
                    yield LazySample(key, partial(self._read, key, parts))
                key, parts = name, {}
            parts[suffix] = data
        if parts:
            yield LazySample(key, partial(self._read, key, parts))

    def _read(self, key: str, parts: dict[str, bytes]) -> Sample:
        suffixes = [
            suffix for suffix in parts if f".{suffix}" in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
        ]
        if len(suffixes) > 1:
            raise InputError(f"more than one image or video: {', '.join(suffixes)}")
        media: ImageFile | VideoFile | None = None
        if suffixes:
            file_class = VideoFile if f".{suffixes[0]}" in VIDEO_SUFFIXES else ImageFile
            media = file_class(self.path / f"{key}.{suffixes[0]}", parts[suffixes[0]])
        if "txt" in parts:
            text = _decode(parts["txt"], strip=media is not None)
            return parse_record({"text": text}, self.path.parent, media)
        if "json" in parts:
            return parse_line(parts["json"], self.path.parent, media)
        return parse_record({}, self.path.parent, media)


def _members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Name up to the first dot, suffix after it, and content of the members that are used."""
    with tarfile.open(path, "r|*") as tar:
        for member in tar:
            folder, base = posixpath.split(member.name)
            stem, _, suffix = base.partition(".")
            if member.isfile() and stem and suffix.lower() in MEMBER_SUFFIXES:
                file = tar.extractfile(member)
                assert file is not None  # it is a regular file
                yield posixpath.join(folder, stem), suffix.lower(), file.read()


def _decode(data: bytes, strip: bool) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the text is not UTF-8 ({error})") from None
    return text.strip() if strip else text
