"""The vision tokenizer matches BAAI's code, and its fast paths match the plain ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from emu3.checkpoints.weights import load_vision_tokenizer
from emu3.config import VisionConfig
from emu3.models.vq.blocks import AttnBlock
from emu3.models.vq.quantizer import VectorQuantizer
from emu3.models.vq.tokenizer import VisionTokenizer


def small(**changes: object) -> VisionTokenizer:
    """A random tokenizer; weights and BatchNorm statistics are all non-trivial."""
    settings = {"codebook_size": 64, "ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1}
    torch.manual_seed(0)
    model = VisionTokenizer(VisionConfig(**{"attn_resolutions": (1,), **settings, **changes}))
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    torch.nn.init.normal_(model.quantize.embedding.weight)
    return model.eval()


@pytest.fixture
def golden(reference: Path) -> dict[str, Tensor]:
    return load_file(reference / "golden.safetensors")


@pytest.fixture
def tiny(reference: Path) -> VisionTokenizer:
    return load_vision_tokenizer(reference / "Emu3-VisionTokenizer-tiny", torch.device("cpu"))


@pytest.mark.parametrize("name", ["0", "1"])
@torch.no_grad()
def test_images_match_reference(
    tiny: VisionTokenizer, golden: dict[str, Tensor], name: str
) -> None:
    codes = tiny.encode(golden[f"vq.pixels{name}"])
    assert torch.equal(codes, golden[f"vq.codes{name}"].long())
    torch.testing.assert_close(tiny.decode(codes), golden[f"vq.decoded{name}"], atol=3e-5, rtol=0)


@torch.no_grad()
def test_clips_match_reference(tiny: VisionTokenizer, golden: dict[str, Tensor]) -> None:
    codes = tiny.encode(golden["vq.video"])
    assert torch.equal(codes, golden["vq.video_codes"].long())
    torch.testing.assert_close(tiny.decode(codes), golden["vq.video_decoded"], atol=3e-5, rtol=0)


SHAPES = [{}, {"temporal_downsample_factor": 2}, {"ch_mult": (1, 1, 2), "num_res_blocks": 2}]


@pytest.mark.parametrize("changes", SHAPES)
@torch.no_grad()
def test_image_equals_repeated_frame(changes: dict[str, object]) -> None:
    """The published code repeats an image four times and keeps frame 0."""
    model = small(**changes)
    group = model.config.temporal_downsample_factor
    side = 3 * model.config.spatial_factor
    pixels = torch.rand(2, 3, side, side + model.config.spatial_factor) * 2 - 1
    slow = model.encoder(pixels[:, :, None].repeat(1, 1, group, 1, 1))
    torch.testing.assert_close(
        model.encoder.encode_image(pixels, group), slow, atol=2e-5, rtol=1e-5
    )
    codes = model.encode(pixels)
    assert torch.equal(codes, model.encode(pixels[:, None].repeat(1, group, 1, 1, 1))[:, 0])
    torch.testing.assert_close(
        model.decode(codes), model.decode(codes[:, None])[:, 0], atol=2e-5, rtol=1e-5
    )


@torch.no_grad()
def test_batch_equals_single_images() -> None:
    model = small()
    pixels = torch.rand(3, 3, 8, 12) * 2 - 1
    codes = model.encode(pixels)
    assert torch.equal(codes, torch.cat([model.encode(one[None]) for one in pixels]))


@torch.no_grad()
def test_frame_groups_are_independent() -> None:
    model = small()
    clip = torch.rand(2, 8, 3, 8, 8) * 2 - 1
    codes = model.encode_groups(clip)
    first, second = model.encode(clip[:, :4]), model.encode(clip[:, 4:])
    assert torch.equal(codes, torch.cat([first, second], dim=1))
    pixels = model.decode_groups(codes)
    assert pixels.shape == clip.shape
    torch.testing.assert_close(pixels[:, 4:], model.decode(second), atol=1e-5, rtol=1e-5)


def test_quantizer_inverts_lookup() -> None:
    quantizer = VectorQuantizer(50, 4)
    torch.nn.init.normal_(quantizer.embedding.weight)
    codes = torch.randint(50, (2, 3, 4, 5))
    assert torch.equal(quantizer(quantizer.lookup(codes)), codes)


def test_attention_uses_fused_kernel() -> None:
    """The fused kernel supports the published width and is the default."""
    block = AttnBlock(1024, latent_channels=None).eval()
    x = torch.randn(1, 1024, 8, 8)
    with torch.no_grad():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises if the kernel is unavailable
            fused = block(x)
        assert torch.equal(block(x), fused)
        with sdpa_kernel(SDPBackend.MATH):
            torch.testing.assert_close(block(x), fused, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 7, 8), (1, 1, 8, 8), (1, 3, 3, 8, 8), (3, 8, 8)])
def test_invalid_pixel_shapes_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"multiples? of|pixels must be"):
        small().encode(torch.zeros(shape))


@pytest.mark.parametrize("code", [-1, 64])
def test_codes_outside_codebook_raise(code: int) -> None:
    with pytest.raises(ValueError, match="0 to 63"):
        small().decode(torch.full((1, 2, 2), code))
