"""A stage from prepared data to a finished checkpoint, on one process or many.

A run is a folder:

    request.json    what was asked for; the same request goes on, another is refused
    state.pt        the checkpoint (on several processes `step-N/` and `latest`)
    log.jsonl       a line a report
    adapter/        with LoRA: the adapter as PEFT has it
    model/          at the end: BAAI's layout, that of transformers, and a model card

Sources: the paper's stages (`stages.py`), and `torch.distributed.checkpoint.state_dict`.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.checkpoints.hub import find_model
from emu3.checkpoints.loading import Checkpoint, load_text_tokenizer
from emu3.config import DecoderConfig
from emu3.data.dataset import TokenDataset, request_digest
from emu3.data.loader import PackedLoader
from emu3.data.token_roles import ROLE_NAMES
from emu3.data.tokenization import SampleTokenizer
from emu3.errors import InputError
from emu3.models.transformer import Transformer
from emu3.training.batches import BatchLoader
from emu3.training.compilation import compile_blocks
from emu3.training.decoder import init_decoder, train_decoder
from emu3.training.distributed import DistributedContext, shard_model
from emu3.training.export import ModelCardData, export_model
from emu3.training.lora import LoraConfig, LoraModel, add_adapter
from emu3.training.presets import Preset
from emu3.training.run_manifest import open_run_folder

MODEL, ADAPTER, METRICS_LOG = "model", "adapter", "log.jsonl"

WeightedDataset = tuple[TokenDataset, float]
"""A store and its share of the documents; shares need not add up to one."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a stage is run, where the stage leaves it open.

    `micro_batch`, `recompute` and what follows them change no arithmetic but its rounding, and with
    `compiled` the draws of dropout; so a run may go on with others.
    """

    seed: int = 0
    bf16: bool = True  # products; weights and optimizer are float32
    lora: LoraConfig | None = None  # train an adapter, and merge it at the end
    micro_batch_size: int = 1  # rows in one pass
    activation_checkpointing: bool = False  # of a block, keep only what enters it
    compile: bool = False  # blocks by torch.compile, rows padded to the context
    vocab_parallel: bool = False  # never gather the head: tokens go to each process's rows of it
    report_every: int = 10  # steps
    save_every: int = 100  # steps


def init_checkpoint(model: str | Path, vision: str | Path | None, seed: int) -> Checkpoint:
    """The shape and both tokenizers of a model, with new weights; raises InputError as opening."""
    shape = meta_checkpoint(model, vision)
    return replace(shape, decoder=init_decoder(shape.decoder.config, seed))


def meta_checkpoint(model: str | Path, vision: str | Path | None) -> Checkpoint:
    """A model whose decoder is a shape alone: for all processes but the first, which tells them."""
    folder = find_model(model, weights=False)
    writer = SampleTokenizer.from_pretrained(model, vision, "cpu")
    text, config = load_text_tokenizer(folder)
    return Checkpoint(
        str(model),
        GenerationDefaults.from_folder(folder, str(model)),
        _empty(config),
        text,
        writer.vision_processor,
    )


def run_preset(
    stage: Preset,
    checkpoint: Checkpoint,
    data: Sequence[WeightedDataset],
    folder: Path,
    settings: RunOptions | None = None,
    world: DistributedContext | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train a checkpoint's decoder on stores; the folder of the finished model, `folder/model`.

    The decoder must be in float32; the card says that it came from `stage.starts_from`. The same
    call goes on where one was stopped. On several processes, each must make it; the weights are
    those of the first one, which writes the model: the others may bring a `weightless` checkpoint.
    `say` is told of documents that do not fit.
    Raises InputError on what cannot be trained, and as `train_decoder` and `export` do.
    """
    settings = settings or RunOptions()
    world = world or DistributedContext.single_process(checkpoint.decoder.device)
    stage = with_data_areas(stage, data)
    _check(stage, checkpoint, data, world)
    vocabulary, (stores, weights) = checkpoint.text_tokenizer.vocabulary, zip(*data, strict=True)
    loader = PackedLoader(stores, weights, stage.context_length, settings.seed)
    rows = BatchLoader(loader, stage, vocabulary.sov, settings.seed)
    run = stage.training_config(
        micro_batch_size=settings.micro_batch_size,
        pad_to_multiple_of=stage.context_length if settings.compile else 1,
        bf16=settings.bf16,
        report_every=min(settings.report_every, max(1, stage.steps)),  # one report at least
        save_every=settings.save_every,
        seed=settings.seed,
    )
    model = _ready_to_learn(checkpoint.decoder, stage, settings, world)
    open_run_folder(folder, _request(stage, data, settings), world)  # last of what may refuse
    if loader.num_excluded and world.is_main:
        say(_left_out(loader))
    train_decoder(model, run, rows, vocabulary.visual, folder, world=world)
    finished = _gathered(model, settings.lora, folder, world)
    if finished is not None:
        said = ModelCardData(
            data="\n".join(_told(data, loader)),
            hardware=_compute(settings, world),
            preset=stage,
            metrics_log=folder / METRICS_LOG if (folder / METRICS_LOG).exists() else None,
        )
        export_model(_named(checkpoint, finished, stage, folder), said, folder / MODEL)
    return folder / MODEL


