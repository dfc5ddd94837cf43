"""WebDataset tars: files that share a name up to its first dot are one sample.

Only what a sample can be made of is read: a picture or clip, its caption in `.txt`, or in `.json`
the rest of a sample as on a line of JSONL. Where there is a caption, the `.json` beside it is taken
for notes on where the picture came from and left alone. The format is plain tar, so nothing has to
be installed for it.
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
    """One tar, which is one slice: there is no way into its middle."""

    path: Path
    num_slices: int = 1

    def fingerprint(self) -> dict[str, object]:
        """The file's size."""
        return {"kind": "tar", "bytes": self.path.stat().st_size}

    def samples(self, index: int) -> Iterator[LazySample]:
        """Keys are names up to the first dot."""
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
        shown = [suffix for suffix in parts if f".{suffix}" in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)]
        if len(shown) > 1:
            raise InputError(f"more than one picture or clip: {', '.join(shown)}")
        file: ImageFile | VideoFile | None = None
        if shown:
            kind = VideoFile if f".{shown[0]}" in VIDEO_SUFFIXES else ImageFile
            file = kind(self.path / f"{key}.{shown[0]}", parts[shown[0]])
        if "txt" in parts:
            words = _text(parts["txt"], strip=file is not None)
            return parse_record({"text": words}, self.path.parent, file)
        if "json" in parts:
            return parse_line(parts["json"], self.path.parent, file)
        return parse_record({}, self.path.parent, file)


def _members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Name up to the first dot, the rest of it, and contents, of the files that matter."""
    with tarfile.open(path, "r|*") as tar:
        for member in tar:
            folder, base = posixpath.split(member.name)
            stem, _, suffix = base.partition(".")
            if member.isfile() and stem and suffix.lower() in MEMBER_SUFFIXES:
                file = tar.extractfile(member)
                assert file is not None  # it is a file
                yield posixpath.join(folder, stem), suffix.lower(), file.read()


def _text(data: bytes, strip: bool) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"its text is not UTF-8 ({error})") from None
    return text.strip() if strip else text
