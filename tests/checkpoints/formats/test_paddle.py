"""The Paddle format: tensor names and transposed tensors."""

from __future__ import annotations

from torch import nn

from emu3.checkpoints.formats.paddle import (
    SAVED_BY_PADDLE,
    decoder_name,
    is_transposed,
    vision_name,
)
from emu3.testing import tiny_decoder, tiny_vision


def test_decoder_names_are_unchanged() -> None:
    names = list(tiny_decoder().state_dict())
    assert [decoder_name(name) for name in names] == names


def test_batch_norm_statistics_are_renamed_and_counters_dropped() -> None:
    names = set(tiny_vision().state_dict())
    stored_names = {name: vision_name(name) for name in names}
    assert {name for name, stored in stored_names.items() if stored is None} == {
        name for name in names if name.endswith("num_batches_tracked")
    }
    kept = [stored for stored in stored_names.values() if stored is not None]
    assert len(set(kept)) == len(kept)
    assert not any("running" in stored for stored in kept)
    block = "encoder.time_res_stack.0.norm1"
    assert stored_names[f"{block}.running_mean"] == f"{block}._mean"
    assert stored_names[f"{block}.running_var"] == f"{block}._variance"
    assert stored_names[f"{block}.weight"] == f"{block}.weight"


def test_linear_layers_are_transposed() -> None:
    """`nn.Linear` is `paddle.nn.Linear`, stored as [in, out]; all else has the same orientation."""
    for model in (tiny_decoder(), tiny_vision()):
        linear = {
            f"{name}.weight" for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
        }  # fmt: skip
        assert {name for name in model.state_dict() if is_transposed(name)} == linear


def test_format_pt_is_not_paddle() -> None:
    assert "pt" not in SAVED_BY_PADDLE
