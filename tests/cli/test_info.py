"""`emu3 info`: sizes equal those of the loaded model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from emu3.checkpoints.loading import Checkpoint
from emu3.checkpoints.weights import load_decoder, save_weights
from emu3.cli.info import format_bytes
from emu3.models.precision import INT8

Emu3Command = Callable[..., Result]


def test_json(emu3: Emu3Command, tiny: Path, checkpoint: Checkpoint) -> None:
    done = emu3("info", tiny, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    decoder, vision = (
        sum(each.numel() for each in model.parameters())
        for model in (checkpoint.decoder, checkpoint.vision_processor.vision)
    )
    assert report["decoder"]["parameters"] == decoder
    assert report["vision"]["parameters"] == vision
    assert report["vocabulary"] == {"text": 256, "control": 211, "visual": 64, "total": 531}
    assert report["context"] == 512
    # 4x4 codes: SOV, "4*4" in three bytes, SOT, four rows of five, EOF and EOV.
    assert report["image"]["grid"] == [4, 4]
    assert report["image"]["tokens"] == 27
    few = load_decoder(tiny, INT8, torch.device("cpu"))
    assert report["memory"]["decoder"] == {
        "fp32": 4 * decoder,
        "bf16": 2 * decoder,
        "int8": sum(tensor.nbytes for tensor in few.state_dict().values()),
    }  # int4 does not fit its matrix widths
    assert report["on_disk"]["decoder"] == (tiny / "model.safetensors").stat().st_size
    assert (report["license"], report["tasks"]) == ("Apache-2.0", ["image", "chat"])


def test_kv_cache_bytes_match_cache(emu3: Emu3Command, tiny: Path, checkpoint: Checkpoint) -> None:
    report = json.loads(emu3("info", tiny, "--json").stdout)["memory"]["kv_cache"]
    cache = checkpoint.decoder.new_cache(2, report["tokens"])
    assert report["fp32"] == cache.keys.nbytes + cache.values.nbytes
    assert report["bf16"] == report["fp32"] // 2
    assert report["tokens"] == 28  # BOS, then the image


def test_table(emu3: Emu3Command, tiny: Path) -> None:
    done = emu3("info", tiny)
    assert done.exit_code == 0, done.output
    for text in ("49,504 parameters", "531 tokens", "16x16 px", "Apache-2.0", "image, chat"):
        assert text in done.stdout


def test_sharded_weights(emu3: Emu3Command, broken: Path, checkpoint: Checkpoint) -> None:
    (broken / "model.safetensors").unlink()
    save_weights(checkpoint.decoder, broken, shard_bytes=100_000)
    shards = list(broken.glob("model-*.safetensors"))
    assert len(shards) > 1
    report = json.loads(emu3("info", broken, "--json").stdout)
    assert report["on_disk"]["decoder"] == sum(shard.stat().st_size for shard in shards)


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 bytes"), (1500, "1.50 kB"), (17e9, "17.00 GB")]
)
def test_format_bytes(size: int, text: str) -> None:
    assert format_bytes(size) == text
