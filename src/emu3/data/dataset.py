"""Read a folder written by `emu3 prepare`: tokenized documents by number.

`index.json` holds the request and, once the folder is complete, its shards. Shards are
memory-mapped: opening a data set reads headers and document ends, and a document reads only its own
pages.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from emu3.config import read_json
from emu3.data.shards import map_shard, read_shard_summary
from emu3.data.token_roles import ROLE_NAMES
from emu3.data.tokenization import TokenizedDocument, text_tokenizer_fingerprint
from emu3.errors import InputError
from emu3.processing.tokenizer import TextTokenizer

INDEX_FILE = "index.json"
FORMAT_VERSION = 1


def shard_file_name(source: int, index: int) -> str:
    """The file name for slice `index` of a source."""
    return f"{source:05d}-{index:06d}.safetensors"


def request_digest(request: Mapping[str, Any]) -> str:
    """A short hash of a request; each shard holds the hash of the request that produced it."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TokenDataset:
    """Tokenized documents by number, in the order of their sources."""

    folder: Path
    index: Mapping[str, Any]
    shards: Sequence[Mapping[str, Tensor]]
    shard_roles: Sequence[Set[int]]  # the roles that occur in each shard
    first_documents: Sequence[int]  # number of each shard's first document, then the total

    @classmethod
    def open(cls, folder: Path, text: TextTokenizer | None = None) -> Self:
        """Open a folder written by `emu3 prepare`.

        With `text`, also check that its ids are those of this tokenizer. Raises InputError if the
        folder is no data set or not complete, if a shard is missing, corrupt or from another
        request, or if the vocabulary differs.
        """
        index = read_index(folder)
        if text is not None:
            _check_vocabulary(folder, index["request"]["model"], text)
        if "shards" not in index:
            raise InputError(f"{folder}: not complete; run the same `emu3 prepare` again")
        digest = request_digest(index["request"])
        shards, roles = [], []
        for name, documents in index["shards"].items():
            summary = read_shard_summary(folder / name)
            if summary.request != digest or summary.samples != documents:
                raise InputError(
                    f"{folder / name}: produced by another request than the index; remove it and "
                    "run the same `emu3 prepare` again"
                )
            shards.append(map_shard(folder / name))
            roles.append({role for role, name in enumerate(ROLE_NAMES) if summary.ids[name]})
        first_documents = [0, *accumulate(len(shard["ends"]) for shard in shards)]
        return cls(folder, index, shards, roles, first_documents)

    def __len__(self) -> int:
        return self.first_documents[-1]

    def __getitem__(self, number: int) -> TokenizedDocument:
        _, shard, start, stop = self._locate(number)
        return TokenizedDocument(
            shard["ids"][start:stop].long(), shard["roles"][start:stop].clone()
        )

    def document_length(self, number: int) -> int:
        """The number of token ids of a document, without reading them."""
        *_, start, stop = self._locate(number)
        return stop - start

    def has_only_role(self, number: int, role: int) -> bool:
        """Whether all ids of a document have one role; often known from the shard's metadata."""
        at, shard, start, stop = self._locate(number)
        return self.shard_roles[at] == {role} or bool((shard["roles"][start:stop] == role).all())

    @property
    def lengths(self) -> Tensor:
        """The number of token ids of every document, [len(self)] int64."""
        ends = (shard["ends"] for shard in self.shards)
        lengths = (each.diff(prepend=each.new_zeros(1)) for each in ends)
        return torch.cat([torch.empty(0, dtype=torch.long), *lengths])

    @property
    def id_counts(self) -> dict[str, int]:
        """The number of token ids by role name."""
        return {name: self.index["ids"][name] for name in ROLE_NAMES}

    def _locate(self, number: int) -> tuple[int, Mapping[str, Tensor], int, int]:
        """Shard number, shard, and start and end in the shard of a document."""
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {len(self)}")
        at = bisect_right(self.first_documents, number) - 1
        shard, offset = self.shards[at], number - self.first_documents[at]
        start = int(shard["ends"][offset - 1]) if offset else 0
        return at, shard, start, int(shard["ends"][offset])


def read_index(folder: Path) -> dict[str, Any]:
    """Read `index.json`. Raises InputError if there is none or its version is not supported."""
    path = folder / INDEX_FILE
    if not path.exists():
        raise InputError(f"{folder}: no {INDEX_FILE}; create a data set with `emu3 prepare`")
    index = read_json(path)
    if index.get("version") != FORMAT_VERSION or "model" not in index.get("request", {}):
        raise InputError(
            f"{path}: version {index.get('version')!r} is not supported, only {FORMAT_VERSION}; "
            "run `emu3 prepare` again"
        )
    return index


def _check_vocabulary(folder: Path, found: Mapping[str, Any], text: TextTokenizer) -> None:
    for name, expected in text_tokenizer_fingerprint(text).items():
        if found.get(name) != expected:
            raise InputError(
                f"{folder}: prepared with another vocabulary ({name.replace('_', ' ')} "
                f"{found.get(name)}, the model has {expected}); prepare the data with this model"
            )
