"""Going on from a tokenizer of pictures.

Emu3's tokenizer began as a trained SBER-MoVQGAN (paper section 2.2), which has the same spatial
layers under the same names (`movqgan/modules/vqvae/movq_modules.py` of ai-forever/MoVQGAN) and no
layers in time. How the new ones were started is undisclosed; ours start as the identity.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emu3.errors import InputError
from emu3.models.vq.blocks import CausalConv3d, SpatialNorm
from emu3.models.vq.tokenizer import VisionTokenizer

CODEBOOK = "quantize.embedding.weight"
STRAIGHT = 2.0  # where SiLU is nearly a line


@torch.no_grad()
def init_temporal_identity(model: VisionTokenizer) -> None:
    """Start the temporal convolutions as the identity on a repeated frame.

    They sit on the narrow latent with a SiLU behind each, and random ones would destroy most of
    it. A bias of two moves the latent to where SiLU is nearly a line.
    """
    for name, conv in model.named_modules():
        if not isinstance(conv, CausalConv3d):
            continue
        weight = conv.conv.weight
        last, middle = weight.shape[2] - 1, weight.shape[3] // 2
        nn.init.zeros_(weight)
        assert conv.conv.bias is not None
        nn.init.zeros_(conv.conv.bias)
        if name.endswith("conv2"):
            continue  # a residual branch that starts silent
        for channel in range(weight.shape[0]):
            weight[channel, channel, last, -1 - middle, -1 - middle] = 1.0
        if "time_conv.0" in name:
            conv.conv.bias.fill_(STRAIGHT)


@torch.no_grad()
def warm_start(model: VisionTokenizer, weights: Mapping[str, Tensor]) -> list[str]:
    """Take over a trained tokenizer's weights, under our names; the names that it had none for.

    One with layers in time (`state_dict()` of ours, of the same config but for the codebook) is
    copied. One of pictures alone gives its spatial layers, and time starts as the identity: a
    picture, or a clip of one frame repeated, then comes back nearly as that model returns it.
    A codebook of another size or none is left out and among the names returned: it has to be
    placed anew (`VisionTraining.unquantised`). Names that the model does not have are passed over.

    Raises InputError on a weight that is missing or of another shape; the model is untouched then.
    """
    own = model.state_dict()
    flat = not any(".time_" in name for name in weights)
    taken = {_ours(name, flat): _deep(name, weight) for name, weight in weights.items()}
    taken = {name: weight for name, weight in taken.items() if name in own}
    if CODEBOOK in taken and taken[CODEBOOK].shape != own[CODEBOOK].shape:
        del taken[CODEBOOK]
    left = [name for name in own if name not in taken]
    new = {name for name in own if flat and ".time_" in name} | {CODEBOOK}
    _check(own, taken, [name for name in left if name not in new])
    if flat:
        init_temporal_identity(model)
    model.load_state_dict(taken, strict=False)
    if flat:
        _undo_silu(model)
    return left


def _ours(name: str, flat: bool) -> str:
    """The two projections of the latent are convolutions in time here."""
    part, _, kind = name.rpartition(".")
    return f"{part}.conv.{kind}" if flat and part in ("quant_conv", "post_quant_conv") else name


def _deep(name: str, weight: Tensor) -> Tensor:
    """A 1x1 projection [C, c, 1, 1] as one over three frames that looks at the last alone."""
    if not name.endswith("quant_conv.weight") or weight.ndim != 4:
        return weight
    return F.pad(weight[:, :, None], (0, 0, 0, 0, 2, 0))


def _check(own: Mapping[str, Tensor], taken: Mapping[str, Tensor], missing: list[str]) -> None:
    """Raise InputError on the first weight that does not fit."""
    for name, weight in taken.items():
        if weight.shape != own[name].shape:
            raise InputError(
                f"{name}: {list(weight.shape)} in the tokenizer to go on from, "
                f"{list(own[name].shape)} here; give the config that it was trained with"
            )
    if missing:
        raise InputError(
            f"{missing[0]} and {len(missing) - 1} more are missing in the tokenizer to go on from; "
            "give its whole weights, and the config that it was trained with"
        )


def _undo_silu(model: VisionTokenizer) -> None:
    """Let what reads the latent behind the layers in time undo what their SiLUs do to it.

    Near zero those map x to offset + gain * x. A layer over (y - offset) / gain is that layer over
    y with its weight divided and its bias shifted. Padding is nothing in x and something in y, so
    along the border, where the decoder's first convolution sees it, this is only nearly so.
    """
    offset, gain = _line(model.config.temporal_stages)
    readers: list[nn.Conv2d | nn.Conv3d] = [model.quant_conv.conv, model.decoder.conv_in]
    for module in model.decoder.modules():
        if isinstance(module, SpatialNorm):
            readers += [module.conv_y, module.conv_b]
    for conv in readers:
        assert conv.bias is not None
        conv.weight.div_(gain)
        conv.bias.sub_(offset * conv.weight.flatten(1).sum(1))


def _line(stages: int) -> tuple[float, float]:
    """Value and slope at zero of `stages` SiLUs in a row, the first of them moved by STRAIGHT."""
    if not stages:
        return 0.0, 1.0
    with torch.enable_grad():
        at = torch.zeros((), dtype=torch.float64, requires_grad=True)
        value = at + STRAIGHT
        for _ in range(stages):
            value = F.silu(value)
        (slope,) = torch.autograd.grad(value, at)
    return value.item(), slope.item()
