"""One measurement: a decoder in a precision, drawing in one way, in a process of its own.

Every case draws the same guided picture with the same sampling until it is finished or the time
is up, and counts codes a second after its first pass; a small picture is drawn several times and
the median counts. Bytes are what a pass has to read at least: every matrix of the blocks, the
head's rows of the codes, keys and values so far.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count

import torch

from emu3.bench import theirs
from emu3.bench.machine import peak_memory, read_bandwidth
from emu3.bench.sizes import Subject, size_named, subject
from emu3.errors import InputError
from emu3.inference.model_runner import ModelRunner
from emu3.inference.optimize import optimize_for_inference
from emu3.inference.reference import generate_visual
from emu3.inference.sampling import SamplingParams
from emu3.inference.sequences import VisualSequence
from emu3.models.memory import kv_cache_bytes
from emu3.models.precision import parse_precision

SCALE = 3.0
SAMPLING = SamplingParams(top_k=2048)
WARM_UP = 8  # codes before anything is counted, on a run of its own
REPEATS = 9  # at most, as long as they have taken less than a ninth of the time for one


@dataclass(frozen=True)
class Case:
    """What is to be measured, by names."""

    size: str
    way: str
    precision: str
    device: str = "cpu"
    seconds: float = 60.0  # the picture is broken off after so many


@dataclass(frozen=True)
class Result:
    """What was measured."""

    case: Case
    codes: int  # drawn in all
    of: int  # codes of the picture
    passes: int
    rate: float  # codes a second
    peak: float  # bytes
    bytes_a_pass: float  # to be read at least
    bandwidth: float  # bytes a second that the machine reads
    failed: str = ""

    @property
    def share(self) -> float:
        """Of the bandwidth that the passes made use of."""
        a_pass = self.codes / max(1, self.passes) / self.rate if self.rate else float("inf")
        return self.bytes_a_pass / a_pass / self.bandwidth if self.bandwidth else 0.0


class Enough(Exception):
    """The time is up."""


class Watch:
    """Counts codes and passes against the clock, from the end of the first pass on."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.first, self.last = seconds, 0.0, 0.0
        self.codes = self.codes_first = self.passes = 0

    def tick(self, codes: int) -> bool:
        """Told after every pass how many codes there are; true when the time is up."""
        self.last, self.codes, self.passes = time.perf_counter(), codes, self.passes + 1
        if self.passes == 1:
            self.first, self.codes_first = self.last, codes
        return self.last - self.first > self.seconds

    @property
    def rate(self) -> float:
        """Codes a second."""
        if self.last == self.first:
            return 0.0
        return (self.codes - self.codes_first) / (self.last - self.first)


