"""Tables of Hugging Face `datasets`: parquet files, and folders written by `save_to_disk`.

The columns `text`, `image` and `turns` are read; the first two may have other names. Other columns
are ignored. Images stay encoded bytes until the sample is tokenized.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from emu3.data.samples import KEYS, ImageFile, Sample, parse_record
from emu3.data.sources import SAMPLES_PER_SLICE, LazySample
from emu3.errors import InputError, MissingExtraError

BATCH_ROWS = 64  # rows in memory at a time


@dataclass(frozen=True)
class ColumnNames:
    """The names of the text and image columns in a table. `turns` cannot be renamed."""

    text: str = "text"
    image: str = "image"

    def find(self, path: Path, names: list[str]) -> dict[str, str]:
        """Sample keys and their columns in a table with the columns `names`.

        Raises InputError if a column with a custom name is missing, or both `text` and `turns` are.
        """
        columns = {"text": self.text, "image": self.image, "turns": "turns"}
        found = {key: name for key, name in columns.items() if name in names}
        missing = [name for key, name in columns.items() if key not in found and name != key]
        if missing or not found.keys() - {"image"}:
            wanted = ", ".join(missing) or "text or turns"
            raise InputError(f"{path}: no column {wanted}; its columns are {', '.join(names)}")
        return found


@dataclass(frozen=True)
class ParquetSource:
    """One parquet file. A slice is a row group."""

    path: Path
    columns: tuple[tuple[str, str], ...]  # sample key, column name
    num_slices: int

    @classmethod
    def open(cls, path: Path, columns: ColumnNames) -> ParquetSource:
        """Read the footer of the file. Raises InputError if it is invalid."""
        file = _open_parquet(path)
        found = columns.find(path, file.schema_arrow.names)
        return cls(path, tuple(found.items()), file.num_row_groups)

    def fingerprint(self) -> dict[str, object]:
        """The size of the file, and the columns that are read."""
        return {
            "kind": "parquet",
            "bytes": self.path.stat().st_size,
            "columns": dict(self.columns),
        }

    def samples(self, index: int) -> Iterator[LazySample]:
        """The samples of one row group; keys are row numbers in the file, from 0."""
        file = _open_parquet(self.path)
        row = sum(file.metadata.row_group(group).num_rows for group in range(index))
        names = [name for _, name in self.columns]
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[index], columns=names):
            for record in batch.to_pylist():
                yield _lazy_sample(self.path, row, record, self.columns)
                row += 1


@dataclass(frozen=True)
class SavedDatasetSource:
    """A folder written by `Dataset.save_to_disk`. A slice is `samples_per_slice` rows."""

    path: Path
    columns: tuple[tuple[str, str], ...]  # sample key, column name
    rows: int
    datasets_fingerprint: str  # computed and stored by `datasets`
    samples_per_slice: int

    @classmethod
    def open(
        cls, path: Path, columns: ColumnNames, samples_per_slice: int = SAMPLES_PER_SLICE
    ) -> SavedDatasetSource:
        """Open the folder with `datasets`. Raises InputError if that fails."""
        table = _load_saved_dataset(path)
        found = columns.find(path, table.column_names)
        return cls(path, tuple(found.items()), len(table), table._fingerprint, samples_per_slice)

    @property
    def num_slices(self) -> int:
        """One slice per `samples_per_slice` rows."""
        return -(-self.rows // self.samples_per_slice)

    def fingerprint(self) -> dict[str, object]:
        """The number of rows, the fingerprint of `datasets`, and the columns that are read."""
        return {
            "kind": "saved dataset",
            "rows": self.rows,
            "made_of": self.datasets_fingerprint,
            "columns": dict(self.columns),
            "per_slice": self.samples_per_slice,
        }

    def samples(self, index: int) -> Iterator[LazySample]:
        """The samples of one slice; keys are row numbers, from 0."""
        # In Arrow format, because `datasets` decodes images in all others.
        table = _load_saved_dataset(self.path).select_columns([name for _, name in self.columns])
        arrow = table.with_format("arrow")
        last = min(self.rows, (index + 1) * self.samples_per_slice)
        for start in range(index * self.samples_per_slice, last, BATCH_ROWS):
            records = arrow[start : min(last, start + BATCH_ROWS)].to_pylist()
            for offset, record in enumerate(records):
                yield _lazy_sample(self.path, start + offset, record, self.columns)


def _lazy_sample(
    path: Path, row: int, record: Mapping[str, Any], columns: tuple[tuple[str, str], ...]
) -> LazySample:
    renamed = {key: record[name] for key, name in columns if record[name] is not None}
    return LazySample(f"row {row}", partial(_read, path, row, renamed))


def _read(path: Path, row: int, record: dict[str, Any]) -> Sample:
    assert record.keys() <= set(KEYS)
    cell = record.pop("image", None)
    image = None if cell is None else _image_file(path, row, cell)
    return parse_record(record, path.parent, image)


def _image_file(path: Path, row: int, cell: object) -> ImageFile:
    """The image of a cell: a `datasets.Image`, encoded bytes, or a path."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return ImageFile(path / f"row {row}", cell)
    if isinstance(cell, str):
        return ImageFile(path.parent / cell)
    raise InputError("the image column has neither bytes nor a path")


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("datasets", "data", "reading parquet files") from None
    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error})") from None


def _load_saved_dataset(path: Path) -> Any:
    datasets = _import_datasets()
    try:
        return datasets.Dataset.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: datasets cannot load it ({error})") from None


def _import_datasets() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "data", "reading a saved dataset") from None
    return datasets
