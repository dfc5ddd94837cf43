"""Ours and the port in transformers, built at toy size with the same weights: the same numbers.

The published code is compared through the reference folder; this comparison needs no files, and
so covers head counts, strides and depths that the reference folder does not show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emu3.checkpoints.loading import save_decoder
from emu3.config import DecoderConfig, VisionConfig
from emu3.inference.reference import generate_visual
from emu3.inference.sampling import SamplingParams, apply_cfg
from emu3.models.transformer import Transformer
from emu3.models.vq.tokenizer import VisionTokenizer
from emu3.processing.prompts import PromptTemplates
from emu3.testing import byte_tokenizer, tiny_decoder, tiny_vision

transformers = pytest.importorskip("transformers", reason="needs pip install emu3[reference]")


def their_decoder(ours: Transformer) -> Any:
    """`Emu3ForCausalLM` of the same size; its names are the published ones, as ours are."""
    config: DecoderConfig = ours.config
    shared = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"]
    shared += ["num_attention_heads", "num_key_value_heads", "max_position_embeddings"]
    shared += ["rms_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id"]
    model = transformers.Emu3ForCausalLM(
        transformers.Emu3TextConfig(
            **{key: getattr(config, key) for key in shared},
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
    )
    model.load_state_dict(ours.state_dict(), strict=True)
    return model.eval()


SIZES: list[dict[str, Any]] = [
    {},
    {"num_attention_heads": 2, "num_key_value_heads": 2, "rope_theta": 1e4},
    {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 1, "num_hidden_layers": 3},
    {"rms_norm_eps": 1e-2, "intermediate_size": 40},
]


@pytest.mark.parametrize("changes", SIZES)
@torch.no_grad()
def test_logits_are_theirs(changes: dict[str, Any]) -> None:
    ours = tiny_decoder(**changes)
    ids = torch.randint(ours.config.vocab_size, (2, 40))
    theirs = their_decoder(ours)(input_ids=ids).logits
    torch.testing.assert_close(ours(ids), theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_folder_of_ours_is_opened_by_theirs(tmp_path: Path) -> None:
    ours = tiny_decoder()
    save_decoder(ours, byte_tokenizer(), tmp_path)
    theirs = transformers.Emu3ForCausalLM.from_pretrained(tmp_path, local_files_only=True).eval()
    ids = torch.randint(ours.config.vocab_size, (1, 20))
    torch.testing.assert_close(ours(ids), theirs(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (2, 6)])
@pytest.mark.parametrize("seed", [0, 1])
def test_guided_images_are_theirs_token_for_token(size: tuple[int, int], seed: int) -> None:
    """Their `generate`: greedy, guidance 3, and only ids that our document_format allows."""
    ours = tiny_decoder(seed, initializer_range=0.3)
    prompts = PromptTemplates.from_tokenizer(byte_tokenizer())
    document_format = prompts.document_format
    row, negative = prompts.image("a red apple", size), prompts.image("ugly", size)
    out = generate_visual(
        ours, document_format, [row], [negative], [size], SamplingParams(1), 3.0, [0]
    )[0]

    def allowed(_: int, ids: Tensor) -> list[int]:
        return list(range(*document_format.allowed_range(*size, len(ids) - len(row))))

    theirs = their_decoder(ours).generate(
        torch.tensor([row]),
        attention_mask=torch.ones(1, len(row), dtype=torch.long),
        negative_prompt_ids=torch.tensor([negative]),
        negative_prompt_attention_mask=torch.ones(1, len(negative), dtype=torch.long),
        guidance_scale=3.0,
        prefix_allowed_tokens_fn=allowed,
        do_sample=False,
        max_new_tokens=len(out) + 5,
    )
    assert theirs[0].tolist() == [*row, *out.tolist()]
    unguided = generate_visual(
        ours, document_format, [row], None, [size], SamplingParams(1), 1.0, [0]
    )[0]
    if size != (1, 1):
        assert unguided.tolist() != out.tolist()  # so that guidance was indeed compared


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(5, 1.0, 0.7),
        SamplingParams(0, 0.6, 1.0),
        SamplingParams(8, 0.5, 2.0),
        SamplingParams(0, 1.0, 3.0),
    ],
)
def test_filters_are_theirs(sampling: SamplingParams) -> None:
    logits = torch.randn(8, 30) * 3
    ids = torch.zeros(8, 1, dtype=torch.long)
    scores = transformers.TemperatureLogitsWarper(sampling.temperature)(ids, logits)
    if sampling.top_k:
        scores = transformers.TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = transformers.TopPLogitsWarper(sampling.top_p)(ids, scores)
    torch.testing.assert_close(sampling.filter_logits(logits), scores)


def test_guidance_is_theirs() -> None:
    scores, unconditional = torch.randn(1, 30), torch.randn(1, 30)
    processor = transformers.UnbatchedClassifierFreeGuidanceLogitsProcessor(3.0, None)
    processor.get_unconditional_logits = lambda ids: unconditional[:, None]
    theirs = processor(torch.zeros(1, 1, dtype=torch.long), scores)
    torch.testing.assert_close(apply_cfg(scores, unconditional, 3.0), theirs)


# The vision tokenizer.

PARTS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj_out": "out_proj"}


def their_name(name: str) -> str:
    """A published name of a tensor of the vision tokenizer, as the port has it."""
    name = name.replace("encoder.down.", "encoder.down_block.down.")
    name = name.replace("decoder.up.", "decoder.up_block.up.")
    name = name.replace(".mid.", ".middle_block.").replace("attn_1.norm.", "attn_norm.")
    parts = name.split(".")
    if "attn" in parts:
        at = parts.index("attn")
        if parts[at + 2] == "norm":
            parts[at : at + 3] = ["attn_norms", parts[at + 1]]
    if "attn" in parts or "attn_1" in parts:
        parts = [PARTS.get(part, part) for part in parts]
    return ".".join(parts)


def their_vision(ours: VisionTokenizer) -> Any:
    """`Emu3VQVAE` of the same size and weights; where it has a linear layer we have a 1x1 conv."""
    config: VisionConfig = ours.config
    model = transformers.Emu3VQVAE(
        transformers.Emu3VQVAEConfig(
            codebook_size=config.codebook_size,
            embed_dim=config.embed_dim,
            latent_channels=config.z_channels,
            base_channels=config.ch,
            channel_multiplier=list(config.ch_mult),
            num_res_blocks=config.num_res_blocks,
            attn_resolutions=list(config.attn_resolutions),
            temporal_downsample_factor=config.temporal_downsample_factor,
            hidden_size=config.ch * config.ch_mult[-1],
        )
    )
    wanted = model.state_dict()
    state = {their_name(name): tensor for name, tensor in ours.state_dict().items()}
    for name, tensor in state.items():
        if name in wanted and wanted[name].ndim == 2 and tensor.ndim == 4:
            state[name] = tensor[:, :, 0, 0]
    model.load_state_dict(state, strict=True)
    return model.eval()


VISIONS: list[dict[str, Any]] = [
    {},
    {"ch_mult": (1, 2), "attn_resolutions": (1,), "num_res_blocks": 2},
    {"ch_mult": (1, 1, 2, 2), "attn_resolutions": (2, 3), "embed_dim": 6, "z_channels": 6},
    {"temporal_downsample_factor": 2, "attn_resolutions": ()},
]


@pytest.fixture(params=VISIONS, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[VisionTokenizer, Any]:
    """Both, every weight and statistic moved away from its neutral start."""
    ours = tiny_vision(**request.param)
    for name, tensor in ours.state_dict().items():
        if tensor.is_floating_point() and ("running" in name or "norm" in name):
            tensor.uniform_(0.5, 1.5)
    return ours, their_vision(ours)


@torch.no_grad()
def test_codes_and_images_are_theirs(pair: tuple[VisionTokenizer, Any]) -> None:
    ours, theirs = pair
    factor = ours.config.spatial_factor
    height, width = 3 * factor, 5 * factor
    pixels = torch.rand(2, 3, height, width) * 2 - 1
    codes = ours.encode(pixels)
    encoded = theirs.encode(pixels, torch.tensor([[height, width]] * 2)).image_tokens
    assert torch.equal(codes, torch.stack(list(encoded)))
    assert len(codes.unique()) > 3
    torch.testing.assert_close(ours.decode(codes), theirs.decode(codes), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_codes_and_clips_are_theirs(pair: tuple[VisionTokenizer, Any]) -> None:
    """Short and square: on longer clips the port cuts time where it means to cut height."""
    ours, theirs = pair
    side, frames = 4 * ours.config.spatial_factor, 8
    pixels = torch.rand(1, frames, 3, side, side) * 2 - 1
    codes = ours.encode(pixels)
    assert codes.shape == (1, frames // ours.config.temporal_downsample_factor, 4, 4)
    encoded = theirs.encode(pixels, torch.tensor([[side, side]])).image_tokens
    assert torch.equal(codes[0], encoded[0])
    torch.testing.assert_close(ours.decode(codes), theirs.decode(codes), atol=2e-5, rtol=1e-5)
