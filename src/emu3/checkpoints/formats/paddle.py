"""The layout of PaddlePaddle: what PaddleMIX's Emu3 saves.

Layers have BAAI's names there. Two things differ once Paddle has saved a model:

* `paddle.nn.Linear` keeps its matrix as [in, out]; ours is [out, in]. Convolutions and embeddings
  are laid out alike.
* `paddle.nn.BatchNorm3D` calls its statistics `_mean` and `_variance` and counts no batches.

Such a file says so: PaddleNLP puts the format `np` into the metadata of the safetensors it saves,
and its reader of saved weights takes `np` and `pd` alone. A copy of BAAI's files on Paddle's
servers still says `pt` and is BAAI's layout, to be read as it is.

Sources: PaddlePaddle/PaddleMIX `paddlemix/models/emu3/modeling_emu3.py` (every projection and the
head an `nn.Linear`) and `modeling_emu3visionvq.py` (`Conv2D`, `Conv3D`, `BatchNorm3D`, no linear
layer); PaddlePaddle/Paddle `python/paddle/nn/layer/norm.py`, `_BatchNormBase`, and the reference
page of `paddle.nn.Linear`; PaddlePaddle/PaddleNLP `paddlenlp/transformers/model_utils.py`,
`load_state_dict`.
"""

from __future__ import annotations

SAVED_BY_PADDLE = frozenset({"np", "pd"})
"""Values of `format` in the metadata of safetensors that Paddle's own libraries write."""

STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}
COUNTER = "num_batches_tracked"


def decoder_name(ours: str) -> str:
    """The name of a decoder's tensor: the same."""
    return ours


def vision_name(ours: str) -> str | None:
    """The name of a vision tokenizer's tensor.

    None for the counters of batches, which Paddle does not have and no arithmetic reads: whoever
    copies puts 0 there.
    """
    module, _, last = ours.rpartition(".")
    if last == COUNTER:
        return None
    return f"{module}.{STATISTICS.get(last, last)}"


def is_transposed(ours: str) -> bool:
    """Whether Paddle keeps this tensor transposed, as it does every linear layer of the decoder.

    `proj_out` of the vision tokenizer is a convolution and stays as it is.
    """
    return ours.endswith("_proj.weight") or ours == "lm_head.weight"
