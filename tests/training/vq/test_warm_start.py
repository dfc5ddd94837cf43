"""Warm start from image tokenizers and from our own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emu3.config import VisionConfig
from emu3.errors import InputError
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.testing import tiny_vision
from emu3.training.vq.warm_start import CODEBOOK, warm_start

CONFIG = VisionConfig(
    codebook_size=16, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=()
)


def image_tokenizer_weights(model: VisionTokenizer) -> dict[str, Tensor]:
    """The spatial weights of a tokenizer, under the names of MoVQGAN."""
    weights = {}
    for name, weight in model.state_dict().items():
        if ".time_" not in name:
            spatial_weight = weight[:, :, 2] if name.endswith("quant_conv.conv.weight") else weight
            weights[name.replace("quant_conv.conv.", "quant_conv.")] = spatial_weight
    return weights


def image_tokenizer_encode(
    model: VisionTokenizer, weights: dict[str, Tensor], pixels: Tensor
) -> Tensor:
    spatial = model.encoder.spatial(pixels)
    return F.conv2d(spatial, weights["quant_conv.weight"], weights["quant_conv.bias"])


def image_tokenizer_decode(
    model: VisionTokenizer, weights: dict[str, Tensor], zq: Tensor
) -> Tensor:
    z = F.conv2d(zq, weights["post_quant_conv.weight"], weights["post_quant_conv.bias"])
    return model.decoder.spatial(z, zq)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Squared error relative to the variance."""
    return ((ours - theirs).square().mean() / theirs.var()).item()


@torch.no_grad()
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_images_are_encoded_and_decoded_as_by_the_image_tokenizer(factor: int) -> None:
    torch.manual_seed(0)
    old = VisionTokenizer(CONFIG).eval()
    weights = image_tokenizer_weights(old)
    model = VisionTokenizer(replace(CONFIG, temporal_downsample_factor=factor)).eval()
    left = warm_start(model, weights)
    assert left
    assert all(".time_" in name for name in left)
    pixels, zq = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 4, 8, 8) * 0.5
    assert (
        relative_error(
            model.encode_latent(pixels)[:, :, 0], image_tokenizer_encode(old, weights, pixels)
        )
        < 0.02
    )
    # Approximate at the border; without compensating the temporal SiLUs it is 7.
    assert (
        relative_error(
            model.decode_latent(zq[:, :, None]), image_tokenizer_decode(old, weights, zq)
        )
        < 0.4
    )


@torch.no_grad()
def test_repeated_frame_has_the_codes_of_the_image() -> None:
    torch.manual_seed(0)
    model = VisionTokenizer(CONFIG).eval()
    warm_start(model, image_tokenizer_weights(VisionTokenizer(CONFIG)))
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    codes = model.encode(pixels[:, None].expand(-1, 8, -1, -1, -1))
    for group in codes.unbind(1):
        assert torch.equal(group, model.encode(pixels))


def test_video_tokenizer_is_copied_exactly() -> None:
    ours = tiny_vision(seed=3)
    model = tiny_vision(seed=4)
    assert warm_start(model, ours.state_dict()) == []
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(model.encode(pixels), ours.encode(pixels))


def test_codebook_of_another_size_is_not_copied() -> None:
    model = tiny_vision(seed=4, codebook_size=32)
    before = model.quantize.embedding.weight.clone()
    assert warm_start(model, tiny_vision(seed=3).state_dict()) == [CODEBOOK]
    assert torch.equal(model.quantize.embedding.weight, before)


def test_mismatched_weights_are_refused() -> None:
    model = VisionTokenizer(CONFIG)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    wider = image_tokenizer_weights(VisionTokenizer(replace(CONFIG, ch=64)))
    with pytest.raises(InputError, match=r"encoder\.conv_in\.weight: shape \[64, 3, 3, 3\]"):
        warm_start(model, wider)
    less = image_tokenizer_weights(model)
    del less["decoder.conv_out.bias"]
    with pytest.raises(InputError, match=r"decoder\.conv_out\.bias and 0 more are missing"):
        warm_start(model, less)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_unknown_names_are_ignored() -> None:
    model = VisionTokenizer(CONFIG)
    weights = {
        **image_tokenizer_weights(VisionTokenizer(CONFIG)),
        "loss.discriminator.w": torch.zeros(3),
    }
    assert all(".time_" in name for name in warm_start(model, weights))
