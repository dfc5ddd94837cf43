"""One measurement: a decoder in a precision and a decoding method, in a process of its own.

All cases generate the same guided image with the same sampling parameters until it is finished or
the time limit is reached. The rate counts codes after the first forward pass. Small images are
generated several times, and the run with the median rate is reported.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count

import torch

from emu3.bench import transformers_baseline
from emu3.bench.machine import peak_memory, read_bandwidth
from emu3.bench.models import BenchmarkModel, find_model_size, load_model
from emu3.errors import InputError
from emu3.inference.model_runner import ModelRunner
from emu3.inference.optimize import optimize_for_inference
from emu3.inference.reference import generate_visual
from emu3.inference.sampling import SamplingParams
from emu3.inference.sequences import VisualSequence
from emu3.models.memory import kv_cache_bytes
from emu3.models.precision import parse_precision

GUIDANCE_SCALE = 3.0
SAMPLING = SamplingParams(top_k=2048)
WARM_UP_CODES = 8  # of a run before the measured ones
MAX_REPEATS = 9  # as long as all repeats together take less than a ninth of the time limit
UNLIMITED = 1 << 30  # codes


@dataclass(frozen=True)
class Case:
    """What is measured. `size` is a key of `MODELS`, `method` one of `METHODS`."""

    size: str
    method: str
    precision: str
    device: str = "cpu"
    seconds: float = 60.0  # time limit of an image


@dataclass(frozen=True)
class Result:
    """The measurement of a case; `error` is empty unless its process failed."""

    case: Case
    codes: int  # generated
    image_codes: int  # of the whole image
    passes: int
    codes_per_second: float
    peak_bytes: float
    bytes_per_pass: float  # read at least
    bandwidth: float  # bytes per second that the machine reads
    error: str = ""

    @property
    def bandwidth_fraction(self) -> float:
        """The part of the memory bandwidth that reading `bytes_per_pass` accounts for."""
        if not self.codes_per_second or not self.bandwidth:
            return 0.0
        seconds_per_pass = self.codes / max(1, self.passes) / self.codes_per_second
        return self.bytes_per_pass / seconds_per_pass / self.bandwidth


class Stop(Exception):
    """The time limit or the number of codes is reached."""


class Stopwatch:
    """Counts codes and forward passes against the clock, starting after the first pass."""

    def __init__(self, seconds: float, max_codes: int = UNLIMITED) -> None:
        self.seconds, self.max_codes = seconds, max_codes
        self.first = self.last = 0.0
        self.codes = self.first_codes = self.passes = 0

    def record_pass(self, codes: int) -> bool:
        """Record a pass after which there are `codes` codes; True if a limit is reached."""
        self.last, self.codes, self.passes = time.perf_counter(), codes, self.passes + 1
        if self.passes == 1:
            self.first, self.first_codes = self.last, codes
        return self.last - self.first > self.seconds or codes >= self.max_codes

    @property
    def codes_per_second(self) -> float:
        """The rate after the first pass; 0 after a single pass."""
        if self.last == self.first:
            return 0.0
        return (self.codes - self.first_codes) / (self.last - self.first)


def num_codes(tokens: int, grid: tuple[int, int]) -> int:
    """Visual codes among the first tokens of an image, without line ends and closing tokens."""
    height, width = grid
    return min(tokens - tokens // (width + 1), height * width)


Generate = Callable[[BenchmarkModel, Stopwatch], None]
"""Generates one image and raises Stop if the stopwatch says so."""


def generate_reference(model: BenchmarkModel, watch: Stopwatch) -> None:
    """The reference decoder: one token per forward pass, on the plain modules."""

    def on_step(step: int, ids: torch.Tensor) -> None:
        if watch.record_pass(num_codes(step + 1, model.grid)):
            raise Stop

    prompt, negative = ([row] for row in model.prompts)
    generate_visual(
        model.decoder,
        model.document_format,
        prompt,
        negative,
        [model.grid],
        SAMPLING,
        GUIDANCE_SCALE,
        [0],
        on_step,
    )


def generate_with_draft(draft_length: int | None) -> Generate:
    """Speculative decoding with a fixed draft length, or with the one the engine chooses."""

    def generate(model: BenchmarkModel, watch: Stopwatch) -> None:
        format_ = model.document_format
        sequence = VisualSequence(model.prompts, model.grid, 0, format_, SAMPLING, GUIDANCE_SCALE)

        def on_step(running: object) -> None:
            if watch.record_pass(sequence.num_codes):
                raise Stop

        ModelRunner(model.decoder, format_.vocabulary, draft_length).run([sequence], on_step)

    return generate


def generate_with_transformers(loop: Callable[..., None]) -> Generate:
    """One of the loops of `transformers_baseline`."""
    loaded: list[object] = []

    def generate(model: BenchmarkModel, watch: Stopwatch) -> None:
        loaded[:] = loaded or [transformers_baseline.convert_model(model)]
        tokens = count(1)

        def on_token() -> bool:
            return watch.record_pass(num_codes(next(tokens), model.grid))

        loop(loaded[0], model, SAMPLING, GUIDANCE_SCALE, on_token)

    return generate


@dataclass(frozen=True)
class Method:
    """A decoding method. `optimized` methods run on a decoder that is optimized for inference."""

    title: str
    generate: Generate
    optimized: bool
    quantized: bool = True  # whether it runs int8 and int4


METHODS: dict[str, Method] = {
    "original": Method(
        "original recipe",
        generate_with_transformers(transformers_baseline.generate_unbatched),
        optimized=False,
        quantized=False,
    ),
    "batched": Method(
        "transformers, batched",
        generate_with_transformers(transformers_baseline.generate_batched),
        optimized=False,
        quantized=False,
    ),
    "slow": Method("reference decoder", generate_reference, optimized=False),
    "sequential": Method("sequential", generate_with_draft(1), optimized=True),
    "windows": Method("speculative", generate_with_draft(None), optimized=True),
}
"""Decoding methods by option value, slowest first.

