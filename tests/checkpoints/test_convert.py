"""From layout to layout and back: the same numbers, the same ids, complete or absent."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch

from emu3.checkpoints import safetensors_io as shards
from emu3.checkpoints.convert import convert_checkpoint
from emu3.checkpoints.formats.registry import FORMATS, detect_format
from emu3.checkpoints.loading import Checkpoint, DeviceConfig, load_checkpoint
from emu3.errors import InputError
from emu3.models.precision import BF16, FP32, INT8
from emu3.testing import tiny_checkpoint

HERE = DeviceConfig(torch.device("cpu"), FP32)
TEXT = "A café, 12 of ’em: I'LL go"  # decomposed on purpose


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A tiny checkpoint in BAAI's layout."""
    tiny_checkpoint().save(tmp_path / "published")
    return tmp_path / "published"


def same(a: Checkpoint, b: Checkpoint) -> bool:
    parts = ((a.decoder, b.decoder), (a.vision_processor.vision, b.vision_processor.vision))
    return (
        a.decoder.config == b.decoder.config
        and a.vision_processor.vision.config == b.vision_processor.vision.config
        and a.vision_processor.preprocessor.to_dict() == b.vision_processor.preprocessor.to_dict()
        and (a.text_tokenizer.ranks, a.text_tokenizer.specials)
        == (b.text_tokenizer.ranks, b.text_tokenizer.specials)
        and a.defaults == b.defaults
        and all(
            torch.equal(tensor, other.state_dict()[name])
            for one, other in parts
            for name, tensor in one.state_dict().items()
        )
    )


@pytest.mark.parametrize("layout", sorted(FORMATS))
def test_there_and_back(published: Path, tmp_path: Path, layout: str) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    convert_checkpoint(published, None, there, format=layout)
    convert_checkpoint(there, None, back, format="baai")
    assert (detect_format(there).name, detect_format(back).name) == (layout, "baai")
    first = load_checkpoint(published, None, HERE)
    assert same(load_checkpoint(there, None, HERE), first)
    for path in published.rglob("*"):
        if path.is_file() and path.suffix != ".json":
            assert (back / path.relative_to(published)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("layout", sorted(FORMATS))
def test_a_prompt_has_the_same_ids_in_every_layout(
    published: Path, tmp_path: Path, layout: str
) -> None:
    convert_checkpoint(published, None, tmp_path / "there", format=layout)
    ours = load_checkpoint(published, None, HERE).prompts
    theirs = load_checkpoint(tmp_path / "there", None, HERE).prompts
    assert theirs.image(TEXT, (3, 4)) == ours.image(TEXT, (3, 4))


def test_few_rows_in_hand_are_enough(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paddle's transposed matrices by columns, quantised ones by rows, in blocks of any size."""
    monkeypatch.setattr(shards, "BLOCK_BYTES", 200)
    convert_checkpoint(published, None, tmp_path / "paddle", format="paddle")
    assert same(load_checkpoint(tmp_path / "paddle", None, HERE),
                load_checkpoint(published, None, HERE))  # fmt: skip
    few = DeviceConfig(HERE.device, INT8)
    a = load_checkpoint(tmp_path / "paddle", None, few).decoder.state_dict()
    b = load_checkpoint(published, None, few).decoder.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_precision_may_change_on_the_way(published: Path, tmp_path: Path) -> None:
    convert_checkpoint(published, None, tmp_path / "half", precision=BF16)
    half = load_checkpoint(tmp_path / "half", None, DeviceConfig(HERE.device, BF16)).decoder
    whole = load_checkpoint(published, None, DeviceConfig(HERE.device, BF16)).decoder
    assert all(torch.equal(half.state_dict()[k], v) for k, v in whole.state_dict().items())
    size = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert size < 0.6 * (published / "model.safetensors").stat().st_size


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_progress_ends_at_the_whole(published: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert_checkpoint(published, None, tmp_path / "out", on_bytes=lambda *now: seen.append(now))
    done, total = seen[-1]
    assert done == total > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_disk_too_small_is_noticed_before(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 5))
    with pytest.raises(InputError, match=r"GB are needed and 0\.0 GB are free"):
        convert_checkpoint(published, None, tmp_path / "out")
    assert left(tmp_path) == ["published"]


def test_a_disk_that_fills_up_leaves_nothing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = shards._write_file

    def full(path: Path, *rest: object) -> None:
        write(path, *rest)  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(shards, "_write_file", full)
    with pytest.raises(OSError, match="No space"):
        convert_checkpoint(published, None, tmp_path / "out")
    assert left(tmp_path) == ["published"]


@pytest.mark.parametrize("layout", ["", "HF", "gguf"])
def test_a_layout_that_is_none_is_refused(published: Path, tmp_path: Path, layout: str) -> None:
    with pytest.raises(InputError, match="one of baai, hf, paddle"):
        convert_checkpoint(published, None, tmp_path / "out", format=layout)


def test_what_is_there_is_not_overwritten(published: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert_checkpoint(published, None, tmp_path / "out")  # an empty folder is fine
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.json")}
    with pytest.raises(InputError, match="exists already"):
        convert_checkpoint(published, None, tmp_path / "out", format="hf")
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*.json")} == before


@pytest.mark.parametrize("layout", ["hf", "paddle"])
def test_few_bits_are_ours_alone(published: Path, tmp_path: Path, layout: str) -> None:
    with pytest.raises(InputError, match="BAAI's layout only"):
        convert_checkpoint(published, None, tmp_path / "out", format=layout, precision=INT8)
    assert left(tmp_path) == ["published"]
