"""Tokenize sources into a token data set, slice by slice, in one or more processes.

Each slice becomes one shard, which is written atomically and depends on the request alone. So an
interrupted run can be resumed: the next one keeps the existing shards and writes the others.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emu3.checkpoints.loading import write_json
from emu3.data.dataset import (
    FORMAT_VERSION,
    INDEX_FILE,
    read_index,
    request_digest,
    shard_file_name,
)
from emu3.data.shards import ShardSummary, read_shard_summary
from emu3.data.sources import Source
from emu3.data.token_roles import ROLE_NAMES
from emu3.data.tokenization import SampleTokenizer
from emu3.data.workers import (
    PrepareJob,
    SliceId,
    TokenizerConfig,
    process_slices,
    process_slices_in_parallel,
)
from emu3.errors import InputError
from emu3.files import atomic_write

SKIPPED_FILE = "skipped.jsonl"


@dataclass(frozen=True)
class PrepareResult:
    """Counts over the whole data set, including shards of earlier runs."""

    samples: int
    ids: dict[str, int]  # number of token ids by role name
    skipped: int


def prepare_dataset(
    sources: Sequence[Source],
    folder: Path,
    tokenizer_config: TokenizerConfig,
    num_workers: int = 1,
    on_slices: Callable[[int], None] = lambda newly_done: None,
) -> PrepareResult:
    """Write the token data set of some sources, or resume writing it.

    Args:
        sources: see `emu3.data.discovery.find_sources`.
        folder: to create; it may hold an unfinished or finished data set of the same request.
        tokenizer_config: the model whose token ids are written.
        num_workers: processes; with one, the work is done in this process.
        on_slices: progress callback with the number of newly finished slices. The first call has
            the number of slices finished by earlier runs.

    Returns:
        The number of samples, token ids and skipped samples. Invalid samples are skipped, and
        `skipped.jsonl` in the folder gives the reasons.

    Raises:
        InputError: the folder holds other files or the data set of another request, a source cannot
            be read, or a worker process died.
    """
    if num_workers < 1:
        raise InputError(f"{num_workers} workers: at least 1 is required")
    if not sources:
        raise InputError("no sources; give a file or a folder")
    tokenizer = tokenizer_config.load()
    request = _request(sources, tokenizer)
    # Not part of the request: the same model may have several names.
    made_with = {"model": tokenizer_config.name, "vision": tokenizer_config.vision}
    _create_or_check_folder(folder, request, made_with)
    job = PrepareJob(tuple(sources), folder, tokenizer_config, request_digest(request))
    slices = [(n, index) for n, source in enumerate(sources) for index in range(source.num_slices)]
    remaining = [slice_id for slice_id in slices if not _is_done(job, slice_id)]
    on_slices(len(slices) - len(remaining))
    if num_workers == 1:
        finished = process_slices(job, tokenizer, remaining)
    else:
        finished = process_slices_in_parallel(job, remaining, num_workers)
    for _ in finished:
        on_slices(1)
    return _finish(job, read_index(folder), slices)


def _request(sources: Sequence[Source], tokenizer: SampleTokenizer) -> dict[str, Any]:
    """Everything the shards depend on, as JSON."""
    described = [{"path": source.path.as_posix(), **source.fingerprint()} for source in sources]
    request = {"model": tokenizer.fingerprint(), "sources": described}
    result: dict[str, Any] = json.loads(json.dumps(request))  # as read_index returns it
    return result


def _create_or_check_folder(
    folder: Path, request: dict[str, Any], made_with: dict[str, Any]
) -> None:
    """Create the folder with an index, or check that it belongs to the same request."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; choose a folder")
    if not folder.parent.is_dir():
        raise InputError(f"{folder.parent}: no such folder; create it first")
    if not (folder / INDEX_FILE).exists():
        if folder.exists() and any(not name.startswith(".") for name in os.listdir(folder)):
            raise InputError(f"{folder}: holds other files; choose a new folder")
        folder.mkdir(exist_ok=True)
        index = {"version": FORMAT_VERSION, "request": request, "made_with": made_with}
        with atomic_write(folder / INDEX_FILE) as temporary:
            write_json(temporary, index)
        return
    differences = list(_differences(read_index(folder)["request"], request))
    if differences:
        raise InputError(
            f"{folder}: holds the data set of another request ({'; '.join(differences[:3])}); "
            "choose another folder, or remove this one"
        )


def _differences(old: object, new: object, at: str = "") -> Iterator[str]:
    """Describe where two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{at} {key}".strip())
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, now) in enumerate(zip(old, new, strict=True), 1):
            yield from _differences(before, now, f"{at} {number}")
    elif isinstance(old, list) and isinstance(new, list):
        yield f"{at}: {len(old)} before, {len(new)} now"
    elif old != new:
        yield f"{at}: {old} before, {new} now"


def _is_done(job: PrepareJob, slice_id: SliceId) -> bool:
    path = job.shard_path(slice_id)
    if not path.exists():
        return False
    try:
        return read_shard_summary(path).request == job.digest
    except InputError:  # corrupt, for example after a power failure; written again
        return False


def _finish(job: PrepareJob, index: dict[str, Any], slices: Sequence[SliceId]) -> PrepareResult:
    """Write the skipped samples and the complete index; remove temporary files of killed runs."""
    summaries = {
        shard_file_name(*slice_id): read_shard_summary(job.shard_path(slice_id))
        for slice_id in slices
    }
    skipped = [each for summary in summaries.values() for each in summary.skipped]
    with atomic_write(job.folder / SKIPPED_FILE) as temporary:
        lines = [json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in skipped]
        temporary.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    result = _total(list(summaries.values()))
    complete = {
        **index,
        "shards": {name: summary.samples for name, summary in summaries.items()},
        **asdict(result),
    }
    with atomic_write(job.folder / INDEX_FILE) as temporary:
        write_json(temporary, complete)
    for leftover in job.folder.glob(".*.part.*"):
        leftover.unlink(missing_ok=True)
    return result


def _total(summaries: Sequence[ShardSummary]) -> PrepareResult:
    ids: Counter[str] = Counter(dict.fromkeys(ROLE_NAMES, 0))
    for summary in summaries:
        ids.update(summary.ids)
    samples = sum(summary.samples for summary in summaries)
    return PrepareResult(samples, dict(ids), sum(len(summary.skipped) for summary in summaries))
