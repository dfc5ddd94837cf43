"""Nothing that a source holds is lost silently: it is in a sample, or named with a reason."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu3.data.discovery import find_sources
from emu3.data.samples import Sample
from emu3.data.sources import Source
from emu3.data.webdataset import TarSource
from emu3.errors import InputError

from .conftest import png

CASES = Path(__file__).parents[1] / "fixtures" / "cases" / "data"


def read(source: Source) -> tuple[dict[str, Sample], dict[str, str]]:
    """Samples by key, and the reasons of the refused ones."""
    samples, refused = dict[str, Sample](), dict[str, str]()
    for index in range(source.num_slices):
        for lazy in source.samples(index):
            try:
                samples[lazy.key] = lazy.read()
            except InputError as error:
                refused[lazy.key] = f"{refused.get(lazy.key, '')} {error}"
    return samples, refused


def write_tar(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            data = png(0) if name.lower().endswith("png") else b'{"text": "words"}'
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_compound_names_are_one_sample() -> None:
    samples, refused = read(TarSource(CASES / "compound.tar"))
    assert set(samples) == {"000", "001"}
    assert all(each.image is not None and each.text for each in samples.values())
    assert not refused


def test_dots_before_digits_are_part_of_the_name(tmp_path: Path) -> None:
    names = ["v1.0_000.png", "v1.0_000.txt", "v1.0_001.png", "v1.0_001.txt"]
    samples, refused = read(TarSource(write_tar(tmp_path / "a.tar", names)))
    assert set(samples) == {"v1.0_000", "v1.0_001"}
    assert not refused


def test_files_of_a_key_that_are_apart_are_refused() -> None:
    samples, refused = read(TarSource(CASES / "unsorted.tar"))
    assert not samples
    assert set(refused) == {"000", "001"}
    assert all("no caption" in each or "not next to" in each for each in refused.values())
    assert sum("tar --sort=name" in each for each in refused.values()) == 2


PARTS = st.sampled_from(
    ["png", "txt", "json", "cls", "a.png", "b.png", "a.txt", "0.png", "PNG", ""]
)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "v1.0", "in/c"]), PARTS), unique=True))
@settings(max_examples=60, deadline=None)
def test_every_key_of_a_tar_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, str]]
) -> None:
    """And a refusal of a key without anything usable names its members."""
    names = [f"{stem}.{part}" if part else stem for stem, part in members]
    path = write_tar(tmp_path_factory.mktemp("tar") / "a.tar", names)
    samples, refused = read(TarSource(path))
    for stem, part in members:
        key = f"{stem}.0" if part == "0.png" else stem
        assert key in samples or key in refused
        if part == "cls" and members.count((stem, part)) == sum(s == stem for s, _ in members):
            assert ".cls" in refused[key]


def test_a_byte_order_mark_is_no_part_of_the_data() -> None:
    (source,) = find_sources([CASES / "bom" / "samples.jsonl"])
    samples, refused = read(source)
    assert len(samples) == 2
    assert not refused


def test_captions_are_found_in_any_case(tmp_path: Path) -> None:
    (source,) = find_sources([CASES / "upper"])
    samples, refused = read(source)
    assert {key: bool(each.text) for key, each in samples.items()} == {
        "IMG_1.JPG": True,
        "IMG_2.JPG": True,
    }
    assert not refused
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "a.tXt").write_bytes(b"\xef\xbb\xbfa fox")
    (source,) = find_sources([tmp_path])
    assert read(source)[0]["a.png"].text == "a fox"
