"""The same weights in transformers' Emu3, with two decoding loops.

`generate_unbatched` follows the README of the published model: `generate` with guidance in two
unbatched passes and a Python callback for the allowed token ids. `generate_batched` is a loop that
passes both branches together, the fastest way without leaving transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from emu3.bench.models import BenchmarkModel
from emu3.errors import MissingExtraError
from emu3.inference.sampling import SamplingParams, apply_cfg

OnToken = Callable[[], bool]
"""Called after each token; True to stop."""


def convert_model(source: BenchmarkModel) -> Any:
    """transformers' decoder, which shares the weights of `source`.

    Raises MissingExtraError without transformers.
    """
    try:
        from transformers import Emu3ForCausalLM, Emu3TextConfig
    except ImportError:
        raise MissingExtraError("transformers", "hf", "measuring transformers") from None
    from emu3.checkpoints.formats.hf_config import TEXT_KEYS

    config = source.decoder.config
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    settings = {key: getattr(config, key) for key in TEXT_KEYS}
    with torch.device("meta"):
        model = Emu3ForCausalLM(Emu3TextConfig(**settings, rope_parameters=rope))
    rotary = model.model.rotary_emb
    model.load_state_dict(source.decoder.state_dict(), strict=True, assign=True)
    model.model.rotary_emb = type(rotary)(config=model.config)  # its buffer is not in the weights
    return model.to(source.decoder.device).eval()


@torch.inference_mode()
def generate_unbatched(
    model: Any, source: BenchmarkModel, sampling: SamplingParams, scale: float, on_token: OnToken
) -> None:
    """`generate` with guidance and constraints as in the README of the published model."""
    from transformers import (
        GenerationConfig,
        LogitsProcessorList,
        PrefixConstrainedLogitsProcessor,
        StoppingCriteria,
        StoppingCriteriaList,
        UnbatchedClassifierFreeGuidanceLogitsProcessor,
    )

    conditional, unconditional = (
        torch.tensor([row], device=model.device) for row in source.prompts
    )
    (h, w), document_format = source.grid, source.document_format
    visual = list(
        range(document_format.vocabulary.visual.start, document_format.vocabulary.visual.stop)
    )

    def allowed(batch: int, ids: Tensor) -> list[int]:
        # The published recipe searches the ids for the start of the image at every step.
        start = (ids == document_format.vocabulary.sot).nonzero(as_tuple=True)[0][-1].item()
        low, high = document_format.allowed_range(h, w, len(ids) - 1 - int(start))
        return visual if high - low > 1 else [low]

    class Stop(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
            return torch.full((len(input_ids),), on_token(), device=input_ids.device)

    model.generate(
        conditional,
        generation_config=GenerationConfig(
            do_sample=not sampling.greedy,
            top_k=sampling.top_k,
            max_new_tokens=document_format.num_tokens(h, w) + 1,
            eos_token_id=document_format.vocabulary.eos,
            pad_token_id=document_format.vocabulary.pad,
            use_cache=True,
        ),
        logits_processor=LogitsProcessorList(
            [
                UnbatchedClassifierFreeGuidanceLogitsProcessor(
                    scale, model, unconditional_ids=unconditional
                ),
                PrefixConstrainedLogitsProcessor(allowed, num_beams=1),
            ]
        ),
        stopping_criteria=StoppingCriteriaList([Stop()]),
        attention_mask=torch.ones_like(conditional),
    )


@torch.inference_mode()
def generate_batched(
    model: Any, source: BenchmarkModel, sampling: SamplingParams, scale: float, on_token: OnToken
) -> None:
    """Both branches in one pass, without sampling the line ends; top-k and multinomial sampling."""
    from transformers import DynamicCache

    (h, w), document_format, device = source.grid, source.document_format, model.device
    longest = max(map(len, source.prompts))
    padding = [longest - len(row) for row in source.prompts]
    pairs = list(zip(padding, source.prompts, strict=True))
    ids = torch.tensor(
        [[document_format.vocabulary.pad] * n + row for n, row in pairs], device=device
    )
    mask = torch.tensor([[0] * n + [1] * len(row) for n, row in pairs], device=device)
    cache = DynamicCache(config=model.config)
    for step in range(document_format.num_tokens(h, w) + 1):
        positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        out = model(
            ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        conditional, unconditional = out.logits[:, -1:].float().unbind(0)
        low, high = document_format.allowed_range(h, w, step)
        if high - low == 1:
            sampled = torch.tensor([low], device=device)
        else:
            logits = sampling.filter_logits(
                apply_cfg(conditional, unconditional, scale)[:, low:high]
            )
            sampled = low + torch.multinomial(logits.softmax(-1), 1)[0]
        ids = sampled.view(1, 1).expand(2, 1)
        mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
        if on_token():
            return
