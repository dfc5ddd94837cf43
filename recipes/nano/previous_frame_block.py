"""A decoder block whose attention heads start on the previous frame.

In a video most codes equal a code near the same position one frame earlier, about seventy tokens
back. No head of a decoder trained on images attends there, and learning one exact distance among
hundreds takes large weights and many steps. So a block is inserted whose heads attend by fixed
distances, whatever the content, and whose values carry what the output head needs to know of the
attended code. Its output projections are zero, so the decoder computes the same as before, and
training decides what to do with it.

Inserting layers that compute the identity is known from Net2Net (Chen et al., arXiv 1511.05641).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from emu3.models.attention import rotary_tables
from emu3.models.transformer import Block, Transformer

SHARPNESS = 12.0  # of the scores: a neighbour of the exact distance gets a fifth of its weight
ROTARY_PAIRS = 12  # pairs of channels that encode distance: the fastest, down to 0.04 radians
VALUE_SCALE = 40.0  # root mean square of a value channel; the residual stream of nano has hundreds
RIDGE = 1e-2  # regularisation of least-squares fits, relative to the variance of the inputs


@torch.no_grad()
def insert_previous_frame_block(
    model: Transformer,
    at: int,
    distances: Sequence[float],
    documents: Sequence[Tensor],
    visual: slice,
) -> Transformer:
    """A decoder with one more block before block `at` that computes the same as `model`.

    Each head attends by one of the `distances` in tokens, which may be fractional. The block is
    fitted to `documents`, token ids [L] with visual token ids in `visual`.
    """
    deeper = Transformer(replace(model.config, num_hidden_layers=len(model.model.layers) + 1))
    moved = {_renumber(name, at): value for name, value in model.state_dict().items()}
    deeper.load_state_dict(deeper.state_dict() | moved)
    block = deeper.model.layers[at]
    assert isinstance(block, Block)
    block.self_attn.o_proj.weight.zero_()
    block.mlp.down_proj.weight.zero_()
    ids = torch.cat(list(documents))
    inputs = torch.cat([_block_inputs(model, at, each) for each in documents])
    constant = _least_squares(inputs, torch.ones(len(inputs), 1))[0]
    _set_attention(block, distances, deeper.config.rope_theta, constant)
    is_code = (ids >= visual.start) & (ids < visual.stop)
    head_rows = model.lm_head.weight[visual][ids[is_code] - visual.start]
    _set_values(block, inputs[is_code], head_rows, constant)
    return deeper.train(model.training)


def _renumber(name: str, at: int) -> str:
    """The name of a parameter once there is one more block before block `at`."""
    parts = name.split(".")
    if parts[:2] == ["model", "layers"] and int(parts[2]) >= at:
        parts[2] = str(int(parts[2]) + 1)
    return ".".join(parts)


def _set_attention(
    block: Block, distances: Sequence[float], theta: float, constant: Tensor
) -> None:
    """Queries and keys whose score depends on distance alone and is highest at the head's own.

    `constant` [hidden] is a direction whose product with every input is about 1.
    """
    attention, width = block.self_attn, _head_width(block)
    size = (SHARPNESS**0.5 * (torch.arange(width // 2) < ROTARY_PAIRS)).repeat(2)
    cos, sin = rotary_tables(-torch.tensor([distances]), width, theta, torch.float32)
    # A query rotated back in advance matches, that much later, a key that is not rotated.
    rotated = torch.cat([cos[0, 0, :, : width // 2], sin[0, 0, :, width // 2 :]], dim=-1)
    key = size * (torch.arange(width) < width // 2)
    for weight, target in (
        (attention.q_proj.weight, (size * rotated).flatten()),
        (attention.k_proj.weight, key.repeat(attention.kv_heads)),
    ):
        weight.normal_(std=1e-3).add_(torch.outer(target, constant))


def _set_values(block: Block, inputs: Tensor, head_rows: Tensor, constant: Tensor) -> None:
    """Values that distinguish codes as the output head does, in its principal directions.

    `inputs` [N, hidden] are the block's inputs at codes whose rows of the output head are
    `head_rows` [N, hidden].
    """
    centred = head_rows - head_rows.mean(0)
    targets = torch.linalg.svd(centred, full_matrices=False).U[:, : _head_width(block)]
    mean = inputs.mean(0)
    weight = _least_squares(inputs - mean, targets * (VALUE_SCALE * len(targets) ** 0.5))
    weight -= torch.outer(weight @ mean, constant)  # without what all inputs have in common
    block.self_attn.v_proj.weight.copy_(weight.repeat(block.self_attn.kv_heads, 1))


def _head_width(block: Block) -> int:
    """Channels of a head."""
    return block.self_attn.q_proj.out_features // block.self_attn.heads


def _block_inputs(model: Transformer, at: int, ids: Tensor) -> Tensor:
    """The normalised inputs [L, hidden] of block `at` for token ids [L]."""
    config, positions = model.config, torch.arange(len(ids))[None]
    rotary = rotary_tables(positions, config.head_dim, config.rope_theta, torch.float32)
    x = model.model.embed_tokens(ids[None])
    for block in model.model.layers[:at]:
        x = block(x, rotary, None, None)
    return F.rms_norm(x[0], x.shape[-1:])


def _least_squares(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Ridge regression: weights [out, in] that map inputs [N, in] to outputs [N, out]."""
    x, y = inputs.double(), outputs.double()
    gram = x.T @ x / len(x)
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.double)
    return torch.linalg.solve(gram, x.T @ y / len(x)).T.float()
