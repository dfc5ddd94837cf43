"""The same weights in transformers' own Emu3, drawn in the two ways people do it there.

*By the original's recipe*, as its README has it: `generate` with guidance in two unbatched passes
and a Python callback that says which ids are allowed. *In one batch*: a loop written by hand that
passes both branches together, which is the best that can be had without leaving transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from emu3.bench.sizes import Subject
from emu3.errors import MissingExtraError
from emu3.inference.sampling import SamplingParams, apply_cfg

OnToken = Callable[[], bool]
"""Called after each id; true when it is enough."""


def model_of(subject: Subject) -> Any:
    """transformers' decoder with the subject's weights, which it takes over."""
    try:
        from transformers import Emu3ForCausalLM, Emu3TextConfig
    except ImportError:
        raise MissingExtraError("transformers", "hf", "measuring transformers") from None
    from emu3.checkpoints.formats.hf_config import TEXT_KEYS

    config = subject.decoder.config
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    said = {key: getattr(config, key) for key in TEXT_KEYS}
    with torch.device("meta"):
        model = Emu3ForCausalLM(Emu3TextConfig(**said, rope_parameters=rope))
    rotary = model.model.rotary_emb
    model.load_state_dict(subject.decoder.state_dict(), strict=True, assign=True)
    model.model.rotary_emb = type(rotary)(config=model.config)  # its buffer is in no checkpoint
    return model.to(subject.decoder.device).eval()


@torch.inference_mode()
def by_the_recipe(
    model: Any, subject: Subject, sampling: SamplingParams, scale: float, on_token: OnToken
) -> None:
    """`generate`, guided and constrained as the README of the published model does it."""
    from transformers import (
        GenerationConfig,
        LogitsProcessorList,
        PrefixConstrainedLogitsProcessor,
        StoppingCriteria,
        StoppingCriteriaList,
        UnbatchedClassifierFreeGuidanceLogitsProcessor,
    )

    conditional, unconditional = (
        torch.tensor([row], device=model.device) for row in subject.prompts
    )
    (h, w), document_format = subject.grid, subject.document_format
    visual = list(
        range(document_format.vocabulary.visual.start, document_format.vocabulary.visual.stop)
    )

    def allowed(batch: int, ids: Tensor) -> list[int]:
        # The original asks the ids where the picture began, at every step; so does this.
        begun = (ids == document_format.vocabulary.sot).nonzero(as_tuple=True)[0][-1].item()
        low, high = document_format.allowed_range(h, w, len(ids) - 1 - int(begun))
        return visual if high - low > 1 else [low]

    class Enough(StoppingCriteria):
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
        stopping_criteria=StoppingCriteriaList([Enough()]),
        attention_mask=torch.ones_like(conditional),
    )


@torch.inference_mode()
def in_one_batch(
    model: Any, subject: Subject, sampling: SamplingParams, scale: float, on_token: OnToken
) -> None:
    """Both branches in one pass, line ends known, sampling by top-k and multinomial."""
    from transformers import DynamicCache

    (h, w), document_format, device = subject.grid, subject.document_format, model.device
    longest = max(map(len, subject.prompts))
    spare = [longest - len(row) for row in subject.prompts]
    pairs = list(zip(spare, subject.prompts, strict=True))
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
            drawn = torch.tensor([low], device=device)
        else:
            logits = sampling.filter_logits(
                apply_cfg(conditional, unconditional, scale)[:, low:high]
            )
            drawn = low + torch.multinomial(logits.softmax(-1), 1)[0]
        ids = drawn.view(1, 1).expand(2, 1)
        mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
        if on_token():
            return
