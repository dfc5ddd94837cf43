"""The order of tokens inside a picture. No other file knows it.

    SOV  h*w  SOT  code … code EOL  …  code … code EOL  EOF EOV

`h*w` is the size in codes, as plain text. Every row ends in EOL, the last one too. So the length
of a picture is known before its first code, and what may come at each step is one interval of ids.

Sources: paper section 2.3; `processing_emu3.py` (writing), `utils_emu3.py` (what is allowed; that
one goes wrong on grids one or two codes wide).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emu3.errors import InputError
from emu3.vocab import Vocabulary

META = re.compile(r"([1-9][0-9]{0,5})\*([1-9][0-9]{0,5})")


class GrammarError(InputError):
    """Ids that are no well-formed document. The message names the position."""


@dataclass(frozen=True)
class Grammar:
    """Writes pictures into ids and reads them back.

    `encode_text` and `decode_text` turn the size into ids of plain text and back; they are handed
    in, so that this room does not know the text tokenizer.
    """

    vocabulary: Vocabulary
    encode_text: Callable[[str], list[int]]
    decode_text: Callable[[Sequence[int]], str]

    def header(self, height: int, width: int) -> list[int]:
        """What stands before the first code of a picture of [height, width] codes."""
        v = self.vocabulary
        return [v.sov, *self.encode_text(f"{height}*{width}"), v.sot]

    def body(self, codes: Tensor) -> Tensor:
        """Codes [h, w] to the ids after the header, [h * (w + 1) + 2] int64."""
        v = self.vocabulary
        ends = torch.full((len(codes), 1), v.eol, dtype=torch.long, device=codes.device)
        rows = torch.cat([codes.long() + v.visual_start, ends], dim=1).flatten()
        return torch.cat([rows, rows.new_tensor([v.eof, v.eov])])

    def write(self, codes: Tensor) -> Tensor:
        """Codes [h, w] to a whole picture, ids [L] int64."""
        header = torch.tensor(self.header(*codes.shape), dtype=torch.long, device=codes.device)
        return torch.cat([header, self.body(codes)])

    @staticmethod
    def length(height: int, width: int) -> int:
        """Ids after the header: h * (w + 1) + 2. The document's EOS is not counted."""
        return height * (width + 1) + 2

    @staticmethod
    def place(width: int, index: int) -> int:
        """How many ids after the header code `index` of a picture stands."""
        return index + index // width

    def stretch(self, codes: Sequence[int], width: int, start: int, stop: int) -> list[int]:
        """The ids from `start` to `stop` after the header, of a picture that begins with `codes`.

        Raises IndexError where the codes do not reach so far.
        """
        v, ids = self.vocabulary, []
        for row, column in (divmod(at, width + 1) for at in range(start, stop)):
            ids.append(v.eol if column == width else v.visual_start + codes[row * width + column])
        return ids

    def allowed(self, height: int, width: int, step: int) -> tuple[int, int]:
        """What may come `step` ids after the header: the interval [low, high) of ids.

        After the picture comes EOS, and PAD for ever after.
        """
        v = self.vocabulary
        row_part = height * (width + 1)
        if step < row_part:
            if step % (width + 1) == width:
                return v.eol, v.eol + 1
            return v.visual_start, v.size
        closing = (v.eof, v.eov, v.eos)
        token = closing[step - row_part] if step - row_part < len(closing) else v.pad
        return token, token + 1

    def forced(self, height: int, width: int, steps: int) -> Tensor:
        """For each of `steps` steps the only id allowed, or -1 where a code is drawn: [steps]."""
        intervals = (self.allowed(height, width, step) for step in range(steps))
        return torch.tensor([low if high == low + 1 else -1 for low, high in intervals])

    def read_body(self, ids: Tensor, height: int, width: int) -> Tensor:
        """The codes [h, w] of the ids after a header; what follows the picture is not looked at.

        Raises GrammarError naming the first id that is not allowed where it stands.
        """
        length = self.length(height, width)
        if len(ids) < length:
            raise GrammarError(f"picture cut short: {len(ids)} of {length} ids")
        ids = ids[:length]
        forced = self.forced(height, width, length).to(ids.device)
        v = self.vocabulary
        is_code = (ids >= v.visual_start) & (ids < v.size)
        wrong = torch.where(forced < 0, ~is_code, ids != forced).nonzero()
        if len(wrong):
            at = int(wrong[0])
            raise GrammarError(f"id {int(ids[at])} is not allowed at position {at} of a picture")
        return ids[forced < 0].view(height, width) - v.visual_start

    def read(self, ids: Tensor) -> Tensor:
        """The inverse of `write`: a whole picture, ids [L], to its codes [h, w]."""
        parts = self.split(ids)
        if len(parts) != 1 or parts[0].ndim != 2:
            raise GrammarError("expected one picture and nothing else")
        return parts[0]

    def split(self, ids: Tensor) -> list[Tensor]:
        """A document [L] as its parts in order: text ids [n], pictures as codes [h, w].

        Raises GrammarError on a picture that is not well formed.
        """
        v = self.vocabulary
        parts: list[Tensor] = []
        rest = ids
        while len(rest):
            starts = (rest == v.sov).nonzero()
            start = int(starts[0]) if len(starts) else len(rest)
            if start:
                parts.append(rest[:start])
            if start == len(rest):
                break
            height, width, begin = self._read_header(rest, start)
            parts.append(self.read_body(rest[begin:], height, width))
            rest = rest[begin + self.length(height, width) :]
        return parts

    def _read_header(self, ids: Tensor, start: int) -> tuple[int, int, int]:
        """Height, width and the position of the first code of the picture opened at `start`."""
        ends = (ids[start:] == self.vocabulary.sot).nonzero()
        if not len(ends):
            raise GrammarError(f"the picture opened at position {start} has no SOT")
        begin = start + int(ends[0]) + 1
        meta = self._text(ids[start + 1 : begin - 1].tolist())
        size = META.fullmatch(meta)
        if size is None:
            raise GrammarError(f"the size of a picture reads {meta!r}; expected height*width")
        return int(size[1]), int(size[2]), begin

    def _text(self, ids: Iterable[int]) -> str:
        ids = list(ids)
        if any(i >= self.vocabulary.text_size for i in ids):
            raise GrammarError("control tokens inside the size of a picture")
        return self.decode_text(ids)
