"""Warm start of the vision tokenizer from a trained image tokenizer.

Emu3's tokenizer started from a trained SBER-MoVQGAN (paper section 2.2), which has the same spatial
layers under the same names (`movqgan/modules/vqvae/movq_modules.py` of ai-forever/MoVQGAN) and no
temporal layers. How those were initialized was not disclosed; ours start as the identity.
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
LINEAR_OFFSET = 2.0  # where SiLU is nearly linear


@torch.no_grad()
def init_temporal_identity(model: VisionTokenizer) -> None:
    """Initialize the temporal convolutions as the identity on a repeated frame.

    They act on the narrow latent with a SiLU after each, and random ones would destroy most of it.
    A bias of two moves the latent to where SiLU is nearly linear.
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
            continue  # last layer of a residual branch: zero
        for channel in range(weight.shape[0]):
            weight[channel, channel, last, -1 - middle, -1 - middle] = 1.0
        if "time_conv.0" in name:
            conv.conv.bias.fill_(LINEAR_OFFSET)


@torch.no_grad()
def warm_start(model: VisionTokenizer, weights: Mapping[str, Tensor]) -> list[str]:
    """Copy the weights of a trained tokenizer; returns the names that it has no weight for.

    A tokenizer with temporal layers (a `state_dict()` of ours with the same config except for the
    codebook) is copied. An image tokenizer gives its spatial layers, and temporal layers start as
    the identity; an image, or a clip of one repeated frame, is then reconstructed nearly as by that
    tokenizer. A codebook of another size is not copied and must be trained
    (`VQTrainingConfig.unquantized_steps`). Names that the model does not have are ignored.

    Raises InputError on a missing weight or one of another shape, before the model is changed.
    """
    own = model.state_dict()
    is_image_tokenizer = not any(".time_" in name for name in weights)
    copied = {
        _rename(name, is_image_tokenizer): _add_time(name, weight)
        for name, weight in weights.items()
    }
    copied = {name: weight for name, weight in copied.items() if name in own}
    if CODEBOOK in copied and copied[CODEBOOK].shape != own[CODEBOOK].shape:
        del copied[CODEBOOK]
    missing = [name for name in own if name not in copied]
    optional = {name for name in own if is_image_tokenizer and ".time_" in name} | {CODEBOOK}
    _check(own, copied, [name for name in missing if name not in optional])
    if is_image_tokenizer:
        init_temporal_identity(model)
    model.load_state_dict(copied, strict=False)
    if is_image_tokenizer:
        _compensate_silu(model)
    return missing


def _rename(name: str, is_image_tokenizer: bool) -> str:
    """The two projections of the latent are causal 3D convolutions in our model."""
    part, _, kind = name.rpartition(".")
    if is_image_tokenizer and part in ("quant_conv", "post_quant_conv"):
        return f"{part}.conv.{kind}"
    return name


def _add_time(name: str, weight: Tensor) -> Tensor:
    """A 1x1 projection [C, c, 1, 1] as one over three frames that uses the last one only."""
    if not name.endswith("quant_conv.weight") or weight.ndim != 4:
        return weight
    return F.pad(weight[:, :, None], (0, 0, 0, 0, 2, 0))


def _check(own: Mapping[str, Tensor], copied: Mapping[str, Tensor], missing: list[str]) -> None:
    """Raise InputError on weights of another shape and on missing weights."""
    for name, weight in copied.items():
        if weight.shape != own[name].shape:
            raise InputError(
                f"{name}: shape {list(weight.shape)} in the given weights, "
                f"{list(own[name].shape)} in the model; use the config they were trained with"
            )
    if missing:
        raise InputError(
            f"{missing[0]} and {len(missing) - 1} more are missing in the given weights; "
            "pass a complete state dict, and use the config it was trained with"
        )


def _compensate_silu(model: VisionTokenizer) -> None:
    """Adjust the layers after the temporal convolutions for the SiLUs of these.

    Near zero the SiLUs map x to offset + gain * x. A layer applied to (y - offset) / gain equals
    the layer applied to y with its weight divided and its bias shifted. At the border, where the
    decoder's first convolution sees padding, this is approximate: padding is zero in y, not in x.
    """
    offset, gain = _linearize_silu(model.config.temporal_stages)
    layers: list[nn.Conv2d | nn.Conv3d] = [model.quant_conv.conv, model.decoder.conv_in]
    for module in model.decoder.modules():
        if isinstance(module, SpatialNorm):
            layers += [module.conv_y, module.conv_b]
    for conv in layers:
        assert conv.bias is not None
        conv.weight.div_(gain)
        conv.bias.sub_(offset * conv.weight.flatten(1).sum(1))


def _linearize_silu(stages: int) -> tuple[float, float]:
    """Value and slope at zero of `stages` SiLUs in a row, the first with LINEAR_OFFSET."""
    if not stages:
        return 0.0, 1.0
    with torch.enable_grad():
        at = torch.zeros((), dtype=torch.float64, requires_grad=True)
        value = at + LINEAR_OFFSET
        for _ in range(stages):
            value = F.silu(value)
        (slope,) = torch.autograd.grad(value, at)
    return value.item(), slope.item()
