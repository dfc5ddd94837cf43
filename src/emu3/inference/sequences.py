"""Sequences: what the model decodes, and how far it is.

A request becomes one sequence, or several one after another (a long video). A sequence occupies one
row of the KV cache per prompt: two with classifier-free guidance, the prompt and the negative
prompt. `VisualSequence` holds visual codes in the fixed order of the document format,
`TextSequence` an answer. The model runner calls both through the same methods.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emu3.inference.sampling import GumbelNoise, SamplingParams, frame_seed
from emu3.inference.speculative import POSITIONS_PER_PASS, accept_draft, propose_draft
from emu3.processing.document_format import DocumentFormat

CPU = torch.device("cpu")
MAX_DRAFT = POSITIONS_PER_PASS
"""Codes that a sequence samples per pass at most."""
STEP_WIDTH = 3 * (MAX_DRAFT + 1)
"""Ids per row of a forward pass at most: each code may be followed by EOL and EOF. All rows
of a pass are as wide as the widest, so each needs so many KV-cache tokens after its last id."""


class VisualSequence:
    """The visual codes of an image, or of a video of `groups` frames of codes.

    `prompts` end in the image or video header. `grid` is the height and width of a frame in codes.
    `known` are codes [n] that are given (a first frame, the frames before a continuation); they are
    read and not sampled. `frame_offset` counts frames of codes before this sequence; they count in
    the noise. Codes [groups * h * w] are numbered in raster order, frame by frame.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        grid: tuple[int, int],
        seed: int,
        document_format: DocumentFormat,
        sampling: SamplingParams,
        guidance_scale: float = 1.0,
        *,
        groups: int = 1,
        known: Tensor | None = None,
        frame_offset: int = 0,
    ) -> None:
        self.prompts, self.grid, self.seed = prompts, grid, seed
        self.document_format, self.sampling = document_format, sampling
        self.guidance_scale, self.groups, self.frame_offset = guidance_scale, groups, frame_offset
        blank = torch.zeros(groups, *grid, dtype=torch.long)
        # All ids after the header. Line ends, frame ends and the end of the image are in place
        # from the start; codes are written into `code_positions`, drafts after accepted ones.
        self.body = document_format.body_token_ids(blank)
        visual_start = document_format.vocabulary.visual_start
        self.code_positions = (self.body >= visual_start).nonzero()[:, 0]
        self._body, self._positions = self.body.numpy(), self.code_positions.tolist()
        self._visual_start = visual_start
        self.num_codes = 0 if known is None else known.numel()
        if known is not None:
            self.body[self.code_positions[: self.num_codes]] = known.flatten() + visual_start
        self.num_drafted = 0  # codes after `num_codes` that the last step suggests
        self.steps = 0
        self._samples = 1
        self._noise: dict[int, Tensor] = {}  # by code; drawn ahead, never again
        # Codes whose noise is drawn or not needed: each frame has a generator of its own.
        self._noise_drawn = self.num_codes // self.frame_codes * self.frame_codes

    @property
    def frame_codes(self) -> int:
        """Codes of one frame."""
        return self.grid[0] * self.grid[1]

    @property
    def total_codes(self) -> int:
        """Codes of all frames."""
        return self.groups * self.frame_codes

    @property
    def done(self) -> bool:
        """Whether all codes are known."""
        return self.num_codes == self.total_codes

    @property
    def codes(self) -> Tensor:
        """The accepted codes, [num_codes] int64."""
        return self.body[self.code_positions[: self.num_codes]] - self._visual_start

    def finished_frames(self) -> Tensor:
        """The finished frames of codes, [t, h, w]."""
        whole = self.num_codes // self.frame_codes
        return self.codes[: whole * self.frame_codes].view(whole, *self.grid)

    def finished_rows(self) -> Tensor:
        """The finished rows of codes, [r, w]; those of a video's frames below each other."""
        width = self.grid[1]
        whole = self.num_codes // width
        return self.codes[: whole * width].view(whole, width)

    @property
    def kv_tokens_per_row(self) -> int:
        """KV-cache tokens that each row can come to need."""
        return max(map(len, self.prompts)) + self._positions[-1] + STEP_WIDTH

    def prefill_ids(self, row: int) -> list[int]:
        """The prompt and the known codes, without the last id."""
        stop = self._positions[self.num_codes - 1] + 1 if self.num_codes else 0
        return [*self.prompts[row], *self._body[:stop].tolist()][:-1]

    def begin_step(self, draft_length: int) -> int:
        """Write a draft of the codes after the next one; returns how many codes are sampled."""
        self._samples = min(draft_length, self.total_codes - self.num_codes)
        height, width = self.grid
        propose_draft(
            self._body,
            self._positions,
            self.num_codes + self.num_drafted,
            self.num_codes + self._samples - 1,
            (height * width, width, 1),
            self._visual_start,
        )
        return self._samples

    def input_ids(self, row: int, start: int) -> Tensor:
        """Ids not read yet, and the draft."""
        prompt = len(self.prompts[row])
        body = self.body[max(0, start - prompt) : self._positions[self._last_sampled]]
        if start >= prompt:
            return body
        return torch.cat([torch.tensor(self.prompts[row][start:]), body])

    @property
    def _last_sampled(self) -> int:
        return self.num_codes + self._samples - 1

    def sample_positions(self, row: int, start: int) -> list[int]:
        """Where in `input_ids` the ids stand after which the sampled codes come."""
        offset = len(self.prompts[row]) - 1 - start
        return [offset + at for at in self._positions[self.num_codes : self._last_sampled + 1]]

    def noise(self, size: int) -> Tensor:
        """Noise [samples, size] of the next codes, the same however often it is asked for."""
        if self.sampling.greedy:
            return torch.zeros(self._samples, size)
        while self._noise_drawn <= self._last_sampled:
            frame, inside = divmod(self._noise_drawn, self.frame_codes)
            if inside == 0:
                seed = frame_seed(self.seed, self.frame_offset + frame)
                self._generator = GumbelNoise([seed], CPU)
            drawn = self._generator.gumbel(size)[0]
            if self._noise_drawn >= self.num_codes:
                self._noise[self._noise_drawn] = drawn
            self._noise_drawn += 1
        return torch.stack([self._noise[self.num_codes + k] for k in range(self._samples)])

    def accept(self, sampled: list[int]) -> None:
        """Accept the longest confirmed prefix of the draft and the code sampled after it."""
        at = self._positions[self.num_codes : self._last_sampled + 1]
        draft = [int(self._body[p]) - self._visual_start for p in at[:-1]]
        accepted = accept_draft(draft, sampled)
        for position, code in zip(at, sampled, strict=True):
            self._body[position] = self._visual_start + code  # the rest is the next draft
        for index in range(accepted):
            self._noise.pop(self.num_codes + index, None)
        self.num_codes += accepted
        self.num_drafted = self._samples - accepted
        self.steps += 1

    def cached_tokens(self, row: int) -> int:
        """Ids up to the newest code, which is not read yet or was read as another draft."""
        return len(self.prompts[row]) + self._positions[self.num_codes - 1]


