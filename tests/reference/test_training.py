"""One step of training is the one that transformers would make, and documents are BAAI's.

Their loss means over labels and knows no weights, so labels stand on the ids of codes alone, as in
`datasets.py` of baaivision/Emu3, whose samples are `BOS prompt image` without an EOS.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from emu3.checkpoints.generation_defaults import QUALITY_SUFFIX
from emu3.processing.prompts import PromptTemplates
from emu3.processing.tokenizer import TextTokenizer
from emu3.testing import byte_tokenizer, tiny_decoder
from emu3.training.lm_loss import TrainingSequence, accumulate_gradients, modality_loss_weights

pytest.importorskip("transformers", reason="needs pip install emu3[reference]")

from tests.reference.test_transformers import their_decoder

PROMPTS = PromptTemplates.from_tokenizer(byte_tokenizer())
V = PROMPTS.tokenizer.vocabulary


def samples() -> list[Tensor]:
    """Documents without their EOS, of different lengths."""
    grids = [(2, 3), (1, 5), (4, 4)]
    codes = [torch.randint(V.codebook_size, grid) for grid in grids]
    prompts = ["a red apple", "b", "two words"]
    return [PROMPTS.document(*each)[:-1] for each in zip(prompts, codes, strict=True)]


def test_loss_and_every_gradient_are_theirs() -> None:
    ours = tiny_decoder(attention_dropout=0.0)
    theirs = their_decoder(ours)  # in eval mode: dropout is all that differs
    rows = samples()
    documents = [
        TrainingSequence(ids, modality_loss_weights(ids, V.visual, 0.0, 1.0)) for ids in rows
    ]
    loss = accumulate_gradients(ours.train(), documents, V.visual, micro_batch_size=2)["loss"]

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
        theirs_of_it = wanted[name].grad
        assert torch.allclose(parameter.grad, theirs_of_it, atol=1e-7, rtol=1e-4), name


def test_a_document_is_bos_prompt_image_eos() -> None:
    codes = torch.tensor([[5, 6], [7, 8]])
    ids = PROMPTS.document("ab", codes)
    v = V.visual.start
    rows = [v + 5, v + 6, V.eol, v + 7, v + 8, V.eol]
    image = [V.sov, *b"2*2", V.sot, *rows, V.eof, V.eov]
    assert ids.tolist() == [V.bos, *b"ab", *image, V.eos]


@pytest.mark.parametrize(("key", "at"), [("single", None), ("batch0", 0), ("batch1", 1)])
def test_a_document_is_what_the_published_code_writes(
    reference: Path, key: str, at: int | None
) -> None:
    """Its data set joins what its processor does: a prompt, then an image of any size."""
    golden = json.loads((reference / "golden.json").read_text("utf-8"))
    text = golden["single"]["prompts"] if at is None else golden["batch"]["prompts"][at]
    prompts = PromptTemplates.from_tokenizer(TextTokenizer.from_folder(reference / "Emu3-Gen-tiny"))
    v = prompts.tokenizer.vocabulary
    whole = load_file(reference / "golden.safetensors")[f"{key}.output"][0].long()
    rows = int((whole == v.eol).sum())
    codes = whole[(whole >= v.visual.start) & (whole < v.visual.stop)] - v.visual.start
    document = prompts.document(text + QUALITY_SUFFIX, codes.view(rows, -1))
    assert document.tolist() == whole.tolist()
