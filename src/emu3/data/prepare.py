"""Sources to a store, slice by slice, in as many processes as one likes.

A slice becomes a shard, whole or not at all, and what is in it depends on the request alone. So a
run may be killed at any moment: the next one keeps the shards that are there and makes the others.
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
    """What came of a run, earlier ones over the same request included."""

    samples: int
    ids: dict[str, int]  # by the name of their role
    skipped: int


def prepare(
    sources: Sequence[Source],
    folder: Path,
    model: TokenizerConfig,
    workers: int = 1,
    on_slices: Callable[[int], None] = lambda newly_done: None,
) -> PrepareResult:
    """Write the store of some sources, or go on with it.

    `on_slices` hears how many slices are newly done, first of all how many an earlier run did. With
    one worker the work is done in this process. Samples that cannot be used are skipped; the
    store's `skipped.jsonl` says which and why. Raises InputError on a folder that holds something
    else, or a store of another request, and where a worker dies.
    """
    if workers < 1:
        raise InputError(f"{workers} workers: at least 1")
    if not sources:
        raise InputError("no sources; name a file or a folder")
    writer = model.open()
    request = _request(sources, writer)
    made_with = {"model": model.name, "vision": model.vision}  # names may change, ids do not
    _begin(folder, request, made_with)
    job = PrepareJob(tuple(sources), folder, model, request_digest(request))
    parts = [(at, index) for at, source in enumerate(sources) for index in range(source.num_slices)]
    left = [part for part in parts if not _is_done(job, part)]
    on_slices(len(parts) - len(left))
    for _ in (
        process_slices(job, writer, left)
        if workers == 1
        else process_slices_in_parallel(job, left, workers)
    ):
        on_slices(1)
    return _finish(job, read_index(folder), parts)


def _request(sources: Sequence[Source], writer: SampleTokenizer) -> dict[str, Any]:
    """All that the shards depend on, as JSON."""
    described = [{"path": source.path.as_posix(), **source.fingerprint()} for source in sources]
    request = {"model": writer.fingerprint(), "sources": described}
    result: dict[str, Any] = json.loads(json.dumps(request))  # as it will be read back
    return result


def _begin(folder: Path, request: dict[str, Any], made_with: dict[str, Any]) -> None:
    """Make the folder, or see that it is this request's."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder")
    if not folder.parent.is_dir():
        raise InputError(f"{folder.parent}: no such folder; create it first")
    if not (folder / INDEX_FILE).exists():
        if folder.exists() and any(not name.startswith(".") for name in os.listdir(folder)):
            raise InputError(f"{folder}: holds other files; name a new folder")
        folder.mkdir(exist_ok=True)
        with atomic_write(folder / INDEX_FILE) as temporary:
            write_json(
                temporary, {"version": FORMAT_VERSION, "request": request, "made_with": made_with}
            )
        return
    differs = list(_differences(read_index(folder)["request"], request))
    if differs:
        raise InputError(
            f"{folder}: holds a store of another request ({'; '.join(differs[:3])}); name another "
            "folder, or remove this one"
        )


def _differences(old: object, new: object, at: str = "") -> Iterator[str]:
    """Where two requests differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{at} {key}".strip())
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, now) in enumerate(zip(old, new, strict=True), 1):
            yield from _differences(before, now, f"{at} {number}")
    elif isinstance(old, list) and isinstance(new, list):
        yield f"{at}: it has {len(old)}, now {len(new)}"
    elif old != new:
        yield f"{at}: it has {old}, now {new}"


def _is_done(job: PrepareJob, part: SliceId) -> bool:
    path = job.path(part)
    if not path.exists():
        return False
    try:
        return read_shard_summary(path).request == job.digest
    except InputError:  # of a power cut, say; it is made again
        return False


def _finish(job: PrepareJob, begun: dict[str, Any], parts: Sequence[SliceId]) -> PrepareResult:
    """Write what was skipped and the finished index; sweep up after runs that were killed."""
    summaries = {shard_file_name(*part): read_shard_summary(job.path(part)) for part in parts}
    skipped = [each for summary in summaries.values() for each in summary.skipped]
    with atomic_write(job.folder / SKIPPED_FILE) as temporary:
        lines = [json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in skipped]
        temporary.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    counts = _total_counts(list(summaries.values()))
    index = {
        **begun,
        "shards": {name: summary.samples for name, summary in summaries.items()},
        **asdict(counts),
    }
    with atomic_write(job.folder / INDEX_FILE) as temporary:
        write_json(temporary, index)
    for leftover in job.folder.glob(".*.part.*"):
        leftover.unlink(missing_ok=True)
    return counts


def _total_counts(summaries: Sequence[ShardSummary]) -> PrepareResult:
    ids: Counter[str] = Counter(dict.fromkeys(ROLE_NAMES, 0))
    for summary in summaries:
        ids.update(summary.ids)
    samples = sum(summary.samples for summary in summaries)
    return PrepareResult(samples, dict(ids), sum(len(summary.skipped) for summary in summaries))
