"""The transformers models, against the decoder and vision tokenizer of this library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason='needs pip install "emu3[hf]"')

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
)

import emu3
from emu3.config import DecoderConfig
from emu3.errors import InputError
from emu3.hf import Emu3Config, Emu3ForCausalLM, Emu3VisionVQConfig, Emu3VisionVQModel
from emu3.inference.reference import generate_text
from emu3.inference.sampling import SamplingParams
from emu3.testing import byte_tokenizer, tiny_decoder, tiny_vision

DECODER = tiny_decoder()
V = byte_tokenizer().vocabulary
GREEDY = GenerationConfig(do_sample=False, eos_token_id=V.eos, pad_token_id=V.pad)
ROWS = [list(b"a red apple"), list(b"hi"), list(b"two dogs and a library_model")]


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny).eval()


def pad_batch(rows: list[list[int]], left: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, [B, longest]."""
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        gap = [0] * (longest - len(row))
        ids.append([V.pad for _ in gap] + row if left else row + [V.pad for _ in gap])
        mask.append(gap + [1] * len(row) if left else [1] * len(row) + gap)
    return torch.tensor(ids), torch.tensor(mask)


def test_weights_equal_the_decoder(model: Any) -> None:
    state = model.state_dict()
    assert list(state) == list(DECODER.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in DECODER.state_dict().items())
    assert model.config.as_decoder_config() == DECODER.config


@torch.no_grad()
def test_logits_equal_the_decoder(model: Any) -> None:
    ids = torch.randint(V.size, (3, 30))
    out = model(ids)
    assert torch.equal(out.logits, DECODER(ids))
    assert out.logits.dtype == torch.float32
    kept = model(ids, logits_to_keep=2).logits
    torch.testing.assert_close(kept, out.logits[:, -2:], atol=1e-6, rtol=1e-6)
    embedded = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embedded).logits, out.logits)
    assert torch.equal(model(ids, return_dict=False)[0], out.logits)


