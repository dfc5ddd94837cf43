"""A step of training beside transformers' Trainer: `python -m benchmarks.train`.

The same weights (random), the same ids, the same optimizer (AdamW), products in bfloat16 over
float32 weights; rows of 2,048 ids packed from documents of a caption and a picture. Every case in a
process of its own. transformers' model has no notion of packed documents, so its attention looks
across them and its row is one document; both learn from every id.

`ids/s` is over all steps but the first; memory is the process's greatest resident set, on a GPU
the greatest that was allocated. The share of the ceiling counts the FLOP of our documents
(`emu3.train.flops`) against the best of some products, in the same precision.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from emu3.bench.sizes import SIZES
from emu3.config import DecoderConfig
from emu3.decoder.transformer import Transformer

TINY = DecoderConfig(
    vocab_size=4096,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
PICTURE = 600  # ids of a document: a caption and 24x24 codes
Case = Callable[[DecoderConfig, argparse.Namespace], dict[str, Any]]


def rows(config: DecoderConfig, asked: argparse.Namespace) -> Tensor:
    """Ids [steps, rows, context], the same for all."""
    generator = torch.Generator().manual_seed(0)
    shape = (asked.steps, asked.rows, asked.context)
    return torch.randint(config.vocab_size, shape, generator=generator)


def fresh(config: DecoderConfig) -> Transformer:
    """The same random weights for all."""
    from emu3.train.decoder import fresh as made

    return made(config, seed=0)


def ours(config: DecoderConfig, asked: argparse.Namespace) -> dict[str, Any]:
    """This package's step."""
    from emu3.train.adamw import PlainAdamW
    from emu3.train.documents import Document, accumulate
    from emu3.train.flops import ceiling, flops_per_id

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = fresh(config).to(device).train()
    optimizer = PlainAdamW(model.parameters(), decay=0.1)
    full, rest = divmod(asked.context, PICTURE)
    parts = (PICTURE,) * full + ((rest,) if rest else ())
    seconds, losses = [], []
    for batch in rows(config, asked):
        documents = [Document(ids, torch.ones(len(ids)), parts) for ids in batch]
        start = time.perf_counter()
        means = accumulate(model, documents, slice(0, 0), 1, bf16=True)
        torch.nn.utils.clip_grad_norm_(optimizer.parameters, 1.0)
        optimizer.step(1e-4)
        seconds.append(time.perf_counter() - start)
        losses.append(means["loss"])
    flops = asked.rows * sum(n * flops_per_id(config, n) for n in parts)
    share = flops / mean(seconds) / ceiling(device, bf16=True)
    return {**told(seconds, losses, asked), "share_of_ceiling": round(share, 3)}


def theirs(config: DecoderConfig, asked: argparse.Namespace) -> dict[str, Any]:
    """transformers' Trainer on its own Emu3, as one would start it."""
    import tempfile

    import transformers

    shared = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"]
    shared += ["num_attention_heads", "num_key_value_heads", "rms_norm_eps"]
    model = transformers.Emu3ForCausalLM(
        transformers.Emu3TextConfig(
            **{key: getattr(config, key) for key in shared},
            attention_dropout=config.attention_dropout,
            max_position_embeddings=asked.context,
            pad_token_id=0,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
    )
    model.load_state_dict(fresh(config).state_dict())
    marks: list[float] = []

    class Watch(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    flat = [{"input_ids": ids, "labels": ids} for batch in rows(config, asked) for ids in batch]
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=folder,
                max_steps=asked.steps,
                per_device_train_batch_size=1,
                gradient_accumulation_steps=asked.rows,
                learning_rate=1e-4,
                weight_decay=0.1,
                bf16=True,
                use_cpu=not torch.cuda.is_available(),
                logging_steps=1,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                remove_unused_columns=False,
            ),
            train_dataset=flat,
            callbacks=[Watch()],
        )
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    seconds = [end - start for start, end in zip(marks[::2], marks[1::2], strict=True)]
    return told(seconds, losses, asked)


CASES: dict[str, Case] = {"ours": ours, "transformers": theirs}


def mean(seconds: list[float]) -> float:
    """Of all steps but the first."""
    counted = seconds[1:] or seconds
    return sum(counted) / len(counted)


def told(seconds: list[float], losses: list[float], asked: argparse.Namespace) -> dict[str, Any]:
    """A line of the table."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    return {
        "ids_per_s": round(asked.rows * asked.context / mean(seconds), 1),
        "peak_GB": round(peak / 1e9, 2),
        "losses": [round(loss, 3) for loss in losses],
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A step of training, ours and transformers'.")
    parser.add_argument("--context", type=int, default=2048, help="ids of a row")
    parser.add_argument("--rows", type=int, default=1, help="rows of a step")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a toy decoder, to try this script")
    parser.add_argument("--case", choices=list(CASES), help="this one, in this process")
    return parser.parse_args()


def main() -> None:
    """All cases, a line of JSON each."""
    asked = parse()
    config = TINY if asked.tiny else SIZES["0.3b"].config
    assert config is not None
    if asked.case:
        print(json.dumps(CASES[asked.case](config, asked)))
        return
    about = {"cores": os.cpu_count(), "torch": torch.__version__, **vars(asked)}
    print(json.dumps(about), flush=True)
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.train", *sys.argv[1:], "--case", case]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{case} failed: {done.stderr.strip().splitlines()[-1:]}")
        print(json.dumps({"case": case, **json.loads(done.stdout.splitlines()[-1])}), flush=True)


if __name__ == "__main__":
    main()
