"""The inserted block: same output, and attention on the previous frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
from emu3.models.attention import Attention, apply_rotary, rotary_tables
from emu3.models.precision import FP32
from emu3.models.transformer import Block, Transformer
from emu3.processing.document_format import VideoCodes
from recipes.nano.previous_frame_block import VALUE_SCALE, insert_previous_frame_block

VISUAL = slice(1235, 3283)
AT, DISTANCES = 2, (62.5, 63, 72, 71.5, 80.5, 82)


@pytest.fixture(scope="module")
def rows() -> list[Tensor]:
    rng = np.random.default_rng(0)
    prompts = load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32)).prompts
    captions = [f"a {name} moving up, noto style" for name in ("fox", "red car", "pear", "bus") * 6]
    codes = [torch.from_numpy(rng.integers(2048, size=(3, 8, 8))) for _ in captions]
    return [
        prompts.document(*each)
        for each in zip(captions, (VideoCodes(c, 8, 12) for c in codes), strict=True)
    ]


@pytest.fixture(scope="module")
def nano() -> Transformer:
    return load_checkpoint("nano", None, DeviceConfig(torch.device("cpu"), FP32)).decoder


def block_inputs(model: Transformer, ids: Tensor) -> Tensor:
    """The inputs of the inserted block, [1, L, hidden]."""
    by = rotary_tables(torch.arange(len(ids))[None], 64, model.config.rope_theta, torch.float32)
    x = model.model.embed_tokens(ids[None])
    for layer in model.model.layers[:AT]:
        x = layer(x, by, None, None)
    normed: Tensor = model.model.layers[AT].get_submodule("input_layernorm")(x)
    return normed


def attention(model: Transformer) -> Attention:
    block = model.model.layers[AT]
    assert isinstance(block, Block)
    return block.self_attn


@torch.no_grad()
def test_output_does_not_change(nano: Transformer, rows: list[Tensor]) -> None:
    grown = insert_previous_frame_block(nano, AT, DISTANCES, rows[:-1], VISUAL)
    assert len(grown.model.layers) == grown.config.num_hidden_layers == len(nano.model.layers) + 1
    for ids in rows[-2:]:
        assert torch.equal(grown(ids[None]), nano(ids[None]))


@pytest.mark.slow
@torch.no_grad()
def test_values_distinguish_codes(nano: Transformer, rows: list[Tensor]) -> None:
    grown, found = insert_previous_frame_block(nano, AT, DISTANCES, rows, VISUAL), []
    for ids in rows:
        x, codes = block_inputs(grown, ids), (ids >= VISUAL.start) & (ids < VISUAL.stop)
        found.append(attention(grown).v_proj(x)[0, codes, :64])
    values = torch.cat(found)
    assert values.mean(0).norm() < 0.5 * values.norm(dim=1).mean()  # little common offset
    assert values.square().mean().sqrt() == pytest.approx(VALUE_SCALE, rel=0.5)


@torch.no_grad()
def test_heads_attend_by_their_distances(nano: Transformer, rows: list[Tensor]) -> None:
    grown, ids = insert_previous_frame_block(nano, AT, DISTANCES, rows[:-1], VISUAL), rows[-1]
    by = rotary_tables(torch.arange(len(ids))[None], 64, grown.config.rope_theta, torch.float32)
    split = attention(grown).project(block_inputs(grown, ids)).unflatten(-1, (12, 64))
    turned = apply_rotary(split.transpose(1, 2)[:, :9], by)[0]
    for head, distance in enumerate(DISTANCES):
        scores = turned[head] @ turned[6 + head // 2].T / 64**0.5
        seen = scores.masked_fill(~torch.ones_like(scores).tril().bool(), -torch.inf).softmax(-1)
        late = range(100, len(ids))
        whole = {int(np.floor(distance)), int(np.ceil(distance))}
        there = torch.stack([seen[at, [at - far for far in whole]].sum() for at in late])
        assert there.mean() > 0.6, distance