`original`: `generate` of transformers as in the README of the published model, with two unbatched
passes for guidance. `batched`: a loop over transformers' model that passes both branches together.
`slow`: the reference decoder of this package. `sequential`: the optimized decoder, one visual code
per pass. `windows`: the optimized decoder with speculative (Jacobi) decoding.
"""

ALIASES = {"reference": "slow", "speculative": "windows"}
"""Other names of methods."""


def find_method(name: str) -> str:
    """The key in `METHODS` of a method or an alias; raises InputError on an unknown name."""
    key = ALIASES.get(name, name)
    if key not in METHODS:
        known = ", ".join((*METHODS, *ALIASES))
        raise InputError(f"no such method: {name!r}; expected one of {known}")
    return key


def measure(case: Case) -> Result:
    """Run one case in this process; raises InputError on a precision the method cannot run."""
    device, method = torch.device(case.device), METHODS[case.method]
    precision = parse_precision(case.precision)
    if precision.bits is not None and not method.quantized:
        raise InputError(f"{method.title}: {precision.name} is not supported")
    model = load_model(find_model_size(case.size), precision, device)
    bytes_read, bandwidth = bytes_per_pass(model), read_bandwidth(device)
    if method.optimized:
        optimize_for_inference(model.decoder, model.document_format.vocabulary.visual)
    with contextlib.suppress(Stop):
        method.generate(model, Stopwatch(case.seconds, WARM_UP_CODES))
    watches: list[Stopwatch] = []
    start = time.perf_counter()
    while not watches or (
        len(watches) < MAX_REPEATS and time.perf_counter() - start < case.seconds / MAX_REPEATS
    ):
        watches.append(Stopwatch(case.seconds))
        with contextlib.suppress(Stop):
            method.generate(model, watches[-1])
    watch = sorted(watches, key=lambda each: each.codes_per_second)[len(watches) // 2]
    return Result(
        case=case,
        codes=watch.codes,
        image_codes=model.grid[0] * model.grid[1],
        passes=watch.passes,
        codes_per_second=watch.codes_per_second,
        peak_bytes=peak_memory(device),
        bytes_per_pass=bytes_read,
        bandwidth=max(bandwidth, read_bandwidth(device)),
    )


def bytes_per_pass(model: BenchmarkModel) -> float:
    """Bytes that one guided pass reads at least, halfway through the image.

    These are all matrices of the blocks, the rows of the output head for visual codes, and the keys
    and values so far.
    """
    decoder, format_ = model.decoder, model.document_format
    blocks = sum(tensor.nbytes for tensor in decoder.model.layers.state_dict().values())
    rows = format_.vocabulary.codebook_size / decoder.config.vocab_size
    head = rows * sum(tensor.nbytes for tensor in decoder.lm_head.state_dict().values())
    context = max(map(len, model.prompts)) + format_.num_tokens(*model.grid) // 2
    cache_precision = parse_precision("fp32" if decoder.dtype == torch.float32 else "bf16")
    return blocks + head + kv_cache_bytes(decoder.config, context, cache_precision)


def run_all(cases: list[Case]) -> Iterator[Result]:
    """Run each case in a process of its own, one after another; a failure affects one case."""
    for case in cases:
        command = [sys.executable, "-m", "emu3.bench", json.dumps(asdict(case))]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            lines = process.stderr.strip().splitlines()
            error = lines[-1] if lines else f"exit status {process.returncode}"
            error = re.sub(r"^emu3\.errors\.\w+: ", "", error)
            yield Result(case, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, error=error)
        else:
            yield Result(**{**json.loads(process.stdout.splitlines()[-1]), "case": case})
