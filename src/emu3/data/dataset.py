"""A folder of shards, read: documents by number.

`index.json` says what the shards were made of and how far they are. Shards are mapped into memory,
so opening a store reads headers and ends, and a document costs its own pages.
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
    """The file of a slice of a source."""
    return f"{source:05d}-{index:06d}.safetensors"


def request_digest(request: Mapping[str, Any]) -> str:
    """A short name for a request, which its shards carry."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TokenDataset:
    """Documents by number, in the order of their sources."""

    folder: Path
    index: Mapping[str, Any]
    shards: Sequence[Mapping[str, Tensor]]
    roles: Sequence[Set[int]]  # that there are in each shard
    firsts: Sequence[int]  # the number of each shard's first document, and their count

    @classmethod
    def open(cls, folder: Path, text: TextTokenizer | None = None) -> Self:
        """Open what `emu3 prepare` wrote; with `text`, only if it was written in its ids.

        Raises InputError on a folder that is none or not finished, on shards that are missing, cut
        short or of another request, and on ids of another vocabulary.
        """
        index = read_index(folder)
        if text is not None:
            _check_vocabulary(folder, index["request"]["model"], text)
        if "shards" not in index:
            raise InputError(f"{folder}: not finished; run the same `emu3 prepare` again")
        digest = request_digest(index["request"])
        shards, roles = [], []
        for name, documents in index["shards"].items():
            summary = read_shard_summary(folder / name)
            if summary.request != digest or summary.samples != documents:
                raise InputError(f"{folder / name}: made by another request than its index")
            shards.append(map_shard(folder / name))
            roles.append({role for role, name in enumerate(ROLE_NAMES) if summary.ids[name]})
        firsts = [0, *accumulate(len(shard["ends"]) for shard in shards)]
        return cls(folder, index, shards, roles, firsts)

    def __len__(self) -> int:
        return self.firsts[-1]

    def __getitem__(self, number: int) -> TokenizedDocument:
        _, shard, start, stop = self._place(number)
        return TokenizedDocument(
            shard["ids"][start:stop].long(), shard["roles"][start:stop].clone()
        )

    def document_length(self, number: int) -> int:
        """Ids of a document, without reading them."""
        *_, start, stop = self._place(number)
        return stop - start

    def has_only_role(self, number: int, role: int) -> bool:
        """Whether a document has no other role; of a shard that has no other, no page is read."""
        at, shard, start, stop = self._place(number)
        return self.roles[at] == {role} or bool((shard["roles"][start:stop] == role).all())

    @property
    def lengths(self) -> Tensor:
        """Ids of every document, [len(self)] int64."""
        ends = (shard["ends"] for shard in self.shards)
        return torch.cat([torch.empty(0, dtype=torch.long), *(_lengths(each) for each in ends)])

    @property
    def id_counts(self) -> dict[str, int]:
        """Ids by the name of their role."""
        return {name: self.index["ids"][name] for name in ROLE_NAMES}

    def _place(self, number: int) -> tuple[int, Mapping[str, Tensor], int, int]:
        """The shard of a document by number and itself, and where it begins and ends in it."""
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {len(self)}")
        at = bisect_right(self.firsts, number) - 1
        shard, place = self.shards[at], number - self.firsts[at]
        start = int(shard["ends"][place - 1]) if place else 0
        return at, shard, start, int(shard["ends"][place])


def _lengths(ends: Tensor) -> Tensor:
    return ends.diff(prepend=ends.new_zeros(1))


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a store; raises InputError where there is none that can be read."""
    path = folder / INDEX_FILE
    if not path.exists():
        raise InputError(f"{folder}: no {INDEX_FILE}; `emu3 prepare` makes such a folder")
    index = read_json(path)
    if index.get("version") != FORMAT_VERSION or "model" not in index.get("request", {}):
        raise InputError(
            f"{path}: version {index.get('version')!r}; this package reads {FORMAT_VERSION}"
        )
    return index


def _check_vocabulary(folder: Path, made_for: Mapping[str, Any], text: TextTokenizer) -> None:
    for name, ours in text_tokenizer_fingerprint(text).items():
        if made_for.get(name) != ours:
            shown = name.replace("_", " ")
            raise InputError(
                f"{folder}: its ids are of another vocabulary ({shown} {made_for.get(name)}, the "
                f"model's is {ours}); prepare the data with this model"
            )
