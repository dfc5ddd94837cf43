"""One shard: the documents of a slice in a safetensors file, written whole or not at all.

    ids    [N] int32    all documents, end to end
    roles  [N] uint8    what each id is
    ends   [D] int64    where each document ends

The file's metadata holds, as JSON, the digest of the request that made it, and the samples of the
slice that were skipped, with reasons. So a shard is all that a run leaves behind of a slice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emu3.data.token_roles import ROLE_NAMES
from emu3.data.tokenization import TokenizedDocument
from emu3.errors import InputError
from emu3.files import atomic_write

METADATA_KEY = "emu3.data"  # one key alone: the order of several would differ from run to run
TENSOR_DTYPES = {"ids": torch.int32, "roles": torch.uint8, "ends": torch.int64}


@dataclass(frozen=True)
class SkippedSample:
    """A sample that could not be used, and why."""

    source: str
    key: str
    reason: str


@dataclass(frozen=True)
class ShardSummary:
    """What is in a shard."""

    request: str  # the digest of what was asked for
    samples: int
    ids: dict[str, int]  # by the name of their role
    skipped: tuple[SkippedSample, ...]


def write_shard(
    path: Path,
    request: str,
    documents: Sequence[TokenizedDocument],
    skipped: Sequence[SkippedSample],
) -> None:
    """Write a shard. The same documents give the same bytes."""
    ids = [document.ids.to(torch.int32) for document in documents]
    roles = torch.cat([torch.empty(0, dtype=torch.uint8), *(d.roles for d in documents)])
    ends = torch.tensor([len(part) for part in ids], dtype=torch.int64).cumsum(0)
    counts = torch.bincount(roles.long(), minlength=len(ROLE_NAMES)).tolist()
    summary = ShardSummary(
        request, len(documents), dict(zip(ROLE_NAMES, counts, strict=True)), tuple(skipped)
    )
    tensors = {
        "ids": torch.cat([torch.empty(0, dtype=torch.int32), *ids]),
        "roles": roles,
        "ends": ends,
    }
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA_KEY: json.dumps(asdict(summary))})


def read_shard_summary(path: Path) -> ShardSummary:
    """What is in a shard, from its header alone; raises InputError on what is none."""
    try:
        with safe_open(path, "pt") as file:
            marks = file.metadata() or {}
            said = json.loads(marks[METADATA_KEY])
            skipped = tuple(SkippedSample(**each) for each in said.pop("skipped"))
            return ShardSummary(**said, skipped=skipped)
    except FileNotFoundError:
        raise InputError(f"{path}: no such shard") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: broken or cut short ({error})") from None
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not a shard that `emu3 prepare` wrote") from None


def map_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard, mapped and not read; raises InputError on what they cannot be."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: broken or cut short ({error})") from None
    if {name: tensor.dtype for name, tensor in tensors.items()} != TENSOR_DTYPES:
        raise InputError(f"{path}: its tensors are {sorted(tensors)}, or of other types")
    ids, roles, ends = (tensors[name] for name in TENSOR_DTYPES)
    lengths = ends.diff(prepend=ends.new_zeros(1))
    stop = int(ends[-1]) if len(ends) else 0
    if len(ids) != stop or len(roles) != stop or (lengths < 1).any():
        raise InputError(f"{path}: its documents do not end where its ids do")
    return tensors
