"""A training step compared with transformers' Trainer: `python -m benchmarks.train`.

The same random weights, token ids, AdamW and clipping, matrix products in bfloat16 over float32
weights. Each case runs in its own process:

* `packed`: this package, sequences of 2,048 tokens packed from documents of a caption and an image;
* `whole`: this package, each sequence one document, as transformers' model treats it: the pair to
  compare;
* `compiled`: `whole` with `torch.compile` for the blocks;
* `recomputed`: `whole` with activation checkpointing;
* `transformers`: its Trainer with default settings, except for the numbers above.

`tokens_per_s` is over all steps but the first. Memory is the peak resident set of the process, on a
GPU the peak of allocated memory. `mfu` is the FLOP of the documents (`emu3.training.flops`) divided
by the fastest of some bfloat16 products in the same process. The losses show that `whole` and
`transformers` compute the same. Dropout is off: with it a CPU has no fast attention, and both would
measure that and hold all attention weights; `--dropout 0.1` is the paper's value. `--case whole
--profile` prints the time of the last step by operation. Needs the extra `reference`. It also runs
on one GPU, which was not tried yet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from emu3.bench.models import MODELS
from emu3.config import DecoderConfig
from emu3.models.transformer import Transformer

TINY = DecoderConfig(
    vocab_size=4096,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
LEARNING_RATE, DECAY, CLIP = 1e-4, 0.1, 1.0
DOCUMENT_LENGTH = 600  # tokens of a document: a caption and 24x24 codes
Case = Callable[[DecoderConfig, argparse.Namespace], dict[str, Any]]


def rows(config: DecoderConfig, args: argparse.Namespace) -> Tensor:
    """Token ids [steps, rows, context], the same for all cases."""
    generator = torch.Generator().manual_seed(0)
    shape = (args.steps, args.rows, args.context)
    return torch.randint(config.vocab_size, shape, generator=generator)


def init_decoder(config: DecoderConfig) -> Transformer:
    """The same random weights for all cases."""
    from emu3.training.decoder import init_decoder

    return init_decoder(config, seed=0)


def packed(config: DecoderConfig, args: argparse.Namespace) -> dict[str, Any]:
    """This package's step over packed rows."""
    full, rest = divmod(args.context, DOCUMENT_LENGTH)
    return emu3_step(config, args, (DOCUMENT_LENGTH,) * full + ((rest,) if rest else ()))


def whole(config: DecoderConfig, args: argparse.Namespace) -> dict[str, Any]:
    """This package's step over rows that are one document each."""
    return emu3_step(config, args, (args.context,))


def compiled(config: DecoderConfig, args: argparse.Namespace) -> dict[str, Any]:
    """This package's step with compiled blocks, over rows that are one document each."""
    from emu3.training.compilation import compile_blocks

    return emu3_step(config, args, (args.context,), compile_blocks)


def recomputed(config: DecoderConfig, args: argparse.Namespace) -> dict[str, Any]:
    """This package's step with blocks computed again for their gradients."""
    from emu3.training.distributed import apply_activation_checkpointing

    return emu3_step(config, args, (args.context,), apply_activation_checkpointing)


def emu3_step(
    config: DecoderConfig,
    args: argparse.Namespace,
    parts: tuple[int, ...],
    change: Callable[[Transformer], None] = lambda model: None,
) -> dict[str, Any]:
    """This package's step, on a model that `change` modifies first."""
    from emu3.training.allocator import keep_freed_memory
    from emu3.training.flops import flops_per_token, measure_peak_flops
    from emu3.training.lm_loss import TrainingSequence, accumulate_gradients
    from emu3.training.optimizers import build_adamw

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()  # as `emu3 train` does
    model = init_decoder(config).to(device).train()
    change(model)
    optimizer = build_adamw(model.parameters(), DECAY)
    seconds, losses = [], []
    for number, batch in enumerate(rows(config, args)):
        documents = [TrainingSequence(ids, torch.ones(len(ids)), parts) for ids in batch]
        start = time.perf_counter()
        with profiled(args.profile and number == args.steps - 1):
            means = accumulate_gradients(
                model, documents, slice(0, 0), 1, bf16=True, pad_to_multiple_of=args.context
            )
            torch.nn.utils.clip_grad_norm_(optimizer.parameters, CLIP)
            optimizer.step(LEARNING_RATE)
            wait()
        seconds.append(time.perf_counter() - start)
        losses.append(means["loss"])
    flops = args.rows * sum(n * flops_per_token(config, n) for n in parts)
    result = measurements(
        seconds, losses, args
    )  # before the peak FLOP/s is measured, which takes memory
    share = flops / mean(seconds) / measure_peak_flops(device, bf16=True)
    return {**result, "mfu": round(share, 3)}