def with_data_areas(stage: Preset, data: Sequence[WeightedDataset]) -> Preset:
    """A stage with the areas of pictures that its data was prepared with, which decided them."""
    bounds = [store.index["request"]["model"]["pixels"] for store, _ in data]
    if not bounds:
        raise InputError("no data; `emu3 prepare` makes some")
    return stage.override(
        image_areas=(min(low for low, _ in bounds), max(high for _, high in bounds))
    )


def _check(
    stage: Preset,
    checkpoint: Checkpoint,
    data: Sequence[WeightedDataset],
    world: DistributedContext,
) -> None:
    """Raise InputError on a run that could not be, or would teach nothing."""
    most = checkpoint.decoder.config.max_position_embeddings
    if stage.context_length > most:
        raise InputError(
            f"a context of {stage.context_length} ids, and the model has positions for {most}; "
            "ask for a smaller context"
        )
    if stage.batch_size < world.size:
        raise InputError(
            f"{stage.batch_size} rows a step for {world.size} processes; each needs one at least"
        )
    if not (stage.learning_rate > 0 and math.isfinite(stage.learning_rate)):
        raise InputError(f"a learning rate of {stage.learning_rate}; it must be above 0")
    learnt = [
        name for name, by in zip(ROLE_NAMES, stage.loss_weights.by_role, strict=True) if by > 0
    ]
    for store, _ in data:
        if not any(store.id_counts[name] for name in learnt):
            raise InputError(
                f"{store.folder}: nothing to learn in {stage.name!r}, which learns "
                f"{' and '.join(learnt)} ids; leave it out, or prepare samples that have some"
            )


def _ready_to_learn(
    decoder: Transformer, stage: Preset, settings: RunOptions, world: DistributedContext
) -> Transformer:
    """The decoder with the stage's dropout, an adapter if asked for, on its device, in pieces."""
    config = replace(decoder.config, attention_dropout=stage.dropout)
    if world.size == 1:
        model = _learning(_filled(config, decoder), settings).to(world.device)
        return shard_model(model, world, recompute=settings.activation_checkpointing)
    model = _learning(_empty(config), settings)
    shard_model(
        model,
        world,
        bf16=settings.bf16,
        recompute=settings.activation_checkpointing,
        vocab_parallel=settings.vocab_parallel,
    )
    model.to_empty(device=world.device)
    whole = _learning(_filled(config, decoder), settings).state_dict() if world.is_main else {}
    told = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, whole, options=told)
    return model


def _filled(config: DecoderConfig, decoder: Transformer) -> Transformer:
    """The weights of a decoder, not copied, in one of another config."""
    model = _empty(config)
    model.load_state_dict(decoder.state_dict(), assign=True)
    return model


