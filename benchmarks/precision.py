"""The quality of each precision: `python -m benchmarks.precision` (needs the extra `nano`).

On nano: the perplexity of codes and answers over documents of Emoji World, and how often the most
probable code under guidance equals that of float32, with teacher forcing. On random weights of the
published width: the error of the logits after one block.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from emu3 import Emu3
from emu3.checkpoints.loading import save_decoder
from emu3.checkpoints.weights import load_decoder
from emu3.config import DecoderConfig
from emu3.inference.sampling import apply_cfg
from emu3.models.precision import PRECISIONS, Precision
from emu3.models.transformer import Transformer, init_weights
from emu3.testing import byte_tokenizer
from recipes.nano.emoji_world import (
    Icons,
    caption,
    question_answer,
    random_scene,
    render_scene,
    seen_pairs,
)

SCENES = 200
SCALE = 3.0  # of guidance
CPU = torch.device("cpu")


def documents(model: Emu3) -> list[tuple[Tensor, Tensor, Tensor, int]]:
    """For each scene: generation ids, the same without caption, question ids, and answer start."""
    icons, rng, prompts = Icons.load(), np.random.default_rng(7), model.checkpoint.prompts
    pairs = seen_pairs()
    found = []
    for _ in range(SCENES):
        thing, style = map(int, pairs[rng.integers(len(pairs))])
        scene = random_scene(rng, thing, style)
        image = torch.from_numpy(render_scene(scene, icons)).permute(2, 0, 1).float() / 127.5 - 1
        codes = model.checkpoint.vision_processor.vision.encode(image[None])[0]
        _, question, answer = question_answer(scene, rng)
        found.append(
            (
                prompts.document(caption(scene, rng), codes),
                prompts.document("", codes),
                prompts.chat_document(codes, [(question, answer)])[0],
                len(prompts.chat(question, [codes])),
            )
        )
    return found


@torch.inference_mode()
def on_nano(
    model: Emu3, texts: list[tuple[Tensor, Tensor, Tensor, int]]
) -> tuple[float, float, Tensor]:
    """Mean cross-entropy of codes and of answers, and the most probable code of each position."""
    visual = model.text_tokenizer.vocabulary.visual
    codes: list[Tensor] = []
    answers: list[Tensor] = []
    likeliest: list[Tensor] = []
    for image_ids, uncaptioned, answered, start in texts:
        logits, blind = (
            model.checkpoint.decoder(ids[None])[0, :-1] for ids in (image_ids, uncaptioned)
        )
        is_code = (image_ids[1:] >= visual.start) & (image_ids[1:] < visual.stop)
        codes.append(F.cross_entropy(logits[is_code], image_ids[1:][is_code], reduction="none"))
        is_blind = (uncaptioned[1:] >= visual.start) & (uncaptioned[1:] < visual.stop)
        mixed = apply_cfg(logits[is_code][:, visual], blind[is_blind][:, visual], SCALE)
        likeliest.append(mixed.argmax(-1))
        after = model.checkpoint.decoder(answered[None])[0, start - 1 : -1]
        answers.append(F.cross_entropy(after, answered[start:], reduction="none"))
    return (
        torch.cat(codes).mean().item(),
        torch.cat(answers).mean().item(),
        torch.cat(likeliest),
    )


def full_width_folder(folder: Path) -> Tensor:
    """One block of the published width and a head over 32,768 codes, at random; ids to read."""
    text = byte_tokenizer(32_768)
    config = DecoderConfig(num_hidden_layers=1, **text.vocabulary.config_keys())
    torch.manual_seed(0)
    model = Transformer(config)
    init_weights(model)
    save_decoder(model, text, folder)
    return torch.randint(0, config.vocab_size, (2, 32))


@torch.inference_mode()
def main() -> None:
    """Print a line of JSON for each precision."""
    nano = Emu3.from_pretrained("nano", dtype="fp32")
    texts = documents(nano)
    _, _, exact = on_nano(nano, texts)
    with tempfile.TemporaryDirectory() as name:
        ids = full_width_folder(Path(name))
        want: Tensor | None = None
        for to in PRECISIONS:
            codes, answers, likeliest = on_nano(Emu3.from_pretrained("nano", dtype=to), texts)
            got = logits(Path(name), to, ids)
            want = got if want is None else want
            error = ((got - want).norm() / (want - want.mean(-1, keepdim=True)).norm()).item()
            figures = {
                "precision": to.name,
                "nano_codes_perplexity": round(math.exp(codes), 4),
                "nano_answers_perplexity": round(math.exp(answers), 4),
                "nano_same_code_percent": round(
                    100 * (likeliest == exact).float().mean().item(), 2
                ),
                "codes": len(exact),
                "full_width_logits_error": round(error, 5),
            }
            print(json.dumps(figures), flush=True)


def logits(folder: Path, to: Precision, ids: Tensor) -> Tensor:
    """The figures of a decoder loaded in a precision."""
    model = load_decoder(folder, to, CPU)
    return model(ids)


if __name__ == "__main__":
    main()
