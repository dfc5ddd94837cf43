"""Export of a run as the checkpoint of the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
from emu3.errors import InputError
from emu3.models.precision import FP32
from emu3.processing.tokenizer import TextTokenizer
from emu3.training.checkpointing import save_state
from recipes.nano import export
from recipes.nano.model import GENERATION_DEFAULTS, config_for
from recipes.nano.train_decoder import PHASES, WEIGHTS


def test_package_has_generation_defaults_of_recipe() -> None:
    assert GenerationDefaults.from_folder(export.HOME, "nano") == GENERATION_DEFAULTS


def test_package_decoder_has_shape_of_recipe() -> None:
    nano = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32))
    expected = config_for(nano.text_tokenizer, num_hidden_layers=5)
    assert nano.decoder.config == expected


def test_last_finished_phase_is_exported_in_bfloat16(tmp_path: Path) -> None:
    device = DeviceConfig(torch.device("cpu"), FP32)
    nano = load_checkpoint("nano", None, device)
    run, home = tmp_path / "run", tmp_path / "nano"
    run.mkdir()
    nano.text_tokenizer.save(run)
    weights = {name: value + 1 for name, value in nano.decoder.state_dict().items()}
    save_state(run / PHASES[1].name / WEIGHTS, weights)
    save_state(run / PHASES[0].name / WEIGHTS, nano.decoder.state_dict())
    export.main(nano.vision_processor.vision, run, home)
    made = load_checkpoint(str(home), None, device).decoder
    for name, value in made.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0.01, atol=0.01)


def test_run_without_finished_phase_is_refused(tmp_path: Path) -> None:
    TextTokenizer.from_folder(export.HOME).save(tmp_path)
    with pytest.raises(InputError, match="no finished phase"):
        export.last_decoder(tmp_path)
