"""`emu3 train`: a stage of the paper, from prepared data to a finished checkpoint."""

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

DATA is a folder that `emu3 prepare` wrote, with a weight if there are several.
Stopped, the same command goes on. The model is in FOLDER/model.
"""

STAGES = (
    "pretrain-1, pretrain-2, quality, understand or instruct; at nano's size nano-pretrain, "
    "nano-quality or nano-instruct."
)
OURS = "the stage's"
Steps = Annotated[int | None, typer.Option(help="In all.", show_default=OURS, min=1)]
Rows = Annotated[int | None, typer.Option(help="In a step.", show_default=OURS, min=1)]
Context = Annotated[int | None, typer.Option(help="Ids in a row.", show_default=OURS, min=2)]
Every = Annotated[int, typer.Option(help="Steps.", min=1)]
Rank = Annotated[
    int | None, typer.Option(metavar="RANK", help="Train an adapter, then merge it.", min=1)
]
Optimizer = Annotated[str | None, typer.Option(help="adamw or muon.", show_default=OURS)]
Bf16 = Annotated[
    bool | None, typer.Option(help="Products in bfloat16.", show_default="where they are fast")
]
VocabParallel = Annotated[
    bool, typer.Option("--vocab-parallel", help="Under torchrun, never gather the head.")
]
Compiled = Annotated[
    bool, typer.Option("--compile", help="torch.compile for blocks; rows padded to the context.")
]
Recompute = Annotated[bool, typer.Option("--recompute", help="Less memory, one more pass forward.")]


def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help=STAGES)],
    data: Annotated[list[str], typer.Argument(metavar="DATA[:WEIGHT]...", help="Prepared data.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the run.")],
    start: Annotated[
        str, typer.Option("--from", metavar="MODEL", help="nano, a folder, or a hub id.")
    ],
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Its shape and tokenizers, with new weights.")
    ] = False,
    vision: Vision = None,
    device: Device = None,
    steps: Steps = None,
    rows: Rows = None,
    context: Context = None,
    learning_rate: Annotated[float | None, typer.Option(show_default=OURS)] = None,
    optimizer: Optimizer = None,
    micro_batch: Annotated[int, typer.Option(help="Rows in one pass.", min=1)] = 1,
    lora: Rank = None,
    bf16: Bf16 = None,
    recompute: Recompute = False,
    compiled: Compiled = False,
    vocab_parallel: VocabParallel = False,
    seed: Annotated[int, typer.Option(help="Of rows, new weights and dropout.", min=0)] = 0,
    report_every: Every = 10,
    save_every: Every = 100,
) -> None:
    """Train a model through one stage, on one process or under torchrun."""
    chosen = _stage(stage, steps, rows, context, learning_rate, optimizer)
    from emu3.training.allocator import keep_freed_memory
    from emu3.training.lora import LoraConfig
    from emu3.training.mixed_precision import has_fast_bf16
    from emu3.training.run import RunOptions, run_preset

    world = _world(device)
    if world.device.type == "cpu":
        keep_freed_memory()
    settings = RunOptions(
        seed=seed,
        bf16=has_fast_bf16(world.device) if bf16 is None else bf16,
        lora=None if lora is None else LoraConfig(rank=lora, alpha=2.0 * lora),
        micro_batch_size=micro_batch,
        activation_checkpointing=recompute,
        compile=compiled,
        vocab_parallel=vocab_parallel,
        report_every=report_every,
        save_every=save_every,
    )
    checkpoint = _opened(start, vision, seed if fresh else None, world)
    chosen = chosen.override(starts_from="" if fresh else _known_as(start))
    stores = [_weighted(each, checkpoint.text_tokenizer) for each in data]
    try:
        finished = run_preset(chosen, checkpoint, stores, output, settings, world, _say)
    except KeyboardInterrupt as interrupt:
        told = str(interrupt) or "the same command goes on from the last checkpoint"
        raise KeyboardInterrupt(told) from None
    if world.is_main:
        typer.echo(finished)
    world.shutdown()


def _stage(
    name: str,
    steps: int | None,
    rows: int | None,
    context: int | None,
    learning_rate: float | None,
    optimizer: str | None,
) -> Preset:
    """A stage by name, with the numbers that were given; fewer steps warm up for fewer."""
    from emu3.training.presets import PRESETS_BY_NAME

    if name not in PRESETS_BY_NAME:
        raise InputError(f"no such stage: {name!r}; give one of {', '.join(PRESETS_BY_NAME)}")
    stage = PRESETS_BY_NAME[name]
    given = {
        "steps": steps,
        "batch_size": rows,
        "context_length": context,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "warmup_steps": None if steps is None else min(stage.warmup_steps, steps // 10),
    }
    return stage.override(**{name: value for name, value in given.items() if value is not None})


def _world(device: str | None) -> DistributedContext:
    from emu3.checkpoints.loading import DeviceConfig
    from emu3.training.distributed import DistributedContext

    if "RANK" not in os.environ:
        return DistributedContext.single_process(DeviceConfig.resolve(device, None).device)
    if device is not None:
        raise InputError("--device: under torchrun each process has its own; leave it out")
    return DistributedContext.from_environment()


def _opened(
    model: str, vision: str | None, fresh: int | None, world: DistributedContext
) -> Checkpoint:
    """The model to start from, in float32 on the CPU; with a seed, its shape with new weights.

    Only the first process reads them.
    """
    import torch

    from emu3.checkpoints.loading import DeviceConfig, load_checkpoint
    from emu3.models.precision import FP32
    from emu3.training.run import init_checkpoint, meta_checkpoint

    if not world.is_main:
        return meta_checkpoint(model, vision)
    if fresh is not None:
        return init_checkpoint(model, vision, fresh)
    return load_checkpoint(model, vision, DeviceConfig(torch.device("cpu"), FP32))


def _known_as(model: str) -> str:
    """How a model card calls what a run started from: a hub id, or a folder without its path."""
    return Path(model).absolute().name if Path(model).is_dir() else model


def _weighted(said: str, text: TextTokenizer) -> WeightedDataset:
    """`DIR` or `DIR:WEIGHT` as a store and its weight."""
    from emu3.data.dataset import TokenDataset

    folder, colon, weight = said.rpartition(":")
    if not colon or Path(said).is_dir():
        return TokenDataset.open(Path(said), text), 1.0
    try:
        share = float(weight)
    except ValueError:
        raise InputError(f"{said}: {weight!r} is no weight; write DIR or DIR:0.5") from None
    return TokenDataset.open(Path(folder), text), share


def _say(line: str) -> None:
    typer.echo(f"note: {line}", err=True)
