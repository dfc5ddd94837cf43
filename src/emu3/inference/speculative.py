"""The same pictures and videos in fewer passes.

A draw is argmax(log p + g) with noise g that belongs to a seed and a place in the picture, so what
`generate.py` draws one code at a time is a function with nothing left to chance. Here a window of
codes is guessed, and one pass says what each of them would be if those before it were right: the
first always is; each one after it is right as long as its predecessor was guessed rightly. These
are committed, and what the pass said of the others is the next guess. So the ids are those of
`generate_pictures` (up to rounding in passes of another shape), whatever is guessed; only the
number of passes depends on it. This is Jacobi iteration (Song et al. 2021, arXiv 2002.03629) with
Gumbel noise held fixed.

Line ends and frame ends are known and ride along with the codes before them, so even a window of
one takes h * w passes a frame and not h * (w + 1). A picture is two rows of a batch, one for
guidance; pictures and videos of any sizes finish on their own, and the next of the queue takes
their place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emu3.inference.reference import frame_seed, prefill
from emu3.inference.sampling import GumbelNoise, SamplingParams
from emu3.models.kv_cache import KVCache
from emu3.models.quantization import precision_of
from emu3.models.transformer import Transformer
from emu3.processing.document_format import DocumentFormat


@dataclass
class VisualSequence:
    """What is to be drawn, and how far it is: a picture, or a video of `groups` frames of codes.

    `prompts` end in the header: the prompt, and the guidance branch's if there is one. `codes`
    that are there from the start (a first frame, a clip to go on with) are read and never drawn.
    `guess` are codes thought to follow `codes`. Of a video that continues a longer one, `before`
    is how many frames of codes went before its own: they count in the noise.
    """

    prompts: list[list[int]]
    size: tuple[int, int]
    seed: int
    codes: list[int] = field(default_factory=list)
    guess: list[int] = field(default_factory=list)
    passes: int = 0
    noise: dict[int, Tensor] = field(default_factory=dict)  # by code; drawn ahead, never again
    groups: int = 1
    before: int = 0

    def __post_init__(self) -> None:
        # Codes whose noise is drawn or not needed: a frame has a generator of its own.
        self.drawn = len(self.codes) // self.frame * self.frame

    @property
    def frame(self) -> int:
        """Codes in a frame."""
        return self.size[0] * self.size[1]

    @property
    def length(self) -> int:
        """Codes in all."""
        return self.groups * self.frame

    @property
    def done(self) -> bool:
        """Whether the last code is there."""
        return len(self.codes) == self.length

    def frames(self) -> Tensor:
        """The finished frames of codes, [t, h, w]."""
        whole = len(self.codes) // self.frame
        return torch.tensor(self.codes[: whole * self.frame], dtype=torch.long).view(-1, *self.size)

    def rows(self) -> Tensor:
        """The finished rows of codes, [r, w]; those of a video's frames one below the other."""
        width = self.size[1]
        whole = len(self.codes) // width
        return torch.tensor(self.codes[: whole * width], dtype=torch.long).view(whole, width)

    def window(self, most: int) -> int:
        """How many codes the next pass asks for."""
        return min(most, self.length - len(self.codes))

    def guessed(self, count: int) -> list[int]:
        """Guesses for the next `count` codes.

        Where there are none: the code at this place of the frame before, in the first frame the
        code above.
        """
        known, width = self.codes + self.guess[:count], self.size[1]
        while len(known) < len(self.codes) + count:
            back = next((far for far in (self.frame, width, 1) if far <= len(known)), None)
            known.append(0 if back is None else known[-back])
        return known[len(self.codes) :]

    def gumbel(self, count: int, codebook: int) -> Tensor:
        """Noise [count, codebook] of the next codes, the same however often it is asked for."""
        first = len(self.codes)
        while self.drawn < first + count:
            frame, inside = divmod(self.drawn, self.frame)
            if inside == 0:
                seed = frame_seed(self.seed, self.before + frame)
                self.generator = GumbelNoise([seed], torch.device("cpu"))
            drawn = self.generator.gumbel(codebook)[0]
            if self.drawn >= first:
                self.noise[self.drawn] = drawn
            self.drawn += 1
        return torch.stack([self.noise[first + k] for k in range(count)])

    def commit(self, guess: Sequence[int], said: Sequence[int]) -> None:
        """Take what a pass said of the guessed window, as far as it is right."""
        right = 1
        while right < len(said) and guess[right - 1] == said[right - 1]:
            right += 1
        for index in range(right):
            self.noise.pop(len(self.codes) + index, None)
        self.codes += said[:right]
        self.guess = list(said[right:])
        self.passes += 1


# Rows that a pass is filled up to. On a CPU 16 of them cost up to 1.8 times as much as four
# (docs/speed.md). Products with few bits are bound by unpacking, and have little to give away.
FULL_ROWS, FULL_ROWS_OF_FEW_BITS = 16, 4


