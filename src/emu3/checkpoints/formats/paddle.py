"""The PaddlePaddle format, as PaddleMIX's Emu3 saves it.

Config files, vocabulary and tensor names are BAAI's, with two differences:

* `paddle.nn.Linear` stores its weight as [in, out], PyTorch as [out, in]. Convolutions, embeddings
  have the same orientation.
* `paddle.nn.BatchNorm3D` names its statistics `_mean` and `_variance` and counts no batches.

PaddleNLP writes the format `np` into the metadata of its safetensors files and reads back only `np`
and `pd`. A copy of BAAI's files on Paddle's servers still has the format `pt` and is read as such.

Sources: PaddlePaddle/PaddleMIX `paddlemix/models/emu3/modeling_emu3.py` (every projection and the
head an `nn.Linear`) and `modeling_emu3visionvq.py` (`Conv2D`, `Conv3D`, `BatchNorm3D`, no linear
layer); PaddlePaddle/Paddle `python/paddle/nn/layer/norm.py`, `_BatchNormBase`, and the reference
page of `paddle.nn.Linear`; PaddlePaddle/PaddleNLP `paddlenlp/transformers/model_utils.py`,
`load_state_dict`.
"""

from __future__ import annotations

SAVED_BY_PADDLE = frozenset({"np", "pd"})
"""Values of `format` in the metadata of safetensors files that Paddle's libraries write."""

STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}
COUNTER = "num_batches_tracked"


def decoder_name(name: str) -> str:
    """The stored name of a decoder tensor: unchanged."""
    return name


def vision_name(name: str) -> str | None:
    """The stored name of a vision tokenizer tensor; None for batch counters.

    Paddle does not store the counters, and no computation reads them. They are loaded as 0.
    """
    module, _, last = name.rpartition(".")
    if last == COUNTER:
        return None
    return f"{module}.{STATISTICS.get(last, last)}"


def is_transposed(name: str) -> bool:
    """Whether Paddle stores this tensor transposed, as it does every linear layer.

    All of these are in the decoder: `proj_out` of the vision tokenizer is a convolution.
    """
    return name.endswith("_proj.weight") or name == "lm_head.weight"
