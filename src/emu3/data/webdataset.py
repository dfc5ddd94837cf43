"""WebDataset tar files: neighbouring files with the same key are one sample.

The key is the name up to the first dot that no digit follows: `000.input.jpg` and
`000.caption.txt` belong to `000`, and `v1.0_000.jpg` to `v1.0_000`. A sample is an image or video
with its caption in `.txt`, or with the other keys of a JSONL sample in `.json`. If there is a
caption, `.json` is ignored: such files usually hold metadata; so are members of other kinds beside
it. A key whose files are no sample, or not next to each other, is a skipped sample that names them.
The module needs no package beyond `tarfile`.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from emu3.data.samples import ImageFile, Sample, VideoFile, parse_line, parse_record
from emu3.data.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, LazySample
from emu3.errors import InputError

MEMBER_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".txt", ".json")
SUFFIX = re.compile(r"\.(?![0-9])")  # a dot before a digit is part of a name, as in v1.0
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
        """All samples, by their keys."""
        finished = set[str]()
        for key, members in groupby(_members(self.path), key=lambda member: member.key):
            parts = {each.suffix: each.data for each in members}
            read = self._refuse_split if key in finished else self._read
            finished.add(key)
            yield LazySample(key, partial(read, key, parts))

    @staticmethod
    def _refuse_split(key: str, parts: dict[str, bytes]) -> Sample:
        raise InputError(
            f"{_names(parts)}: not next to the other files of {key}; write the archive in the "
            "order of names (tar --sort=name)"
        )

    def _read(self, key: str, parts: dict[str, bytes]) -> Sample:
        media_parts = _of_kind(parts, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        texts, records = _of_kind(parts, (".txt",)), _of_kind(parts, (".json",))
        for kind, found in (("image or video", media_parts), ("text", texts)):
            if len(found) > 1:
                raise InputError(f"more than one {kind}: {_names(found)}")
        if not (media_parts or texts or records):
            raise InputError(f"no image, video, .txt or .json, but {_names(parts)}")
        media: ImageFile | VideoFile | None = None
        for suffix, data in media_parts.items():
            file_class = VideoFile if _extension(suffix) in VIDEO_SUFFIXES else ImageFile
            media = file_class(self.path / f"{key}.{suffix}", data)
        for data in texts.values():
            text = _decode(data, strip=media is not None)
            return parse_record({"text": text}, self.path.parent, media)
        if len(records) > 1:
            raise InputError(f"more than one .json: {_names(records)}")
        for data in records.values():
            return parse_line(data, self.path.parent, media)
        return parse_record({}, self.path.parent, media)


@dataclass(frozen=True)
class _Member:
    key: str
    suffix: str  # what follows the key, without the dot
    data: bytes  # empty for a kind that is not used


def _members(path: Path) -> Iterator[_Member]:
    """The regular files that are not hidden."""
    with tarfile.open(path, "r|*") as tar:
        for member in tar:
            folder, base = posixpath.split(member.name)
            if not member.isfile() or base.startswith("."):
                continue
            stem, suffix = SUFFIX.split(base, maxsplit=1) if SUFFIX.search(base) else (base, "")
            data = b""
            if _extension(suffix) in MEMBER_SUFFIXES:
                file = tar.extractfile(member)
                assert file is not None  # it is a regular file
                data = file.read()
            yield _Member(posixpath.join(folder, stem), suffix, data)


def _extension(suffix: str) -> str:
    return "." + suffix.rpartition(".")[2].lower()


def _of_kind(parts: dict[str, bytes], kinds: tuple[str, ...]) -> dict[str, bytes]:
    return {suffix: data for suffix, data in parts.items() if _extension(suffix) in kinds}


def _names(parts: Iterable[str]) -> str:
    return ", ".join(f".{suffix}" for suffix in sorted(parts)[:5])


def _decode(data: bytes, strip: bool) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the text is not UTF-8 ({error})") from None
    return text.strip() if strip else text
