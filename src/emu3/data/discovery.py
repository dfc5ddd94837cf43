"""From a path that a person names to the sources it means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from emu3.data.parquet import ColumnNames, ParquetSource, SavedDatasetSource
from emu3.data.sources import SAMPLES_PER_SLICE, FolderSource, JsonlSource, Source
from emu3.data.webdataset import TAR_SUFFIXES, TarSource
from emu3.errors import InputError

FILE_SUFFIXES = (".jsonl", ".parquet", *TAR_SUFFIXES)


def find_sources(
    paths: Sequence[Path], columns: ColumnNames | None = None, per_slice: int = SAMPLES_PER_SLICE
) -> list[Source]:
    """The sources of files and folders, in their order.

    A file is JSONL, parquet or a tar, by its name. A folder is what `save_to_disk` made; or else
    all files of such a kind directly in it; or else pictures and texts. Raises InputError on what
    is none of these, on a folder of several kinds, and on a path named twice.
    """
    columns = columns or ColumnNames()
    if per_slice < 1:
        raise InputError(f"{per_slice} samples a slice: at least 1")
    if len({path.resolve() for path in paths}) != len(paths):
        raise InputError("the same source is named twice; a mixture's weights repeat one instead")
    return [source for path in paths for source in _sources(path, columns, per_slice)]


def _sources(path: Path, columns: ColumnNames, per_slice: int) -> Iterator[Source]:
    if path.is_file():
        yield _of_file(path, columns, per_slice)
    elif not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    elif (path / "dataset_dict.json").exists():
        raise InputError(f"{path}: holds several splits; name one, such as {path / 'train'}")
    elif (path / "state.json").exists() and (path / "dataset_info.json").exists():
        yield SavedDatasetSource.open(path, columns, per_slice)
    else:
        files = {file: _kind(file) for file in sorted(path.iterdir()) if _kind(file)}
        if len(set(files.values())) > 1:
            found = " and ".join(sorted(set(files.values())))
            raise InputError(f"{path}: holds {found} files; name those that are meant")
        if files:
            for file in files:
                yield _of_file(file, columns, per_slice)
        else:
            yield FolderSource.open(path, per_slice)


def _kind(path: Path) -> str:
    """The ending that says what a file is; empty where it is no source."""
    if path.name.startswith(".") or not path.is_file():
        return ""
    return next((kind for kind in FILE_SUFFIXES if path.name.lower().endswith(kind)), "")


def _of_file(path: Path, columns: ColumnNames, per_slice: int) -> Source:
    kind = _kind(path)
    if kind == ".jsonl":
        return JsonlSource.open(path, per_slice)
    if kind == ".parquet":
        return ParquetSource.open(path, columns)
    if kind:
        return TarSource(path)
    raise InputError(
        f"{path}: not a source; expected a name in {', '.join(FILE_SUFFIXES)}, or a folder"
    )