class TextSequence:
    """An answer of at most `max_new_tokens` ids after one prompt."""

    def __init__(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: SamplingParams,
        seed: int,
        stop: int,
        *,
        keep_cache: bool = False,
    ) -> None:
        """`stop` ends the answer. `keep_cache` saves the KV cache for a continued prompt."""
        self.prompts, self.sampling, self.seed = [list(prompt)], sampling, seed
        self.max_new_tokens, self.stop, self.keep_cache = max_new_tokens, stop, keep_cache
        self.ids: list[int] = []
        self._generator = GumbelNoise([seed], CPU)

    @property
    def done(self) -> bool:
        """Whether the stop id was sampled or the limit reached."""
        return self.stopped or len(self.ids) == self.max_new_tokens

    @property
    def stopped(self) -> bool:
        """Whether the stop id was sampled."""
        return bool(self.ids) and self.ids[-1] == self.stop

    @property
    def kv_tokens_per_row(self) -> int:
        """KV-cache tokens that the prompt and the answer can come to need."""
        return len(self.prompts[0]) + self.max_new_tokens + STEP_WIDTH

    def prefill_ids(self, row: int) -> list[int]:
        """The prompt without its last id."""
        return self.prompts[0][:-1]

    def begin_step(self, draft_length: int) -> int:
        """One id per step."""
        return 1

    def input_ids(self, row: int, start: int) -> Tensor:
        """The newest id."""
        return torch.tensor(self.ids[-1:] or self.prompts[0][-1:])

    def sample_positions(self, row: int, start: int) -> list[int]:
        """After the newest id."""
        return [0]

    def noise(self, size: int) -> Tensor:
        """Noise [1, size] of the next id."""
        if self.sampling.greedy:
            return torch.zeros(1, size)
        return self._generator.gumbel(size)

    def accept(self, sampled: list[int]) -> None:
        """Append the sampled id."""
        self.ids += sampled

    def cached_tokens(self, row: int) -> int:
        """All ids but the newest, which is not read yet."""
        return len(self.prompts[0]) + len(self.ids) - 1


DecodingSequence = VisualSequence | TextSequence
"""What the model runner decodes. Both have the same methods, called in this order: `prefill_ids`
once; then in each step `begin_step` (how many ids are sampled), `input_ids` (what a row reads),
`sample_positions` (after which of them the sampled ids come), `noise`, `accept` and
`cached_tokens` (how many ids of a row are valid in the KV cache afterwards)."""
