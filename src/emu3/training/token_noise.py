"""Token noise: some visual tokens that the model reads are replaced; its targets stay unchanged.

A model that has read half an image can often predict the rest without the prompt, and learns to
ignore the prompt. With some input tokens wrong it has to use the prompt at every position. This is
word dropout (Bowman et al. 2016, arXiv 1511.06349) with other visual tokens instead of a mask,
because a wrongly sampled token looks like any other token too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def replace_visual_tokens(
    token_ids: Tensor,
    visual: slice,
    probability: float,
    replacements: Tensor,
    rng: np.random.Generator,
) -> Tensor:
    """A copy of token ids [L] with some visual ones replaced.

    Each token id in the range `visual` is replaced with the given probability, by a random one of
    `replacements` [N].
    """
    is_visual = (token_ids >= visual.start) & (token_ids < visual.stop)
    chosen = is_visual & torch.from_numpy(rng.random(len(token_ids)) < probability)
    indices = torch.from_numpy(rng.integers(len(replacements), size=len(token_ids)))
    return torch.where(chosen, replacements[indices], token_ids)
