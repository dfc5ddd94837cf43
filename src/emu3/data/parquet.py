"""Tables of Hugging Face `datasets`: parquet files, and folders made by `save_to_disk`.

Columns `text`, `image` and `turns` are read, or others that stand for the first two. Further
columns are left alone. Pictures are bytes as they were stored: nothing decodes them on the way.
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

BATCH_ROWS = 64  # rows in hand at a time


@dataclass(frozen=True)
class ColumnNames:
    """What the columns of a table are called. `turns` has no other name."""

    text: str = "text"
    image: str = "image"

    def found_in(self, path: Path, names: list[str]) -> dict[str, str]:
        """Our keys to the columns that a table has of them.

        Raises InputError where one that was asked for by name is missing, or all are.
        """
        pairs = {"text": self.text, "image": self.image, "turns": "turns"}
        held = {key: name for key, name in pairs.items() if name in names}
        lost = [name for key, name in pairs.items() if key not in held and name != key]
        if lost or not held.keys() - {"image"}:
            wanted = ", ".join(lost) or "text or turns"
            raise InputError(f"{path}: no column {wanted}; it has {', '.join(names)}")
        return held


@dataclass(frozen=True)
class ParquetSource:
    """One parquet file. A slice is a row group."""

    path: Path
    columns: tuple[tuple[str, str], ...]  # our key, their name
    num_slices: int

    @classmethod
    def open(cls, path: Path, columns: ColumnNames) -> ParquetSource:
        """Read the file's footer; raises InputError on one that is broken."""
        file = _parquet(path)
        held = columns.found_in(path, file.schema_arrow.names)
        return cls(path, tuple(held.items()), file.num_row_groups)

    def fingerprint(self) -> dict[str, object]:
        """The file's size, and the columns that are read."""
        return {
            "kind": "parquet",
            "bytes": self.path.stat().st_size,
            "columns": dict(self.columns),
        }

    def samples(self, index: int) -> Iterator[LazySample]:
        """Keys are row numbers within the file, from 0."""
        file = _parquet(self.path)
        row = sum(file.metadata.row_group(group).num_rows for group in range(index))
        names = [name for _, name in self.columns]
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[index], columns=names):
            for record in batch.to_pylist():
                yield _found(self.path, row, record, self.columns)
                row += 1


@dataclass(frozen=True)
class SavedDatasetSource:
    """A folder made by `Dataset.save_to_disk`. A slice is so many rows."""

    path: Path
    columns: tuple[tuple[str, str], ...]
    rows: int
    made_of: str  # the fingerprint that `datasets` keeps of it
    per_slice: int

    @classmethod
    def open(
        cls, path: Path, columns: ColumnNames, per_slice: int = SAMPLES_PER_SLICE
    ) -> SavedDatasetSource:
        """Map the folder's files; raises InputError where `datasets` cannot."""
        table = _saved(path)
        held = columns.found_in(path, table.column_names)
        return cls(path, tuple(held.items()), len(table), table._fingerprint, per_slice)

    @property
    def num_slices(self) -> int:
        """One for so many rows."""
        return -(-self.rows // self.per_slice)

    def fingerprint(self) -> dict[str, object]:
        """The rows, the fingerprint of `datasets`, and the columns that are read."""
        return {
            "kind": "saved dataset",
            "rows": self.rows,
            "made_of": self.made_of,
            "columns": dict(self.columns),
            "per_slice": self.per_slice,
        }

    def samples(self, index: int) -> Iterator[LazySample]:
        """Keys are row numbers, from 0."""
        # As Arrow: in any other format `datasets` would decode the pictures.
        table = _saved(self.path).select_columns([name for _, name in self.columns])
        arrow = table.with_format("arrow")
        last = min(self.rows, (index + 1) * self.per_slice)
        for start in range(index * self.per_slice, last, BATCH_ROWS):
            records = arrow[start : min(last, start + BATCH_ROWS)].to_pylist()
            for offset, record in enumerate(records):
                yield _found(self.path, start + offset, record, self.columns)


def _found(
    path: Path, row: int, record: Mapping[str, Any], columns: tuple[tuple[str, str], ...]
) -> LazySample:
    renamed = {key: record[name] for key, name in columns if record[name] is not None}
    return LazySample(f"row {row}", partial(_read, path, row, renamed))


def _read(path: Path, row: int, record: dict[str, Any]) -> Sample:
    assert record.keys() <= set(KEYS)
    image = record.pop("image", None)
    picture = None if image is None else _image_file(path, row, image)
    return parse_record(record, path.parent, picture)


def _image_file(path: Path, row: int, value: object) -> ImageFile:
    """A cell of the kind that `datasets.Image` writes, bytes alone, or a path."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return ImageFile(path / f"row {row}", value)
    if isinstance(value, str):
        return ImageFile(path.parent / value)
    raise InputError("its picture is neither bytes nor a path")


def _parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("datasets", "data", "reading parquet files") from None
    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error})") from None


def _saved(path: Path) -> Any:
    datasets = _datasets()
    try:
        return datasets.Dataset.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: datasets cannot load it ({error})") from None


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "data", "reading a saved dataset") from None
    return datasets
