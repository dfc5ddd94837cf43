"""`emu3 train`: run a training preset, from prepared data to a finished checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emu3.cli.options import Device, Vision
from emu3.errors import InputError

if TYPE_CHECKING:
    from emu3.checkpoints.loading import Checkpoint
    from emu3.processing.tokenizer import TextTokenizer
    from emu3.training.distributed import DistributedContext
    from emu3.training.presets import Preset
    from emu3.training.run import WeightedDataset

EPILOG = r"""
[bold]Examples[/bold]

emu3 train nano-quality data -o better --from nano --steps 100

emu3 train nano-instruct data more:0.5 -o answers --from nano --lora 8

torchrun --nproc-per-node 8 -m emu3 train quality data -o better --from BAAI/Emu3-Stage1

DATA is a folder written by `emu3 prepare`; several may have mixture weights.
Run the same command again to resume a run. The trained model is in OUTPUT/model.
"""

PRESETS_HELP = (
    "pretrain-1, pretrain-2, quality, understand or instruct; at the size of nano: nano-pretrain, "
    "nano-quality or nano-instruct."
)
PRESET_DEFAULT = "the preset's"
Steps = Annotated[
    int | None, typer.Option(help="Training steps.", show_default=PRESET_DEFAULT, min=1)
]
Rows = Annotated[
    int | None,
    typer.Option(help="Batch size, in packed sequences.", show_default=PRESET_DEFAULT, min=1),
]
Context = Annotated[
    int | None,
    typer.Option(help="Tokens in a packed sequence.", show_default=PRESET_DEFAULT, min=2),
]
LearningRate = Annotated[
    float | None, typer.Option(help="Peak learning rate.", show_default=PRESET_DEFAULT)
]
Optimizer = Annotated[str | None, typer.Option(help="adamw or muon.", show_default=PRESET_DEFAULT)]
MicroBatch = Annotated[int, typer.Option(help="Sequences in one forward pass.", min=1)]
Lora = Annotated[
    int | None,
    typer.Option(metavar="RANK", help="Train a LoRA adapter and merge it at the end.", min=1),
]
Bf16 = Annotated[
    bool | None,
    typer.Option(help="Matrix products in bfloat16.", show_default="where it is fast"),
]
VocabParallel = Annotated[
    bool,
    typer.Option("--vocab-parallel", help="Under torchrun: keep the output head sharded."),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="torch.compile; sequences are padded to the context."),
]
Recompute = Annotated[
    bool,
    typer.Option("--recompute", help="Activation checkpointing: less memory, more computation."),
]
Seed = Annotated[int, typer.Option(help="Of data order, new weights and dropout.", min=0)]


def train(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help=PRESETS_HELP)],
    data: Annotated[
        list[str], typer.Argument(metavar="DATA[:WEIGHT]...", help="Folders of prepared data.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="MODEL", help="Model to start from: nano, a folder or a hub id."
        ),
    ],
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Random weights; only config and tokenizers of MODEL.")
    ] = False,
    vision: Vision = None,
    device: Device = None,
    steps: Steps = None,
    rows: Rows = None,
    context: Context = None,
    learning_rate: LearningRate = None,
    optimizer: Optimizer = None,
    micro_batch: MicroBatch = 1,
    lora: Lora = None,
    bf16: Bf16 = None,
    recompute: Recompute = False,
    compile: Compile = False,
    vocab_parallel: VocabParallel = False,
    seed: Seed = 0,
    report_every: Annotated[int, typer.Option(help="Steps to a line of metrics.", min=1)] = 10,
    save_every: Annotated[int, typer.Option(help="Steps to a checkpoint.", min=1)] = 100,
) -> None:
    """Train a model with a preset, on one process or under torchrun."""
    chosen = _preset(preset, steps, rows, context, learning_rate, optimizer)
    from emu3.training.allocator import keep_freed_memory
    from emu3.training.lora import LoraConfig
    from emu3.training.mixed_precision import has_fast_bf16
    from emu3.training.run import RunOptions, run_preset

    distributed = _distributed(device)
    if distributed.device.type == "cpu":
        keep_freed_memory()
    options = RunOptions(
        seed=seed,
        bf16=has_fast_bf16(distributed.device) if bf16 is None else bf16,
        lora=None if lora is None else LoraConfig(rank=lora, alpha=2.0 * lora),
        micro_batch_size=micro_batch,
        activation_checkpointing=recompute,
        compile=compile,
        vocab_parallel=vocab_parallel,
        report_every=report_every,
        save_every=save_every,
    )
    checkpoint = _checkpoint(start, vision, seed if fresh else None, distributed)
    chosen = chosen.override(starts_from="" if fresh else _public_name(start))
    datasets = [_weighted_dataset(each, checkpoint.text_tokenizer) for each in data]
    try:
        model = run_preset(chosen, checkpoint, datasets, output, options, distributed, _print_note)
    except KeyboardInterrupt as interrupt:
        message = str(interrupt) or "run the same command to resume from the last checkpoint"
        raise KeyboardInterrupt(message) from None
    if distributed.is_main:
        typer.echo(model)
    distributed.shutdown()


def _preset(
    name: str,
    steps: int | None,
    rows: int | None,
    context: int | None,
    learning_rate: float | None,
    optimizer: str | None,
) -> Preset:
    """A preset by name with the given overrides; at most a tenth of given steps are warm-up."""
    from emu3.training.presets import PRESETS_BY_NAME

    if name not in PRESETS_BY_NAME:
        raise InputError(f"no such preset: {name!r}; choose from {', '.join(PRESETS_BY_NAME)}")
    preset = PRESETS_BY_NAME[name]
    overrides = {
        "steps": steps,
        "batch_size": rows,
        "context_length": context,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "warmup_steps": None if steps is None else min(preset.warmup_steps, steps // 10),
    }
    return preset.override(**{key: value for key, value in overrides.items() if value is not None})


def _distributed(device: str | None) -> DistributedContext:
    from emu3.checkpoints.loading import DeviceConfig
    from emu3.training.distributed import DistributedContext

    if "RANK" not in os.environ:
        return DistributedContext.single_process(DeviceConfig.resolve(device, None).device)
    if device is not None:
        raise InputError("--device cannot be used under torchrun, which assigns the devices")
    return DistributedContext.from_environment()


def _checkpoint(
    model: str, vision: str | None, seed: int | None, distributed: DistributedContext
) -> Checkpoint:
    """The model to start from, in float32 on the CPU; with a seed, with random weights.

    Only rank 0 reads the weights.
    """
    import torch

    from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
    from emu3.models.precision import FP32
    from emu3.training.run import init_checkpoint, meta_checkpoint

    if not distributed.is_main:
        return meta_checkpoint(model, vision)
    if seed is not None:
        return init_checkpoint(model, vision, seed)
    return load_checkpoint(model, vision, DeviceConfig(torch.device("cpu"), FP32))


def _public_name(model: str) -> str:
    """Name of the starting model in the model card: a hub id, or the last part of a folder."""
    return Path(model).absolute().name if Path(model).is_dir() else model


def _weighted_dataset(argument: str, tokenizer: TextTokenizer) -> WeightedDataset:
    """Parse `DIR` or `DIR:WEIGHT`; the weight is 1 by default."""
    from emu3.data.dataset import TokenDataset

    folder, colon, weight = argument.rpartition(":")
    if not colon or Path(argument).is_dir():
        return TokenDataset.open(Path(argument), tokenizer), 1.0
    try:
        share = float(weight)
    except ValueError:
        raise InputError(f"{argument}: {weight!r} is no weight; write DIR or DIR:0.5") from None
    return TokenDataset.open(Path(folder), tokenizer), share


def _print_note(line: str) -> None:
    typer.echo(f"note: {line}", err=True)