def codes_in(ids: int, grid: tuple[int, int]) -> int:
    """Codes among the first ids of a picture; line ends and what closes it are none."""
    height, width = grid
    return min(ids - ids // (width + 1), height * width)


def slow(what: Subject, watch: Watch, most: int) -> None:
    """The plain loop of `generate.py`, on plain modules."""

    def on_step(step: int, ids: torch.Tensor) -> None:
        codes = codes_in(step + 1, what.grid)
        if watch.tick(codes) or codes >= most:
            raise Enough

    prompt, negative = ([row] for row in what.prompts)
    sizes, seeds = [what.grid], [0]
    generate_visual(
        what.decoder, what.document_format, prompt, negative, sizes, SAMPLING, SCALE, seeds, on_step
    )


def drawn_in(window: int | None) -> Callable[[Subject, Watch, int], None]:
    """Drawing by windows of so many codes, or as many as this package would take."""

    def draw(what: Subject, watch: Watch, most: int) -> None:
        sequence = VisualSequence(what.prompts, what.grid, 0, what.document_format, SAMPLING, SCALE)

        def on_step(running: object) -> None:
            if watch.tick(sequence.num_codes) or sequence.num_codes >= most:
                raise Enough

        vocabulary = what.document_format.vocabulary
        ModelRunner(what.decoder, vocabulary, window).run([sequence], on_step)

    return draw


def transformers(loop: Callable[..., None]) -> Callable[[Subject, Watch, int], None]:
    """One of the loops of `theirs.py`."""
    kept: list[object] = []

    def draw(what: Subject, watch: Watch, most: int) -> None:
        kept[:] = kept or [theirs.model_of(what)]
        ids = count(1)

        def on_token() -> bool:
            codes = codes_in(next(ids), what.grid)
            return watch.tick(codes) or codes >= most

        loop(kept[0], what, SAMPLING, SCALE, on_token)

    return draw


@dataclass(frozen=True)
class Way:
    """How a picture is drawn; `fused` ways run on a decoder that was made ready."""

    about: str
    draw: Callable[[Subject, Watch, int], None]
    fused: bool
    dense: bool = False  # knows no weights of few bits


CASES: dict[str, Way] = {
    "original": Way(
        "original recipe",
        transformers(theirs.by_the_recipe),
        fused=False,
        dense=True,
    ),
    "batched": Way(
        "transformers, batched",
        transformers(theirs.in_one_batch),
        fused=False,
        dense=True,
    ),
    "slow": Way("ours, plain loop", slow, fused=False),
    "sequential": Way("ours, a code a pass", drawn_in(1), fused=True),
    "windows": Way("ours, windows", drawn_in(None), fused=True),
}
"""The ways of drawing, slowest first."""


def measure(case: Case) -> Result:
    """Run one case here and now."""
    device, way = torch.device(case.device), CASES[case.way]
    to = parse_precision(case.precision)
    if way.dense and to.bits is not None:
        raise InputError(f"{way.about}: knows no {to.name}")
    what = subject(size_named(case.size), to, device)
    moved, bandwidth = bytes_a_pass(what), read_bandwidth(device)
    if way.fused:
        optimize_for_inference(what.decoder, what.document_format.vocabulary.visual)
    with contextlib.suppress(Enough):
        way.draw(what, Watch(case.seconds), WARM_UP)
    watches: list[Watch] = []
    start = time.perf_counter()
    while not watches or (
        len(watches) < REPEATS and time.perf_counter() - start < case.seconds / REPEATS
    ):
        watches.append(Watch(case.seconds))
        with contextlib.suppress(Enough):
            way.draw(what, watches[-1], 1 << 30)
    watch = sorted(watches, key=lambda each: each.rate)[len(watches) // 2]
    return Result(
        case=case,
        codes=watch.codes,
        of=what.grid[0] * what.grid[1],
        passes=watch.passes,
        rate=watch.rate,
        peak=peak_memory(device),
        bytes_a_pass=moved,
        bandwidth=max(bandwidth, read_bandwidth(device)),
    )


def bytes_a_pass(what: Subject) -> float:
    """What one guided pass has to read, half way through the picture, before it is made ready."""
    decoder = what.decoder
    blocks = sum(tensor.nbytes for tensor in decoder.model.layers.state_dict().values())
    rows = what.document_format.vocabulary.codebook_size / decoder.config.vocab_size
    head = rows * sum(tensor.nbytes for tensor in decoder.lm_head.state_dict().values())
    middle = max(map(len, what.prompts)) + what.document_format.num_tokens(*what.grid) // 2
    held = parse_precision("fp32" if decoder.dtype == torch.float32 else "bf16")
    return blocks + head + kv_cache_bytes(decoder.config, middle, held)


def run_all(cases: list[Case]) -> Iterator[Result]:
    """Each case in a process of its own, one after another, as results come in."""
    for case in cases:
        command = [sys.executable, "-m", "emu3.bench", json.dumps(asdict(case))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
            yield Result(case, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, failed=last)
        else:
            said = json.loads(done.stdout.splitlines()[-1])
            yield Result(**{**said, "case": case})
