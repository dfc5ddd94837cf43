"""`emu3 info`: sizes that are those of the model itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from emu3.checkpoints.loading import Checkpoint
from emu3.checkpoints.weights import load_decoder, save_weights
from emu3.cli.info import amount
from emu3.models.precision import INT8

Emu3Command = Callable[..., Result]


def test_for_programs(emu3: Emu3Command, tiny: Path, checkpoint: Checkpoint) -> None:
    done = emu3("info", tiny, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    decoder, vision = (
        sum(each.numel() for each in model.parameters())
        for model in (checkpoint.decoder, checkpoint.vision_processor.vision)
    )
    assert said["decoder"]["parameters"] == decoder
    assert said["vision"]["parameters"] == vision
    assert said["vocabulary"] == {"text": 256, "control": 211, "visual": 64, "total": 531}
    assert said["context"] == 512
    # 4x4 codes: SOV, "4*4" in three bytes, SOT, four rows of five, EOF and EOV.
    assert said["picture"]["grid"] == [4, 4]
    assert said["picture"]["ids"] == 27
    few = load_decoder(tiny, INT8, torch.device("cpu"))
    assert said["memory"]["decoder"] == {
        "fp32": 4 * decoder,
        "bf16": 2 * decoder,
        "int8": sum(tensor.nbytes for tensor in few.state_dict().values()),
    }  # its widths do not divide into the groups of int4
    assert said["on_disk"]["decoder"] == (tiny / "model.safetensors").stat().st_size
    assert (said["license"], said["tasks"]) == ("Apache-2.0", ["image", "chat"])


def test_the_cache_is_as_large_as_it_says(
    emu3: Emu3Command, tiny: Path, checkpoint: Checkpoint
) -> None:
    said = json.loads(emu3("info", tiny, "--json").stdout)["memory"]["cache_of_a_guided_picture"]
    cache = checkpoint.decoder.new_cache(2, said["ids"])
    assert said["fp32"] == cache.keys.nbytes + cache.values.nbytes
    assert said["bf16"] == said["fp32"] // 2
    assert said["ids"] == 28  # BOS, then the picture


def test_for_people(emu3: Emu3Command, tiny: Path) -> None:
    done = emu3("info", tiny)
    assert done.exit_code == 0, done.output
    for words in ("49,504 parameters", "531 ids", "16x16 px", "Apache-2.0", "image, chat"):
        assert words in done.stdout


def test_shards(emu3: Emu3Command, broken: Path, checkpoint: Checkpoint) -> None:
    (broken / "model.safetensors").unlink()
    save_weights(checkpoint.decoder, broken, shard_bytes=100_000)
    shards = list(broken.glob("model-*.safetensors"))
    assert len(shards) > 1
    said = json.loads(emu3("info", broken, "--json").stdout)
    assert said["on_disk"]["decoder"] == sum(shard.stat().st_size for shard in shards)


@pytest.mark.parametrize(
    ("size", "words"), [(999, "999 bytes"), (1500, "1.50 kB"), (17e9, "17.00 GB")]
)
def test_amounts(size: int, words: str) -> None:
    assert amount(size) == words
