"""The slices of a job, done in this process or in others.

What is in a shard depends on the request alone: every worker uses one thread, because another
number of threads may round differently and so give other codes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from emu3.data.dataset import shard_file_name
from emu3.data.samples import Sample
from emu3.data.shards import SkippedSample, write_shard
from emu3.data.sources import LazySample, Source
from emu3.data.tokenization import DEFAULT_FPS, SampleTokenizer, TokenizedDocument
from emu3.errors import InputError

MAX_REASON_LENGTH = 500  # characters of it that are kept

SliceId = tuple[int, int]
"""A source, and which of its slices."""


@dataclass(frozen=True)
class TokenizerConfig:
    """Whose ids are written, where its vision tokenizer runs, and how often it looks at a clip."""

    name: str
    vision: str | None = None
    device: str | None = None
    fps: float = DEFAULT_FPS  # frames a second

    def open(self) -> SampleTokenizer:
        """Its tokenizers; raises InputError."""
        return SampleTokenizer.from_pretrained(self.name, self.vision, self.device, self.fps)


@dataclass(frozen=True)
class PrepareJob:
    """What a worker needs to know."""

    sources: tuple[Source, ...]
    folder: Path
    model: TokenizerConfig
    digest: str

    def path(self, part: SliceId) -> Path:
        """The shard of a slice."""
        return self.folder / shard_file_name(*part)


def process_slices(
    job: PrepareJob, writer: SampleTokenizer, parts: Sequence[SliceId]
) -> Iterator[None]:
    """Do slices in this process; yields after each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for part in parts:
            _write_slice(job, writer, part)
            yield
    finally:
        torch.set_num_threads(threads)


def process_slices_in_parallel(
    job: PrepareJob, parts: Sequence[SliceId], workers: int
) -> Iterator[None]:
    """Do slices in other processes; yields after each. Raises InputError where one dies."""
    context = multiprocessing.get_context("spawn")  # forks and threads of PyTorch do not mix
    pool = ProcessPoolExecutor(min(workers, len(parts) or 1), context, _Worker.begin, (job,))
    try:
        for future in as_completed([pool.submit(_Worker.work, part) for part in parts]):
            future.result()
            yield
    except BrokenProcessPool:
        raise InputError(
            "a worker died, perhaps of too little memory; run again, with fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """What a process keeps between two slices."""

    job: PrepareJob
    writer: SampleTokenizer

    @classmethod
    def begin(cls, job: PrepareJob) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and says so
        threading.Thread(target=_exit_with_parent, daemon=True).start()
        torch.set_num_threads(1)
        cls.job, cls.writer = job, job.model.open()

    @classmethod
    def work(cls, part: SliceId) -> None:
        _write_slice(cls.job, cls.writer, part)


def _exit_with_parent() -> None:
    """End when the parent does: killed, it leaves workers that wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_slice(job: PrepareJob, writer: SampleTokenizer, part: SliceId) -> None:
    source = job.sources[part[0]]
    documents: list[TokenizedDocument] = []
    skipped: list[SkippedSample] = []
    for found in _samples(source, part[1]):
        reason = _write_sample(writer, found, documents)
        if reason is not None:
            skipped.append(SkippedSample(source.path.as_posix(), found.key, reason))
    write_shard(job.path(part), job.digest, documents, skipped)


def _samples(source: Source, index: int) -> Iterator[LazySample]:
    """Those of a slice; where the source itself is broken, one more that says so.

    Raises InputError where it is the machine that fails, and another run may find them all.
    """
    try:
        yield from source.samples(index)
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{source.path}: cannot be read ({error.strerror})") from None
        yield LazySample(f"the rest of slice {index}", partial(_fail, error))


def _fail(error: Exception) -> Sample:
    raise InputError(f"broken or cut short ({type(error).__name__}: {error})")


def _write_sample(
    writer: SampleTokenizer, found: LazySample, documents: list[TokenizedDocument]
) -> str | None:
    """Add the document of a sample, or say why there is none."""
    try:
        documents.append(writer.tokenize(found.read()))
    except InputError as error:
        return " ".join(str(error).split())[:MAX_REASON_LENGTH]
    except (MemoryError, torch.OutOfMemoryError):
        raise  # says nothing about the sample
    except Exception as error:  # files from anywhere break libraries in ways nobody lists
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_REASON_LENGTH]
    return None