def _learning(model: Transformer, settings: RunOptions) -> Transformer:
    """What is to be trained, an adapter if asked for, requires a gradient; in its place."""
    model.requires_grad_(True)
    _adapted(model, settings.lora, settings.seed)
    if settings.compile:
        compile_blocks(model)
    return model


def _empty(config: DecoderConfig) -> Transformer:
    """A decoder that has no weights yet and takes no memory."""
    with torch.device("meta"):
        return Transformer(config)


def _adapted(model: Transformer, lora: LoraConfig | None, seed: int = 0) -> LoraModel | None:
    torch.manual_seed(seed)
    return None if lora is None else add_adapter(model, lora)


def _gathered(
    model: Transformer, lora: LoraConfig | None, folder: Path, world: DistributedContext
) -> Transformer | None:
    """The plain decoder, whole and on the CPU, an adapter merged; on the first process alone."""
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=whole)
    if not world.is_main:
        return None
    plain = _empty(model.config)
    adapted = _adapted(plain, lora)
    plain.load_state_dict(state, assign=True)
    if adapted is not None:
        adapted.save(folder / ADAPTER)
        plain = adapted.merge()
    return plain.eval()


def _named(checkpoint: Checkpoint, decoder: Transformer, stage: Preset, folder: Path) -> Checkpoint:
    """The finished checkpoint, under the name of its run."""
    came = f"Trained from {stage.starts_from}." if stage.starts_from else "Trained from scratch."
    card = replace(checkpoint.defaults, description=came)
    return replace(checkpoint, name=folder.absolute().name, defaults=card, decoder=decoder)


def _request(
    stage: Preset, data: Sequence[WeightedDataset], settings: RunOptions
) -> dict[str, Any]:
    """All that the weights depend on, as JSON."""
    numbers = {field.name: getattr(stage, field.name) for field in fields(stage)}
    for name in ("from_paper", "from_script"):  # where numbers are from changes none of them
        del numbers[name]
    return {
        "stage": {**numbers, "loss_weights": asdict(stage.loss_weights)},
        "data": {
            f"{number}": {"request": request_digest(store.index["request"]), "weight": weight}
            for number, (store, weight) in enumerate(data, 1)
        },
        "seed": settings.seed,
        "bf16": settings.bf16,
        "lora": None if settings.lora is None else asdict(settings.lora),
    }


def _told(data: Sequence[WeightedDataset], loader: PackedLoader) -> list[str]:
    """The card's lines on the data."""
    lines = []
    for (store, _), share in zip(data, loader.mixture.shares, strict=True):
        ids = ", ".join(f"{count:,} {name}" for name, count in store.id_counts.items())
        name = store.folder.absolute().name
        lines.append(f"* `{name}`: {len(store):,} documents ({ids} ids), {share:.4g} of all drawn")
    if loader.num_excluded:
        lines.append(f"* {_left_out(loader)}")
    return lines


def _left_out(loader: PackedLoader) -> str:
    many = f"{loader.num_excluded:,} documents"
    return f"left out: {many} whose picture makes them longer than {loader.context:,} ids"


def _compute(settings: RunOptions, world: DistributedContext) -> str:
    """The card's words on how it was trained."""
    on_gpu = world.device.type == "cuda"
    chip = torch.cuda.get_device_name(world.device) if on_gpu else platform.machine() + " CPU"
    many = "One process" if world.size == 1 else f"{world.size} processes"
    products = "bfloat16" if settings.bf16 else "float32"
    said = f"{many} on {chip}, PyTorch {torch.__version__}. Products in {products}, all else in "
    said += f"float32; rows in one pass: {settings.micro_batch_size}; seed {settings.seed}."
    if (lora := settings.lora) is not None:
        said += (
            f" A LoRA adapter of rank {lora.rank}, alpha {lora.alpha:g}, was trained and merged."
        )
    return said