@torch.no_grad()
def test_cached_equals_uncached(model: Any) -> None:
    """One by one, in pieces, or all at once."""
    ids, mask = pad_batch(ROWS)
    whole = model(ids, attention_mask=mask, use_cache=False)
    assert whole.past_key_values is None
    for pieces in ([1] * ids.shape[1], [7, 1, ids.shape[1] - 8]):
        cache, logits, end = DynamicCache(), [], 0
        for piece in ids.split(pieces, dim=1):
            end += piece.shape[1]
            out = model(piece, attention_mask=mask[:, :end], past_key_values=cache)
            logits.append(out.logits)
        real = mask.bool()
        torch.testing.assert_close(
            torch.cat(logits, 1)[real], whole.logits[real], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("left", [True, False])
@torch.no_grad()
def test_padded_batch_equals_single_rows(model: Any, left: bool) -> None:
    ids, mask = pad_batch(ROWS, left)
    together = model(ids, attention_mask=mask).logits
    for row, logits, real in zip(ROWS, together, mask.bool(), strict=True):
        alone = DECODER(torch.tensor([row]))[0]
        torch.testing.assert_close(logits[real], alone, atol=1e-5, rtol=1e-5)


def test_greedy_generation_equals_generate_text(model: Any) -> None:
    """Alone and in a batch padded on the left."""
    expected = generate_text(DECODER, ROWS, V.eos, V.pad, 20, SamplingParams(top_k=1), [0] * 3)
    ids, mask = pad_batch(ROWS)
    out = model.generate(ids, GREEDY, attention_mask=mask, max_new_tokens=20)
    assert torch.equal(out[:, ids.shape[1] :], expected)
    for row, answer in zip(ROWS, expected, strict=True):
        alone = model.generate(torch.tensor([row]), GREEDY, max_new_tokens=20)
        assert alone[0].tolist() == row + answer.tolist()


@pytest.mark.parametrize(
    "settings",
    [{"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 1, "top_k": 5}],
)
def test_greedy_generation_with_other_caches(model: Any, settings: dict[str, Any]) -> None:
    ids, mask = pad_batch(ROWS)
    plain = model.generate(ids, GREEDY, attention_mask=mask, max_new_tokens=8)
    out = model.generate(ids, GREEDY, attention_mask=mask, max_new_tokens=8, **settings)
    assert torch.equal(out, plain)


def test_beam_search_and_sampling_run(model: Any) -> None:
    ids, mask = pad_batch(ROWS)
    for settings in ({"num_beams": 3}, {"do_sample": True, "top_k": 20, "temperature": 0.7}):
        out = model.generate(ids, attention_mask=mask, max_new_tokens=6, **settings)
        assert out.shape[0] == 3


def test_loss_is_next_token_cross_entropy(model: Any) -> None:
    ids, mask = pad_batch(ROWS, left=False)  # left padding would be the context of the first target
    labels = ids.masked_fill(mask == 0, -100)
    loss = model(ids, attention_mask=mask, labels=labels).loss
    logits = torch.cat([DECODER(torch.tensor([row]))[0, :-1] for row in ROWS])
    wanted = torch.cat([torch.tensor(row)[1:] for row in ROWS])
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, wanted))


def test_training_gives_all_gradients_and_no_cache(tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny).train()
    ids = torch.randint(V.size, (2, 12))
    out = model(ids, labels=ids)
    out.loss.backward()
    assert out.past_key_values is None
    assert all(weight.grad is not None for weight in model.parameters())


@torch.no_grad()
def test_saved_model_loads_in_both_libraries(tiny: Path, model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    DecoderConfig.from_file(folder / "config.json")
    ids = torch.randint(V.size, (1, 20))
    again = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.generation_config.eos_token_id == V.eos
    vision = tiny / "vision_tokenizer"
    library_model = emu3.Emu3.from_pretrained(folder, vision=vision, device="cpu", dtype="float32")
    logits = library_model.checkpoint.decoder(ids)
    torch.testing.assert_close(logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    assert library_model.image("a cat", area=256).images[0].size == (16, 16)


@pytest.mark.parametrize("trusted", [None, True, False])
def test_no_remote_code_is_run(remote: Path, trusted: bool | None) -> None:
    """The files that `auto_map` names do not exist."""
    config = AutoConfig.from_pretrained(remote, trust_remote_code=trusted)
    assert isinstance(config, Emu3Config)
    model = AutoModelForCausalLM.from_pretrained(remote, trust_remote_code=trusted)
    assert isinstance(model, Emu3ForCausalLM)
    inside = remote / "vision_tokenizer"
    vision = AutoModel.from_pretrained(inside, trust_remote_code=trusted)
    assert isinstance(vision, Emu3VisionVQModel)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2", "flex_attention"])
@pytest.mark.parametrize("device", ["cpu", {"": "cpu"}, torch.device("cpu"), None])
def test_arguments_of_published_scripts_are_accepted(
    tiny: Path, attention: str, device: Any
) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        tiny, attn_implementation=attention, device_map=device, dtype=torch.bfloat16
    )
    assert (model.dtype, model.device.type) == (torch.bfloat16, "cpu")
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


def test_from_config_initializes_weights(tiny: Path) -> None:
    config = AutoConfig.from_pretrained(tiny)
    fresh = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    std = fresh.model.embed_tokens.weight.std().item()
    assert std == pytest.approx(config.initializer_range, rel=0.1)
    assert (fresh.model.norm.weight == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
    ],
)
def test_unsupported_config_values_raise(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Emu3Config(**change)


def test_missing_and_unexpected_weights_raise(tiny: Path) -> None:
    config = AutoConfig.from_pretrained(tiny)
    config.num_hidden_layers = 3
    with pytest.raises(InputError, match=r"missing keys: model\.layers\.2"):
        AutoModelForCausalLM.from_pretrained(tiny, config=config)
    config.num_hidden_layers = 1
    with pytest.raises(InputError, match=r"unexpected keys: model\.layers\.1"):
        AutoModelForCausalLM.from_pretrained(tiny, config=config)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"output_attentions": True}, "not supported"),
        ({"output_hidden_states": True}, "not supported"),
        ({"inputs_embeds": torch.zeros(1, 3, 32)}, "either"),
        ({"attention_mask": torch.ones(1, 9)}, "must cover 0 cached and 3 new"),
    ],
)
def test_unsupported_calls_raise(model: Any, call: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(torch.tensor([[1, 2, 3]]), **call)


@torch.no_grad()
def test_vision_tokenizer_equals_the_library(tiny: Path) -> None:
    tokenizer, model = tiny_vision(), AutoModel.from_pretrained(tiny / "vision_tokenizer").eval()
    assert isinstance(model.config, Emu3VisionVQConfig)
    assert list(model.state_dict()) == list(tokenizer.state_dict())
    assert model.spatial_scale_factor == 4
    for pixels in (torch.rand(2, 3, 8, 12) * 2 - 1, torch.rand(1, 8, 3, 8, 8) * 2 - 1):
        codes = tokenizer.encode(pixels)
        assert torch.equal(model.encode(pixels), codes)
        assert torch.equal(model(pixels), codes)
        assert torch.equal(model.decode(codes), tokenizer.decode(codes))
    wide = model.to(torch.float64)
    assert wide.encode(pixels.double()).shape == codes.shape


def test_import_without_transformers_names_the_extra() -> None:
    script = "import sys; sys.modules['transformers'] = None\nimport emu3.hf"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode
    assert 'pip install "emu3[hf]"' in run.stderr


def test_config_file_round_trip(tiny: Path, tmp_path: Path) -> None:
    """Loading and saving changes no key."""
    AutoConfig.from_pretrained(tiny).save_pretrained(tmp_path)
    first, second = (json.loads((f / "config.json").read_text()) for f in (tiny, tmp_path))
    assert first == second