def draft_length_for(model: Transformer, rows: int) -> int:
    """How many codes of each picture to guess, when so many rows (two a guided picture) share a
    pass: as many as fill it up, since every right guess saves a pass.
    """
    dense = precision_of(model) in ("fp32", "bf16")
    return max(1, (FULL_ROWS if dense else FULL_ROWS_OF_FEW_BITS) // rows)


OnPass = Callable[[Sequence[VisualSequence]], None]
"""Called after each pass with the pictures in it."""


@dataclass(frozen=True)
class JacobiDecoder:
    """How pictures are drawn: `window` codes a pass and at most `slots` pictures at a time, or as
    many, one at least, as have room in a cache of `places` ids of one row.
    """

    model: Transformer
    document_format: DocumentFormat
    sampling: SamplingParams
    guidance_scale: float
    window: int
    slots: int = 64
    places: int | None = None  # None: as many as it takes

    @torch.inference_mode()
    def run(
        self, pictures: Sequence[VisualSequence], on_pass: OnPass = lambda active: None
    ) -> None:
        """Draw all pictures to their ends; one that is complete from the start is left alone."""
        waiting = [picture for picture in pictures if not picture.done]
        active = list[VisualSequence]()
        capacity = max(map(self.room, waiting), default=0)
        slots = self.at_a_time(waiting, capacity)
        cache: KVCache | None = None
        while waiting or active:
            if free := min(slots - len(active), len(waiting)):
                fresh = self.read(waiting[:free], capacity)
                if cache is None or not active:
                    cache = fresh
                else:
                    cache.append_rows(fresh)
                active, waiting = active + waiting[:free], waiting[free:]
            assert cache is not None
            self.step(active, cache)
            on_pass(active)
            going_on = [not picture.done for picture in active for _ in picture.prompts]
            if any(going_on) and not all(going_on):
                cache.select_rows([row for row, still in enumerate(going_on) if still])
            active = [picture for picture in active if not picture.done]

    def at_a_time(self, waiting: Sequence[VisualSequence], capacity: int) -> int:
        """How many pictures may be drawn at a time, each row of which has `capacity` places."""
        if self.places is None or not waiting:
            return self.slots
        rows = max(len(picture.prompts) for picture in waiting)
        return max(1, min(self.slots, self.places // (rows * capacity)))

    def room(self, picture: VisualSequence) -> int:
        """Places in the cache that a picture can come to need."""
        last = self.place(picture, picture.length - 1)
        ahead = 3 * self.window + 3  # a pass is as wide as its widest row, both ends included
        return max(map(len, picture.prompts)) + last + ahead

    def read(self, new: Sequence[VisualSequence], capacity: int) -> KVCache:
        """Read the prompts of new pictures and the codes behind them, all but the last ids: a row
        for each prompt.
        """
        prompts = [
            [*prompt, *self.known(picture)][:-1] for picture in new for prompt in picture.prompts
        ]
        return prefill(self.model, prompts, capacity - max(map(len, prompts)))[1]

    def place(self, picture: VisualSequence, index: int) -> int:
        """How many ids after the header code `index` of a picture stands."""
        return self.document_format.token_offset(picture.size[1], index, picture.size[0])

    def known(self, picture: VisualSequence) -> list[int]:
        """The ids after the header up to the last code that there is."""
        height, width = picture.size
        stop = self.place(picture, len(picture.codes) - 1) + 1 if picture.codes else 0
        return self.document_format.token_ids_between(picture.codes, width, 0, stop, height)

    def step(self, active: Sequence[VisualSequence], cache: KVCache) -> None:
        """One pass: a window of each picture guessed, asked about, and committed."""
        counts = [picture.window(self.window) for picture in active]
        guesses = [p.guessed(count - 1) for p, count in zip(active, counts, strict=True)]
        spans, ends, starts = list[list[int]](), list[list[int]](), iter(cache.lengths)
        for picture, guess, count in zip(active, guesses, counts, strict=True):
            for prompt in picture.prompts:
                start = next(starts)
                spans.append(self.span(picture, guess, prompt, start))
                ends.append(self.ends(picture, count, len(prompt), start))
        logits = self.ask(spans, ends, cache)
        noise = [p.gumbel(n, logits.shape[-1]) for p, n in zip(active, counts, strict=True)]
        padded = pad_sequence(noise, batch_first=True).to(logits.device)
        said = self.sampling.pick(logits, padded).tolist()
        for picture, guess, new, count in zip(active, guesses, said, counts, strict=True):
            picture.commit(guess, new[:count])
        cache.truncate(
            [
                len(prompt) + self.place(picture, len(picture.codes) - 1)
                for picture in active
                for prompt in picture.prompts
            ]  # the newest code is not read yet, or a wrong guess was in its place
        )

    def span(
        self, picture: VisualSequence, guess: list[int], prompt: list[int], start: int
    ) -> list[int]:
        """The ids that a row of the pass reads: those not read yet, and the guesses behind them."""
        (height, width), known = picture.size, picture.codes + guess
        begin, stop = max(0, start - len(prompt)), self.place(picture, len(known))
        return prompt[start:] + self.document_format.token_ids_between(
            known, width, begin, stop, height
        )

    def ends(self, picture: VisualSequence, count: int, prompt: int, start: int) -> list[int]:
        """Where in the span the ids stand behind which the codes of the window come."""
        first = len(picture.codes)
        places = (self.place(picture, first + k) for k in range(count))
        return [prompt + place - 1 - start for place in places]

    def ask(self, spans: list[list[int]], ends: list[list[int]], cache: KVCache) -> Tensor:
        """Logits of the codes of each picture's window, guidance mixed in: [B, window, codes]."""
        device, widest = self.model.device, max(map(len, ends))
        ids = pad_sequence([torch.tensor(span) for span in spans], batch_first=True).to(device)
        hidden = self.model.forward_hidden(ids, cache)
        at = torch.tensor([row + row[-1:] * (widest - len(row)) for row in ends], device=device)
        hidden = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))
        logits = self.model.compute_logits(hidden, self.document_format.vocabulary.visual)
        if self.guidance_scale == 1:
            return logits
        conditional, unconditional = logits.unflatten(0, (-1, 2)).unbind(1)
        # On logits as they are: their normalisers are one number a row, which no draw notices.
        return torch.lerp(unconditional, conditional, self.guidance_scale)
