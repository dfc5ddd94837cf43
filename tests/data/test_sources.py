"""The same samples from every kind of source, with any slice size."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from emu3.data.discovery import find_sources
from emu3.data.parquet import ColumnNames
from emu3.data.samples import Sample
from emu3.data.sources import Source
from emu3.errors import InputError

TURNS = [{"question": "What?", "answer": "A fox."}]
RECORDS: list[dict[str, Any]] = [
    {"text": "only text", "image": None, "turns": None},
    {"text": "a grey square", "image": 1, "turns": None},
    {"text": None, "image": 2, "turns": TURNS},
    {"text": "a lighter one", "image": 3, "turns": None},
    {"text": "more text", "image": None, "turns": None},
]


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 8), (60 * number,) * 3).save(file, "png")
    return file.getvalue()


Content = tuple[str | None, bytes | None, tuple[tuple[str, str], ...]]


def content(sample: Sample) -> Content:
    image = None if sample.image is None else sample.image.open().convert("RGB").tobytes()
    return sample.text, image, sample.turns


def contents(sources: list[Source]) -> list[Content]:
    return [
        content(found.read())
        for source in sources
        for index in range(source.num_slices)
        for found in source.samples(index)
    ]


def expected() -> list[Content]:
    made = []
    for record in RECORDS:
        grey = record["image"] and bytes([60 * record["image"]]) * (16 * 8 * 3)
        turns = tuple((t["question"], t["answer"]) for t in record["turns"] or ())
        made.append((record["text"], grey, turns))
    return made


def jsonl(folder: Path) -> Path:
    lines = []
    for record in RECORDS:
        line = {key: value for key, value in record.items() if value is not None}
        if "image" in line:
            line["image"] = f"images/{line['image']}.png"
            path = folder / line["image"]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(record["image"]))
        lines.append(json.dumps(line))
    path = folder / "samples.jsonl"
    path.write_text("\n".join([lines[0], "", *lines[1:]]))  # a blank line, none at the end
    return path


def tar(folder: Path) -> Path:
    wds = pytest.importorskip("webdataset")
    path = folder / "samples.tar"
    with wds.TarWriter(str(path)) as file:
        for number, record in enumerate(RECORDS):
            parts: dict[str, Any] = {"__key__": f"in/{number:03d}"}
            if record["text"]:
                parts |= {"txt": record["text"], "json": {"url": "notes, not read"}}
            if record["turns"]:
                parts["json"] = {"turns": record["turns"]}
            if record["image"]:
                parts["png"] = png(record["image"])
            file.write(parts)
    return path


def table() -> Any:
    datasets = pytest.importorskip("datasets")
    rows = [
        {**r, "image": r["image"] and {"bytes": png(r["image"]), "path": None}} for r in RECORDS
    ]
    turn = {"question": datasets.Value("string"), "answer": datasets.Value("string")}
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "image": datasets.Image(),
            "turns": datasets.List(turn),
            "other": datasets.Value("int32"),
        }
    )
    return datasets.Dataset.from_list([{**row, "other": 1} for row in rows], features=features)


def parquet(folder: Path) -> Path:
    table().to_parquet(folder / "samples.parquet", batch_size=2)
    return folder / "samples.parquet"


def saved(folder: Path) -> Path:
    table().save_to_disk(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize("make", [jsonl, tar, parquet, saved])
@pytest.mark.parametrize("samples_per_slice", [1, 2, 100])
def test_every_source_gives_the_same_samples(
    make: Callable[[Path], Path], samples_per_slice: int, tmp_path: Path
) -> None:
    sources = find_sources([make(tmp_path)], samples_per_slice=samples_per_slice)
    assert contents(sources) == expected()
    assert contents(pickle.loads(pickle.dumps(sources))) == expected()
    json.dumps([source.fingerprint() for source in sources])


def test_parquet_slices_are_row_groups(tmp_path: Path) -> None:
    (source,) = find_sources([parquet(tmp_path)])
    assert source.num_slices == 3
    assert [found.key for found in source.samples(2)] == ["row 4"]


def test_custom_column_names(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    named = table().rename_columns({"text": "words", "image": "jpg", "turns": "unread"})
    named.select([0, 1, 3]).to_parquet(path)
    found = contents(find_sources([path], ColumnNames("words", "jpg")))
    assert found == [expected()[at] for at in (0, 1, 3)]
    with pytest.raises(InputError, match="no column text or turns; its columns are words, jpg"):
        find_sources([path])
    with pytest.raises(InputError, match="no column lost"):
        find_sources([path], ColumnNames("lost", "jpg"))


@pytest.mark.parametrize("samples_per_slice", [1, 3, 100])
def test_folder_of_images_and_texts(samples_per_slice: int, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in (1, 2):
        (tmp_path / "in" / f"{number}.png").write_bytes(png(number))
    (tmp_path / "in" / "1.txt").write_text("a caption\n")
    (tmp_path / "text.md").write_text("# words\n")
    (tmp_path / ".hidden.txt").write_text("not seen")
    (source,) = find_sources([tmp_path], samples_per_slice=samples_per_slice)
    found = [each for index in range(source.num_slices) for each in source.samples(index)]
    assert [each.key for each in found] == ["in/1.png", "in/2.png", "text.md"]
    assert found[0].read().text == "a caption"
    with pytest.raises(InputError, match=r"expected the file 2\.txt"):
        found[1].read()
    assert found[2].read() == Sample(text="# words\n")


def test_each_file_of_a_folder_is_a_source(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": name}))
    assert contents(find_sources([tmp_path])) == [(n, None, ()) for n in ("a.jsonl", "b.jsonl")]
    with tarfile.open(tmp_path / "c.tar", "w"):
        pass
    with pytest.raises(InputError, match=r"\.jsonl and \.tar files"):
        find_sources([tmp_path])


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def folder_of_splits(folder: Path) -> Path:
    (folder / "dataset_dict.json").write_text("{}")
    return folder


def zip_file(folder: Path) -> Path:
    (folder / "a.zip").write_bytes(b"")
    return folder / "a.zip"


def truncated_parquet(folder: Path) -> Path:
    path = parquet(folder)
    path.write_bytes(path.read_bytes()[:300])
    return path


INVALID: list[tuple[Callable[[Path], Path], str]] = [
    (lambda folder: folder / "missing", "no such file or folder"),
    (empty_folder, "no images, videos or texts"),
    (folder_of_splits, "several splits"),
    (zip_file, "not a source"),
    (truncated_parquet, "not a readable parquet file"),
]


@pytest.mark.parametrize(("make", "message"), INVALID)
def test_invalid_sources_raise(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        find_sources([make(tmp_path)])


def test_duplicate_source_raises(tmp_path: Path) -> None:
    path = jsonl(tmp_path)
    with pytest.raises(InputError, match="given twice"):
        find_sources([path, path])
