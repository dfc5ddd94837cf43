"""Conversion between checkpoint formats and precisions."""

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

CPU_FP32 = DeviceConfig(torch.device("cpu"), FP32)
TEXT = "A café, 12 of ’em: I'LL go"  # decomposed on purpose


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A tiny checkpoint in BAAI's format."""
    tiny_checkpoint().save(tmp_path / "published")
    return tmp_path / "published"


def same_checkpoint(a: Checkpoint, b: Checkpoint) -> bool:
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


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_round_trip_keeps_weights_and_files(published: Path, tmp_path: Path, format: str) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    convert_checkpoint(published, None, there, format=format)
    convert_checkpoint(there, None, back, format="baai")
    assert (detect_format(there).name, detect_format(back).name) == (format, "baai")
    first = load_checkpoint(published, None, CPU_FP32)
    assert same_checkpoint(load_checkpoint(there, None, CPU_FP32), first)
    for path in published.rglob("*"):
        if path.is_file() and path.suffix != ".json":
            assert (back / path.relative_to(published)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_prompt_ids_are_the_same_in_every_format(
    published: Path, tmp_path: Path, format: str
) -> None:
    convert_checkpoint(published, None, tmp_path / "there", format=format)
    expected = load_checkpoint(published, None, CPU_FP32).prompts
    converted = load_checkpoint(tmp_path / "there", None, CPU_FP32).prompts
    assert converted.image(TEXT, (3, 4)) == expected.image(TEXT, (3, 4))


@pytest.mark.slow
def test_block_size_does_not_matter(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transposed matrices are read by columns, quantized ones by rows."""
    monkeypatch.setattr(shards, "BLOCK_BYTES", 200)
    convert_checkpoint(published, None, tmp_path / "paddle", format="paddle")
    assert same_checkpoint(load_checkpoint(tmp_path / "paddle", None, CPU_FP32),
                load_checkpoint(published, None, CPU_FP32))  # fmt: skip
    few = DeviceConfig(CPU_FP32.device, INT8)
    a = load_checkpoint(tmp_path / "paddle", None, few).decoder.state_dict()
    b = load_checkpoint(published, None, few).decoder.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_convert_to_bf16(published: Path, tmp_path: Path) -> None:
    convert_checkpoint(published, None, tmp_path / "half", precision=BF16)
    half = load_checkpoint(tmp_path / "half", None, DeviceConfig(CPU_FP32.device, BF16)).decoder
    whole = load_checkpoint(published, None, DeviceConfig(CPU_FP32.device, BF16)).decoder
    assert all(torch.equal(half.state_dict()[k], v) for k, v in whole.state_dict().items())
    size = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert size < 0.6 * (published / "model.safetensors").stat().st_size


def file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_progress_reaches_the_total(published: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert_checkpoint(published, None, tmp_path / "out", on_bytes=lambda *now: seen.append(now))
    done, total = seen[-1]
    assert done == total > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_insufficient_disk_space_raises_before_writing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 5))
    with pytest.raises(InputError, match=r"GB required, 0\.0 GB free"):
        convert_checkpoint(published, None, tmp_path / "out")
    assert file_names(tmp_path) == ["published"]


def test_full_disk_leaves_no_files(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = shards._write_file

    def full(path: Path, *rest: object) -> None:
        write(path, *rest)  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "No space file_names on device", str(path))

    monkeypatch.setattr(shards, "_write_file", full)
    with pytest.raises(OSError, match="No space"):
        convert_checkpoint(published, None, tmp_path / "out")
    assert file_names(tmp_path) == ["published"]


@pytest.mark.parametrize("format", ["", "HF", "gguf"])
def test_unknown_format_raises(published: Path, tmp_path: Path, format: str) -> None:
    with pytest.raises(InputError, match="one of baai, hf, paddle"):
        convert_checkpoint(published, None, tmp_path / "out", format=format)


def test_existing_output_is_not_overwritten(published: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert_checkpoint(published, None, tmp_path / "out")  # an empty folder is fine
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.json")}
    with pytest.raises(InputError, match="already exists"):
        convert_checkpoint(published, None, tmp_path / "out", format="hf")
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*.json")} == before


@pytest.mark.parametrize("format", ["hf", "paddle"])
def test_quantized_weights_need_the_baai_format(
    published: Path, tmp_path: Path, format: str
) -> None:
    with pytest.raises(InputError, match="only be written in the baai format"):
        convert_checkpoint(published, None, tmp_path / "out", format=format, precision=INT8)
    assert file_names(tmp_path) == ["published"]
