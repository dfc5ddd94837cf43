"""One block more for a decoder that knows pictures: its heads look back to the group before.

In a clip a code is mostly one that stood near its place a group earlier, some seventy ids back. No
head of a decoder trained on pictures looks there, and to find one exact distance among hundreds
takes a head large weights, which come slowly. So the new block starts with heads that look back by
given distances, whatever they see, and bring along what is to be said of the code that they find,
as loud as what the other blocks say. What becomes of it is left to be learned: nothing is written
yet, and the decoder says what it said before.

The block stands between others like any block of the architecture; only where training starts is
special. To add layers that change nothing is known from Net2Net (Chen et al., arXiv 1511.05641).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from emu3.models.attention import rotary_tables
from emu3.models.transformer import Block, Transformer

SHARP = 12.0  # of the score of a distance: a code next to the right one gets a fifth of its weight
TURNS = 12  # channel pairs of a head that tell distances: the fastest, down to 0.04 radians an id
LOUD = 40.0  # root mean square of a channel of the values: blocks of nano write hundreds in all
RIDGE = 1e-2  # of what is fitted to the inputs, relative to their variance


@torch.no_grad()
def deeper(
    model: Transformer,
    at: int,
    distances: Sequence[float],
    rows: Sequence[Tensor],
    visual: slice,
) -> Transformer:
    """The model with one block more before block `at`, saying just what it said.

    A head looks back by each of the `distances`, in ids, whole or between two. `rows` are ids [L]
    of documents, from which the block learns what its inputs have in common and how they tell the
    codes, whose ids are `visual`.
    """
    grown = Transformer(replace(model.config, num_hidden_layers=len(model.model.layers) + 1))
    state = grown.state_dict() | {_moved(k, at): v for k, v in model.state_dict().items()}
    grown.load_state_dict(state)
    block = grown.model.layers[at]
    assert isinstance(block, Block)
    block.self_attn.o_proj.weight.zero_()
    block.mlp.down_proj.weight.zero_()
    ids, inputs = torch.cat(list(rows)), torch.cat([_inputs(model, at, ids) for ids in rows])
    common = _fitted(inputs, torch.ones(len(inputs), 1))[0]
    _look_back(block, distances, grown.config.rope_theta, common)
    codes = (ids >= visual.start) & (ids < visual.stop)
    said = model.lm_head.weight[visual][ids[codes] - visual.start]
    _bring_along(block, inputs[codes], said, common)
    return grown.train(model.training)


def _moved(name: str, at: int) -> str:
    """A parameter's name once there is a block more before block `at`."""
    parts = name.split(".")
    if parts[:2] == ["model", "layers"] and int(parts[2]) >= at:
        parts[2] = str(int(parts[2]) + 1)
    return ".".join(parts)


def _look_back(block: Block, distances: Sequence[float], theta: float, common: Tensor) -> None:
    """Queries and keys that score each other by distance alone, highest at the head's own."""
    attention, width = block.self_attn, _width(block)
    size = (SHARP**0.5 * (torch.arange(width // 2) < TURNS)).repeat(2)
    cos, sin = rotary_tables(-torch.tensor([distances]), width, theta, torch.float32)
    # A query turned back beforehand meets, so much further on, a key that is not turned at all.
    turned = torch.cat([cos[0, 0, :, : width // 2], sin[0, 0, :, width // 2 :]], dim=-1)
    key = size * (torch.arange(width) < width // 2)
    for weight, wanted in (
        (attention.q_proj.weight, (size * turned).flatten()),
        (attention.k_proj.weight, key.repeat(attention.kv_heads)),
    ):
        weight.normal_(std=1e-3).add_(torch.outer(wanted, common))


def _bring_along(block: Block, inputs: Tensor, said: Tensor, common: Tensor) -> None:
    """Values that tell codes apart as the model's head does, in its main directions.

    `inputs` [N, hidden] are at codes whose rows of the head are `said` [N, hidden].
    """
    kept = torch.linalg.svd(said - said.mean(0), full_matrices=False).U[:, : _width(block)]
    middle = inputs.mean(0)
    reads = _fitted(inputs - middle, kept * (LOUD * len(kept) ** 0.5))
    reads -= torch.outer(reads @ middle, common)  # what all have in common tells nothing
    block.self_attn.v_proj.weight.copy_(reads.repeat(block.self_attn.kv_heads, 1))


def _width(block: Block) -> int:
    """Channels of a head."""
    return block.self_attn.q_proj.out_features // block.self_attn.heads


def _inputs(model: Transformer, at: int, ids: Tensor) -> Tensor:
    """What block `at` reads of a document, normed: [L, hidden]."""
    config, positions = model.config, torch.arange(len(ids))[None]
    by = rotary_tables(positions, config.head_dim, config.rope_theta, torch.float32)
    x = model.model.embed_tokens(ids[None])
    for block in model.model.layers[:at]:
        x = block(x, by, None, None)
    return F.rms_norm(x[0], x.shape[-1:])


def _fitted(inputs: Tensor, wanted: Tensor) -> Tensor:
    """Weights [out, in] that make the best of inputs [N, in] for outputs [N, out]."""
    x, y = inputs.double(), wanted.double()
    gram = x.T @ x / len(x)
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.double)
    return torch.linalg.solve(gram, x.T @ y / len(x)).T.float()
