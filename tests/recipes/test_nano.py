"""What the package's nano is put together from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
from emu3.config import DecoderConfig
from emu3.models.precision import FP32
from emu3.processing.tokenizer import TextTokenizer
from emu3.training.checkpoints import save_state
from emu3.training.decoder import fresh
from recipes import nano
from recipes.nano_decoder import config_for


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    """nano's own."""
    return TextTokenizer.from_folder(nano.HOME)


@pytest.fixture(scope="module")
def config(text: TextTokenizer) -> DecoderConfig:
    """nano's, but for its width and depth."""
    small = {"hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 1}
    return replace(config_for(text), **small)


def test_the_package_has_the_card_of_the_recipe() -> None:
    assert GenerationDefaults.from_folder(nano.HOME, "nano") == nano.CARD


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_mean_lies_so_far_from_one_to_the_other(config: DecoderConfig, share: float) -> None:
    before, after = fresh(config, 0), fresh(config, 1)
    ends = [
        {name: value.clone() for name, value in e.state_dict().items()} for e in (before, after)
    ]
    for name, value in nano.mean_of(before, after, share).state_dict().items():
        expected = (1 - share) * ends[0][name] + share * ends[1][name]
        torch.testing.assert_close(value, expected)
    for model, end in zip((before, after), ends, strict=True):  # these stay what they are
        assert all(torch.equal(value, end[name]) for name, value in model.state_dict().items())


def test_of_two_shapes_there_is_no_mean(config: DecoderConfig) -> None:
    deeper = replace(config, num_hidden_layers=2)
    with pytest.raises(SystemExit, match="another shape"):
        nano.mean_of(fresh(config, 0), fresh(deeper, 0), 0.5)


@pytest.mark.parametrize("share", [-0.5, 0.0, 1.5, float("nan")])
def test_a_share_is_a_share(share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nano, "HOME", tmp_path)
    with pytest.raises(SystemExit, match="at most"):
        nano.longer(tmp_path / "run", share)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_run_goes_into_the_package_alone_or_halfway(
    share: float, text: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = DeviceConfig(torch.device("cpu"), FP32)
    before = load_checkpoint("nano", None, place).decoder.state_dict()
    run, home = tmp_path / "runs" / "further", tmp_path / "nano"
    run.mkdir(parents=True)
    text.save(run)
    (run / "log.jsonl").write_text("{}\n", encoding="utf-8")
    state = {"model": {name: value + 1 for name, value in before.items()}}
    save_state(run / "state.pt", state)
    monkeypatch.setattr(nano, "HOME", home)
    monkeypatch.setattr(nano, "LOGS", tmp_path / "logs")
    nano.longer(run, share)
    made = load_checkpoint(str(home), None, place).decoder
    for name, value in made.state_dict().items():
        torch.testing.assert_close(value, before[name] + share, rtol=0.01, atol=0.01)
    assert (tmp_path / "logs" / "further.jsonl").is_file()
