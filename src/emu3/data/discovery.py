"""Find the sources in files and folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from emu3.data.parquet import ColumnNames, ParquetSource, SavedDatasetSource
from emu3.data.sources import SAMPLES_PER_SLICE, FolderSource, JsonlSource, Source
from emu3.data.webdataset import TAR_SUFFIXES, TarSource
from emu3.errors import InputError

FILE_SUFFIXES = (".jsonl", ".parquet", *TAR_SUFFIXES)


def find_sources(
    paths: Sequence[Path],
    columns: ColumnNames | None = None,
    samples_per_slice: int = SAMPLES_PER_SLICE,
) -> list[Source]:
    """The sources of files and folders, in the given order.

    A file is JSONL, parquet or tar, by its suffix. A folder is one of these, in this order: a data
    set written by `save_to_disk`; a folder that directly holds files of one of these kinds, each of
    which is a source; a folder of images, videos and texts.

    Raises InputError if a path is none of these, if a folder holds files of several kinds, or if a
    path is given twice.
    """
    columns = columns or ColumnNames()
    if samples_per_slice < 1:
        raise InputError(f"{samples_per_slice} samples per slice: at least 1 is required")
    if len({path.resolve() for path in paths}) != len(paths):
        raise InputError("a source is given twice; use the weights of a mixture to repeat it")
    return [source for path in paths for source in _sources(path, columns, samples_per_slice)]


def _sources(path: Path, columns: ColumnNames, samples_per_slice: int) -> Iterator[Source]:
    if path.is_file():
        yield _file_source(path, columns, samples_per_slice)
    elif not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    elif (path / "dataset_dict.json").exists():
        raise InputError(f"{path}: holds several splits; give one, such as {path / 'train'}")
    elif (path / "state.json").exists() and (path / "dataset_info.json").exists():
        yield SavedDatasetSource.open(path, columns, samples_per_slice)
    else:
        files = {
            file: _known_suffix(file) for file in sorted(path.iterdir()) if _known_suffix(file)
        }
        if len(set(files.values())) > 1:
            found = " and ".join(sorted(set(files.values())))
            raise InputError(f"{path}: holds {found} files; give the files to use by name")
        if files:
            for file in files:
                yield _file_source(file, columns, samples_per_slice)
        else:
            yield FolderSource.open(path, samples_per_slice)


def _known_suffix(path: Path) -> str:
    """The suffix in `FILE_SUFFIXES` of a file; empty if it has none of them."""
    if path.name.startswith(".") or not path.is_file():
        return ""
    return next((suffix for suffix in FILE_SUFFIXES if path.name.lower().endswith(suffix)), "")


def _file_source(path: Path, columns: ColumnNames, samples_per_slice: int) -> Source:
    suffix = _known_suffix(path)
    if suffix == ".jsonl":
        return JsonlSource.open(path, samples_per_slice)
    if suffix == ".parquet":
        return ParquetSource.open(path, columns)
    if suffix:
        return TarSource(path)
    raise InputError(
        f"{path}: not a source; expected a folder, or a file that ends in "
        f"{', '.join(FILE_SUFFIXES)}"
    )
