"""One step of training is the one that transformers would make, and documents are BAAI's.

Their loss means over labels and knows no weights, so labels stand on the ids of codes alone, as in
`datasets.py` of baaivision/Emu3, whose samples are `BOS prompt picture` without an EOS.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from emu3.prompt import Prompts
from emu3.testing import byte_tokenizer, tiny_decoder
from emu3.train.documents import Document, accumulate, weigh

pytest.importorskip("transformers", reason="needs pip install emu3[reference]")

from tests.reference.test_transformers import their_decoder

PROMPTS = Prompts.of(byte_tokenizer())
V = PROMPTS.tokenizer.vocabulary


def samples() -> list[Tensor]:
    """Documents without their EOS, of different lengths."""
    grids = [(2, 3), (1, 5), (4, 4)]
    codes = [torch.randint(V.codebook_size, grid) for grid in grids]
    prompts = ["a red apple", "b", "two words"]
    return [PROMPTS.image_document(*each)[:-1] for each in zip(prompts, codes, strict=True)]


def test_loss_and_every_gradient_are_theirs() -> None:
    ours = tiny_decoder(attention_dropout=0.0)
    theirs = their_decoder(ours)  # in eval mode: dropout is all that differs
    rows = samples()
    documents = [Document(ids, weigh(ids, V.visual, 0.0, 1.0)) for ids in rows]
    loss = accumulate(ours.train(), documents, V.visual, micro_batch=2)["loss"]

    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=V.pad)
    visual = (ids >= V.visual.start) & (ids < V.visual.stop)
    out = theirs(
        input_ids=ids,
        attention_mask=(ids != V.pad).long(),
        labels=torch.where(visual, ids, -100),
    )
    out.loss.backward()
    assert loss == pytest.approx(out.loss.item(), rel=1e-5)
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(
            parameter.grad,
            wanted[name].grad,
            atol=1e-7,
            rtol=1e-4,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_a_document_is_bos_prompt_picture_eos() -> None:
    codes = torch.tensor([[5, 6], [7, 8]])
    ids = PROMPTS.image_document("ab", codes)
    v = V.visual.start
    rows = [v + 5, v + 6, V.eol, v + 7, v + 8, V.eol]
    picture = [V.sov, *b"2*2", V.sot, *rows, V.eof, V.eov]
    assert ids.tolist() == [V.bos, *b"ab", *picture, V.eos]
