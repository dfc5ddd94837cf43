"""Shard files: the documents of one slice, in safetensors format.

    ids    [N] int32    token ids of all documents, concatenated
    roles  [N] uint8    the role of each token id
    ends   [D] int64    the end of each document in `ids`

The metadata of the file holds, as JSON, the digest of the request that produced it and the skipped
samples with reasons. A shard is written atomically and is the only output of a slice.
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

METADATA_KEY = "emu3.data"  # a single key, because safetensors does not keep the order of keys
TENSOR_DTYPES = {"ids": torch.int32, "roles": torch.uint8, "ends": torch.int64}


@dataclass(frozen=True)
class SkippedSample:
    """A sample that could not be used, and the reason."""

    source: str
    key: str
    reason: str


@dataclass(frozen=True)
class ShardSummary:
    """The metadata of a shard."""

    request: str  # digest, see `emu3.data.dataset.request_digest`
    samples: int
    ids: dict[str, int]  # number of token ids by role name
    skipped: tuple[SkippedSample, ...]


def write_shard(
    path: Path,
    request: str,
    documents: Sequence[TokenizedDocument],
    skipped: Sequence[SkippedSample],
) -> None:
    """Write a shard atomically. Equal documents give equal bytes."""
    ids = [document.ids.to(torch.int32) for document in documents]
    roles = torch.cat([torch.empty(0, dtype=torch.uint8), *(d.roles for d in documents)])
    ends = torch.tensor([len(each) for each in ids], dtype=torch.int64).cumsum(0)
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
    """Read the metadata of a shard from its header. Raises InputError on an invalid shard."""
    try:
        with safe_open(path, "pt") as file:
            values = json.loads((file.metadata() or {})[METADATA_KEY])
            skipped = tuple(SkippedSample(**each) for each in values.pop("skipped"))
            return ShardSummary(**values, skipped=skipped)
    except FileNotFoundError:
        raise InputError(f"{path}: no such shard; run the same `emu3 prepare` again") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: corrupt or truncated ({error})") from None
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not a shard written by `emu3 prepare`") from None


def map_shard(path: Path) -> dict[str, Tensor]:
    """Memory-map the tensors of a shard. Raises InputError if they are not valid."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: corrupt or truncated ({error})") from None
    if {name: tensor.dtype for name, tensor in tensors.items()} != TENSOR_DTYPES:
        found = ", ".join(f"{name} {tensor.dtype}" for name, tensor in sorted(tensors.items()))
        raise InputError(f"{path}: unexpected tensors in a shard: {found}")
    ids, roles, ends = (tensors[name] for name in TENSOR_DTYPES)
    lengths = ends.diff(prepend=ends.new_zeros(1))
    stop = int(ends[-1]) if len(ends) else 0
    if len(ids) != stop or len(roles) != stop or (lengths < 1).any():
        raise InputError(f"{path}: inconsistent; the document ends do not match the token ids")
    return tensors
