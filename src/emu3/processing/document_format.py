"""The document format: the order of tokens inside an image and inside a video.

No other module knows this order.

    image    SOV  h*w           SOT  frame  EOV
    video    SOV  h*w 8fps 2s   SOT  frame  …  frame  EOV
    frame    code … code EOL  …  code … code EOL  EOF

`h*w` is the size in codes, as plain text; a video adds its frame rate and its duration. Every row
ends in EOL and every frame of codes in EOF, including the last: after its header, an image is a
video of one frame. So the length is known before the first code, and the allowed ids of each step
are one interval.

Sources: paper section 2.3; BAAI's `processing_emu3.py` (encoding) and `utils_emu3.py` (allowed ids;
it is wrong for grids one or two codes wide). The format of videos was never published; the
documentation of the document format says which parts are ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from emu3.errors import InputError
from emu3.processing.vocabulary import Vocabulary

_SIDE = r"([1-9][0-9]{0,5})"
_NUMBER = r"([0-9]{1,10}(?:\.[0-9]{1,3})?)"
META = re.compile(rf"{_SIDE}\*{_SIDE}(?: {_NUMBER}fps {_NUMBER}s)?")
THOUSAND = 1000
MAX_FPS = 999  # up to this rate a duration in milliseconds identifies the number of frames


class DocumentFormatError(InputError):
    """Ids that are not a well-formed document. The message names the position."""


@dataclass(frozen=True)
class VideoCodes:
    """A video in a document: codes [t, h, w], frames per second, and the number of frames.

    The last group may stand for fewer frames than the others; `frames` is the true number.
    """

    codes: Tensor
    fps: float
    frames: int


@dataclass(frozen=True)
class _Header:
    """The header before the first code: the grid, and for a video its rate and frames."""

    height: int
    width: int
    fps: float | None = None
    frames: int = 1
    groups: int = 1

    @property
    def what(self) -> str:
        return "image" if self.fps is None else "video"


@dataclass(frozen=True)
class DocumentFormat:
    """Encodes images and videos as token ids and decodes them.

    `encode_text` and `decode_text` convert the size to ids of plain text and back; they are
    arguments, so that this module does not depend on the text tokenizer. `frames_per_group` frames
    of a video share one frame of codes.
    """

    vocabulary: Vocabulary
    encode_text: Callable[[str], list[int]]
    decode_text: Callable[[Sequence[int]], str]
    frames_per_group: int = 4

    def header(self, height: int, width: int) -> list[int]:
        """The ids before the first code of an image of [height, width] codes."""
        v = self.vocabulary
        return [v.sov, *self.encode_text(f"{height}*{width}"), v.sot]

    def video_header(self, height: int, width: int, fps: float, frames: int) -> list[int]:
        """The ids before the first code of a video of so many frames.

        `frames` counts frames, not groups. Raises DocumentFormatError on a rate that is not a
        multiple of 0.001 from 0.001 to 999, or on less than one frame.
        """
        v = self.vocabulary
        meta = f"{height}*{width} {fps_and_duration(fps, frames)}"
        return [v.sov, *self.encode_text(meta), v.sot]

    def num_groups(self, frames: int) -> int:
        """Frames of codes (groups) for so many frames of a video; the last may be partly filled."""
        return -(-frames // self.frames_per_group)

    def body_token_ids(self, codes: Tensor) -> Tensor:
        """Codes [h, w] or [t, h, w] to the ids after the header, [t * (h * (w + 1) + 1) + 1]."""
        v = self.vocabulary
        frames = codes.long().reshape(-1, *codes.shape[-2:]) + v.visual_start
        rows = torch.nn.functional.pad(frames, (0, 1), value=v.eol).flatten(1)
        ended = torch.nn.functional.pad(rows, (0, 1), value=v.eof).flatten()
        return torch.cat([ended, ended.new_tensor([v.eov])])

    def encode_image(self, codes: Tensor) -> Tensor:
        """Codes [h, w] to a whole image, ids [L] int64."""
        return self._headed(self.header(*codes.shape), codes)

    def encode_video(self, codes: Tensor, fps: float, frames: int | None = None) -> Tensor:
        """Codes [t, h, w] to a whole video, ids [L] int64.

        `frames` is the true number of frames where the last group is not full. Raises
        DocumentFormatError where t frames of codes cannot stand for it, and as `video_header` does.
        """
        groups, height, width = codes.shape
        frames = groups * self.frames_per_group if frames is None else frames
        if not groups or self.num_groups(frames) != groups:
            raise DocumentFormatError(
                f"{frames} frames cannot be {groups} groups of {self.frames_per_group} frames each"
            )
        return self._headed(self.video_header(height, width, fps, frames), codes)

    def _headed(self, header: list[int], codes: Tensor) -> Tensor:
        return torch.cat([torch.tensor(header, device=codes.device), self.body_token_ids(codes)])

    @staticmethod
    def num_tokens(height: int, width: int, groups: int = 1) -> int:
        """Ids after the header: h * (w + 1) + 1 per group, and EOV. EOS is not counted."""
        return groups * (height * (width + 1) + 1) + 1

    def allowed_range(self, height: int, width: int, step: int, groups: int = 1) -> tuple[int, int]:
        """The ids allowed `step` ids after the header: the interval [low, high).

        After the last frame come EOV and EOS, and then PAD.
        """
        v = self.vocabulary
        rows = height * (width + 1)
        frame, at = divmod(step, rows + 1)
        if frame < groups and at < rows and at % (width + 1) < width:
            return v.visual_start, v.size
        if frame < groups:
            token = v.eol if at < rows else v.eof
        else:
            past = step - groups * (rows + 1)
            token = (v.eov, v.eos, v.pad)[min(past, 2)]
        return token, token + 1

    def forced_tokens(self, height: int, width: int, steps: int, groups: int = 1) -> Tensor:
        """For each of `steps` steps the only id allowed, or -1 for any visual code: [steps]."""
        intervals = (self.allowed_range(height, width, step, groups) for step in range(steps))
        return torch.tensor([low if high == low + 1 else -1 for low, high in intervals])

    def decode_body(self, ids: Tensor, height: int, width: int) -> Tensor:
        """The codes [h, w] of the ids after a header; ids after the image are ignored.

        Raises DocumentFormatError naming the first id that is not allowed where it stands.
        """
        return self._body_codes(ids, _Header(height, width))[0]

    def _body_codes(self, ids: Tensor, header: _Header) -> Tensor:
        """The codes [t, h, w] of the ids after a header."""
        height, width, groups, what = header.height, header.width, header.groups, header.what
        length = self.num_tokens(height, width, groups)
        if len(ids) < length:
            raise DocumentFormatError(f"{what} cut short: {len(ids)} of {length} ids")
        ids = ids[:length]
        forced = self.forced_tokens(height, width, length, groups).to(ids.device)
        v = self.vocabulary
        is_code = (ids >= v.visual_start) & (ids < v.size)
        wrong = torch.where(forced < 0, ~is_code, ids != forced).nonzero()
        if len(wrong):
            at = int(wrong[0])
            raise DocumentFormatError(
                f"id {int(ids[at])} is not allowed at position {at} of a {what}"
            )
        return ids[forced < 0].view(groups, height, width) - v.visual_start

    def decode_image(self, ids: Tensor) -> Tensor:
        """The inverse of `encode_image`: a whole image, ids [L], to its codes [h, w]."""
        parts = self.parse(ids)
        if len(parts) != 1 or not isinstance(parts[0], Tensor) or parts[0].ndim != 2:
            raise DocumentFormatError("expected one image and nothing else")
        return parts[0]

    def decode_video(self, ids: Tensor) -> VideoCodes:
        """The inverse of `encode_video`: a whole video, ids [L], with its rate and length."""
        parts = self.parse(ids)
        if len(parts) != 1 or not isinstance(parts[0], VideoCodes):
            raise DocumentFormatError("expected one video and nothing else")
        return parts[0]

    def split(self, ids: Tensor) -> list[Tensor]:
        """A document [L] as its parts in order: text ids [n], images as codes [h, w].

        Raises DocumentFormatError on an image that is not well formed, and on a video (see
        `parse`).
        """
        tensors: list[Tensor] = []
        for part in self.parse(ids):
            if isinstance(part, VideoCodes):
                raise DocumentFormatError("a video where only text and images are supported")
            tensors.append(part)
        return tensors

    def parse(self, ids: Tensor) -> list[Tensor | VideoCodes]:
        """A document [L] in order: text ids [n], images as codes [h, w], and videos.

        Raises DocumentFormatError on an image or a video that is not well formed.
        """
        v = self.vocabulary
        parts: list[Tensor | VideoCodes] = []
        rest = ids
        while len(rest):
            starts = (rest == v.sov).nonzero()
            start = int(starts[0]) if len(starts) else len(rest)
            if start:
                parts.append(rest[:start])
            if start == len(rest):
                break
            header, begin = self._read_header(rest, start)
            codes = self._body_codes(rest[begin:], header)
            if header.fps is None:
                parts.append(codes[0])
            else:
                parts.append(VideoCodes(codes, header.fps, header.frames))
            rest = rest[begin + self.num_tokens(header.height, header.width, header.groups) :]
        return parts

    def _read_header(self, ids: Tensor, start: int) -> tuple[_Header, int]:
        """The header at `start`, and the position of the first code."""
        ends = (ids[start:] == self.vocabulary.sot).nonzero()
        if not len(ends):
            raise DocumentFormatError(f"the image that starts at position {start} has no SOT")
        begin = start + int(ends[0]) + 1
        meta = self._text(ids[start + 1 : begin - 1].tolist())
        found = META.fullmatch(meta)
        if found is None:
            raise DocumentFormatError(f"the size of an image reads {meta!r}; expected height*width")
        height, width = int(found[1]), int(found[2])
        if found[3] is None:
            return _Header(height, width), begin
        frames = round(Fraction(found[3]) * Fraction(found[4]))
        fps = float(found[3])
        if meta != f"{height}*{width} {fps_and_duration(fps, frames)}":
            raise DocumentFormatError(
                f"the size of a video reads {meta!r}; no whole number of frames has this duration"
            )
        return _Header(height, width, fps, frames, self.num_groups(frames)), begin

    def _text(self, ids: Iterable[int]) -> str:
        ids = list(ids)
        if any(i >= self.vocabulary.text_size for i in ids):
            raise DocumentFormatError("control tokens inside the size of an image")
        return self.decode_text(ids)


def fps_and_duration(fps: float, frames: int) -> str:
    """Frame rate and duration of a video as in its header: `8fps 1.25s`.

    Seconds are rounded to thousandths, which still identify the number of frames. Raises
    DocumentFormatError on a rate that is not a multiple of 0.001 from 0.001 to 999, or on less than
    one frame.
    """
    rate = Fraction(fps).limit_denominator(THOUSAND) if 0 < fps <= MAX_FPS else Fraction(0)
    if not rate or THOUSAND % rate.denominator or float(rate) != float(fps):
        raise DocumentFormatError(
            f"fps = {fps} must lie in 0.001 to {MAX_FPS}, with at most three decimals"
        )
    if frames < 1:
        raise DocumentFormatError(f"a video of {frames} frames; at least one is needed")
    return f"{_plain(rate)}fps {_plain(frames / rate)}s"


def _plain(number: Fraction) -> str:
    """A number rounded to thousandths, without an exponent and without trailing zeros."""
    whole, part = divmod(round(number * THOUSAND), THOUSAND)
    return f"{whole}.{part:03d}".rstrip("0").rstrip(".")