@contextmanager
def profiled(wanted: bool) -> Iterator[None]:
    """Print the time by operation on stderr."""
    if not wanted:
        yield
        return
    with torch.profiler.profile() as profile:
        yield
    table = profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=16)
    print(table, file=sys.stderr)


def wait() -> None:
    """Until a GPU has done what it was args."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def transformers_trainer(config: DecoderConfig, args: argparse.Namespace) -> dict[str, Any]:
    """transformers' Trainer on its own Emu3 model."""
    import tempfile

    import transformers

    from emu3.training.optimizers import BETAS, EPS

    shared = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"]
    shared += ["num_attention_heads", "num_key_value_heads", "rms_norm_eps"]
    model = transformers.Emu3ForCausalLM(
        transformers.Emu3TextConfig(
            **{key: getattr(config, key) for key in shared},
            attention_dropout=config.attention_dropout,
            max_position_embeddings=args.context,
            pad_token_id=0,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
    )
    model.load_state_dict(init_decoder(config).state_dict(), strict=True)
    marks: list[float] = []

    class StepTimer(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            wait()
            marks.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait()
            marks.append(time.perf_counter())

    flat = [{"input_ids": ids, "labels": ids} for batch in rows(config, args) for ids in batch]
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=folder,
                max_steps=args.steps,
                per_device_train_batch_size=1,
                gradient_accumulation_steps=args.rows,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                train_sampling_strategy="sequential",
                weight_decay=DECAY,
                adam_beta1=BETAS[0],
                adam_beta2=BETAS[1],
                adam_epsilon=EPS,
                max_grad_norm=CLIP,
                bf16=True,
                use_cpu=not torch.cuda.is_available(),
                logging_steps=1,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                remove_unused_columns=False,
            ),
            train_dataset=flat,
            callbacks=[StepTimer()],
        )
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    seconds = [end - start for start, end in zip(marks[::2], marks[1::2], strict=True)]
    return measurements(seconds, losses, args)


CASES: dict[str, Case] = {
    "packed": packed,
    "whole": whole,
    "compiled": compiled,
    "recomputed": recomputed,
    "transformers": transformers_trainer,
}


def mean(seconds: list[float]) -> float:
    """Mean over all steps but the first."""
    counted = seconds[1:] or seconds
    return sum(counted) / len(counted)


def measurements(
    seconds: list[float], losses: list[float], args: argparse.Namespace
) -> dict[str, Any]:
    """The numbers of a case."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    return {
        "tokens_per_s": round(args.rows * args.context / mean(seconds), 1),
        "peak_GB": round(peak / 1e9, 2),
        "losses": [round(loss, 3) for loss in losses],
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare a training step with transformers'.")
    parser.add_argument("--context", type=int, default=2048, help="tokens of a sequence")
    parser.add_argument("--rows", type=int, default=1, help="sequences of a step")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--tiny", action="store_true", help="a tiny decoder, to try the script")
    parser.add_argument("--case", choices=list(CASES), help="run one case, in this process")
    parser.add_argument("--profile", action="store_true", help="with --case, except transformers")
    args = parser.parse_args()
    if args.profile and args.case in (None, "transformers"):
        parser.error("--profile needs --case, other than transformers")
    return args


def main() -> None:
    """Run all cases; prints a line of JSON for each."""
    args = parse()
    size = TINY if args.tiny else MODELS["0.3b"].config
    assert size is not None
    config = replace(size, attention_dropout=args.dropout)
    if args.case:
        print(json.dumps(CASES[args.case](config, args)))
        return
    setup = {"cores": os.cpu_count(), "torch": torch.__version__, **vars(args)}
    print(json.dumps(setup), flush=True)
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.train", *sys.argv[1:], "--case", case]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{case} failed: {done.stderr.strip().splitlines()[-1:]}")
        print(json.dumps({"case": case, **json.loads(done.stdout.splitlines()[-1])}), flush=True)


if __name__ == "__main__":
    main()
