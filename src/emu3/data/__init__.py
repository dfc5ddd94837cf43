"""Training data: from images, videos and texts to shards of token ids, and from shards to packed
rows.

Two pipelines meet in `dataset`. `emu3 prepare` runs sources → samples → tokenization → shards;
start with `prepare`. Training runs `TokenDataset` → mixture → packing → rows; start with `loader`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu3.lazy import lazy_exports

if TYPE_CHECKING:
    from emu3.data.dataset import TokenDataset
    from emu3.data.discovery import find_sources
    from emu3.data.loader import PackedLoader
    from emu3.data.packing import PackedRow
    from emu3.data.prepare import PrepareResult, prepare_dataset
    from emu3.data.samples import Sample
    from emu3.data.tokenization import SampleTokenizer, TokenizedDocument
    from emu3.data.workers import TokenizerConfig

__all__ = [
    "PackedLoader",
    "PackedRow",
    "PrepareResult",
    "Sample",
    "SampleTokenizer",
    "TokenDataset",
    "TokenizedDocument",
    "TokenizerConfig",
    "find_sources",
    "prepare_dataset",
]

_MODULES = {
    "PackedLoader": "loader",
    "PackedRow": "packing",
    "PrepareResult": "prepare",
    "Sample": "samples",
    "SampleTokenizer": "tokenization",
    "TokenDataset": "dataset",
    "TokenizedDocument": "tokenization",
    "TokenizerConfig": "workers",
    "find_sources": "discovery",
    "prepare_dataset": "prepare",
}

__getattr__ = lazy_exports(__name__, _MODULES)
