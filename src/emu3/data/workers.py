"""Tokenize the slices of a request, in this process or in worker processes.

The content of a shard must depend on the request alone. So every worker computes with one thread:
another number of threads may round differently and give other visual codes.
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

MAX_REASON_LENGTH = 500  # characters

SliceId = tuple[int, int]
"""The number of a source, and of a slice in it."""


@dataclass(frozen=True)
class TokenizerConfig:
    """How to load a `SampleTokenizer`. Can be pickled for worker processes."""

    name: str  # of the model
    vision: str | None = None  # its vision tokenizer; None finds the one that belongs to the model
    device: str | None = None  # of the vision tokenizer
    fps: float = DEFAULT_FPS  # frames per second at which videos are sampled

    def load(self) -> SampleTokenizer:
        """Load the tokenizer. Raises InputError like `SampleTokenizer.from_pretrained`."""
        return SampleTokenizer.from_pretrained(self.name, self.vision, self.device, self.fps)


@dataclass(frozen=True)
class PrepareJob:
    """Everything a worker needs to write shards."""

    sources: tuple[Source, ...]
    folder: Path
    tokenizer_config: TokenizerConfig
    digest: str  # of the request

    def shard_path(self, slice_id: SliceId) -> Path:
        """The shard file of a slice."""
        return self.folder / shard_file_name(*slice_id)


def process_slices(
    job: PrepareJob, tokenizer: SampleTokenizer, slices: Sequence[SliceId]
) -> Iterator[None]:
    """Process slices in this process; yields after each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for slice_id in slices:
            _process_slice(job, tokenizer, slice_id)
            yield
    finally:
        torch.set_num_threads(threads)


def process_slices_in_parallel(
    job: PrepareJob, slices: Sequence[SliceId], num_workers: int
) -> Iterator[None]:
    """Process slices in worker processes; yields after each. Raises InputError if a worker dies."""
    context = multiprocessing.get_context("spawn")  # forking is unsafe with PyTorch's threads
    pool = ProcessPoolExecutor(
        min(num_workers, len(slices) or 1), context, _Worker.initialize, (job,)
    )
    try:
        for future in as_completed([pool.submit(_Worker.process, each) for each in slices]):
            future.result()
            yield
    except BrokenProcessPool:
        raise InputError(
            "a worker process died, possibly for lack of memory; run the command again with fewer "
            "workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """State of a worker process."""

    job: PrepareJob
    tokenizer: SampleTokenizer

    @classmethod
    def initialize(cls, job: PrepareJob) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
        threading.Thread(target=_exit_with_parent, daemon=True).start()
        torch.set_num_threads(1)
        cls.job, cls.tokenizer = job, job.tokenizer_config.load()

    @classmethod
    def process(cls, slice_id: SliceId) -> None:
        _process_slice(cls.job, cls.tokenizer, slice_id)


def _exit_with_parent() -> None:
    """Exit when the parent process ends; otherwise a killed parent leaves its workers running."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _process_slice(job: PrepareJob, tokenizer: SampleTokenizer, slice_id: SliceId) -> None:
    """Tokenize the samples of a slice and write its shard."""
    source = job.sources[slice_id[0]]
    documents: list[TokenizedDocument] = []
    skipped: list[SkippedSample] = []
    for sample in _samples(source, slice_id[1]):
        document = _tokenize(tokenizer, sample)
        if isinstance(document, str):
            skipped.append(SkippedSample(source.path.as_posix(), sample.key, document))
        else:
            documents.append(document)
    write_shard(job.shard_path(slice_id), job.digest, documents, skipped)


def _samples(source: Source, index: int) -> Iterator[LazySample]:
    """The samples of a slice. If the source is corrupt, one more sample reports that when read.

    Raises InputError on an error of the operating system, which may not occur in the next run.
    """
    try:
        yield from source.samples(index)
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{source.path}: cannot be read ({error.strerror})") from None
        yield LazySample(f"the rest of slice {index}", partial(_raise_corrupt, error))


def _raise_corrupt(error: Exception) -> Sample:
    raise InputError(f"corrupt or truncated ({type(error).__name__}: {error})")


def _tokenize(tokenizer: SampleTokenizer, sample: LazySample) -> TokenizedDocument | str:
    """The document of a sample, or the reason to skip it."""
    try:
        return tokenizer.tokenize(sample.read())
    except InputError as error:
        return _one_line(error)
    except (MemoryError, torch.OutOfMemoryError):
        raise  # not caused by the sample alone
    except (
        Exception
    ) as error:  # invalid files raise all kinds of errors in image and video libraries
        return f"{type(error).__name__}: {_one_line(error)}"[:MAX_REASON_LENGTH]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_REASON_LENGTH]
