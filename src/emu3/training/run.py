"""Run a preset: from prepared data to a finished checkpoint, on one process or many.

`run_preset` is what `emu3 train` calls. A run is a folder:

    manifest.json   settings that the weights depend on; a resumed run must have the same
    step-N/         latest checkpoint, to resume from
    log.jsonl       metrics
    adapter/        the LoRA adapter in PEFT's format, if one was trained
    model/          at the end: BAAI's format, transformers' format and a model card
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
"""A data set and its relative share of the documents drawn."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a preset is run, where the preset leaves it open.

    `micro_batch_size` and the options below it change only rounding, and `compile` also the random
    numbers of dropout; a resumed run may have others.
    """

    seed: int = 0
    bf16: bool = True  # autocast to bfloat16; weights and optimizer state are float32
    lora: LoraConfig | None = None  # train an adapter, and merge it at the end
    micro_batch_size: int = 1  # sequences in one forward pass
    activation_checkpointing: bool = False  # keep only the input of each block
    compile: bool = False  # torch.compile for blocks, sequences padded to the context length
    vocab_parallel: bool = False  # never gather the output head
    report_every: int = 10  # steps
    save_every: int = 100  # steps


def init_checkpoint(model: str | Path, vision: str | Path | None, seed: int) -> Checkpoint:
    """The config and tokenizers of a model with random decoder weights.

    Raises InputError as `load_checkpoint` does.
    """
    shape = meta_checkpoint(model, vision)
    return replace(shape, decoder=init_decoder(shape.decoder.config, seed))


def meta_checkpoint(model: str | Path, vision: str | Path | None) -> Checkpoint:
    """A checkpoint whose decoder is on the meta device, for ranks that receive the weights."""
    folder = find_model(model, weights=False)
    tokenizer = SampleTokenizer.from_pretrained(model, vision, "cpu")
    text_tokenizer, config = load_text_tokenizer(folder)
    return Checkpoint(
        str(model),
        GenerationDefaults.from_folder(folder, str(model)),
        _meta_decoder(config),
        text_tokenizer,
        tokenizer.vision_processor,
    )


def run_preset(
    preset: Preset,
    checkpoint: Checkpoint,
    data: Sequence[WeightedDataset],
    folder: Path,
    options: RunOptions | None = None,
    distributed: DistributedContext | None = None,
    on_notice: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train the decoder of a checkpoint; resumes if the folder holds an unfinished run.

    With several processes every rank must call it. The weights are those of rank 0, which also
    writes the model; the other ranks may pass a `meta_checkpoint`.

    Args:
        preset: settings of the stage. The model card says that the run started from
            `preset.starts_from`.
        checkpoint: the model to train, its decoder in float32.
        data: data sets from `emu3 prepare`, with their weights in the mixture.
        folder: folder of the run; created, its parent must exist.
        options: how to run the preset.
        distributed: the ranks of the run; by default a single process on the decoder's device.
        on_notice: called with a line about documents that are longer than the context.

    Returns:
        The folder of the finished model, `folder/model`.

    Raises:
        InputError: on data or settings that cannot be trained, and on a folder that holds another
            run or other files.
        TrainingError, TrainingInterrupted: as `train_decoder`.
    """
    options = options or RunOptions()
    distributed = distributed or DistributedContext.single_process(checkpoint.decoder.device)
    preset = with_data_areas(preset, data)
    _check(preset, checkpoint, data, distributed)
    vocabulary, (datasets, weights) = checkpoint.text_tokenizer.vocabulary, zip(*data, strict=True)
    loader = PackedLoader(datasets, weights, preset.context_length, options.seed)
    batches = BatchLoader(loader, preset, vocabulary.sov, options.seed)
    config = preset.training_config(
        micro_batch_size=options.micro_batch_size,
        pad_to_multiple_of=preset.context_length if options.compile else 1,
        bf16=options.bf16,
        report_every=min(options.report_every, max(1, preset.steps)),  # at least one report
        save_every=options.save_every,
        seed=options.seed,
    )
    model = _prepare_model(checkpoint.decoder, preset, options, distributed)
    open_run_folder(folder, _manifest(preset, data, options), distributed)  # the last check
    if loader.num_excluded and distributed.is_main:
        on_notice(_excluded(loader))
    train_decoder(model, config, batches, vocabulary.visual, folder, distributed=distributed)
    trained = _gather_model(model, options.lora, folder, distributed)
    if trained is not None:
        log = folder / METRICS_LOG
        model_card = ModelCardData(
            data="\n".join(_describe_data(data, loader)),
            hardware=_describe_hardware(options, distributed),
            preset=preset,
            metrics_log=log if log.exists() else None,
        )
        export_model(
            _trained_checkpoint(checkpoint, trained, preset, folder), model_card, folder / MODEL
        )
    return folder / MODEL


def with_data_areas(preset: Preset, data: Sequence[WeightedDataset]) -> Preset:
    """The preset with the image areas that its data was prepared with."""
    bounds = [dataset.index["request"]["model"]["pixels"] for dataset, _ in data]
    if not bounds:
        raise InputError("no data; prepare some with `emu3 prepare`")
    smallest, largest = min(low for low, _ in bounds), max(high for _, high in bounds)
    return preset.override(image_areas=(smallest, largest))


def _check(
    preset: Preset,
    checkpoint: Checkpoint,
    data: Sequence[WeightedDataset],
    distributed: DistributedContext,
) -> None:
    """Raise InputError on settings that are out of range and on data with nothing to learn."""
    limit = checkpoint.decoder.config.max_position_embeddings
    if preset.context_length > limit:
        raise InputError(
            f"a context of {preset.context_length} tokens; the model has positions for {limit}; "
            "use a smaller context"
        )
    if preset.batch_size < distributed.world_size:
        raise InputError(
            f"{preset.batch_size} rows a step for {distributed.world_size} processes; each needs "
            "at least one"
        )
    if not (preset.learning_rate > 0 and math.isfinite(preset.learning_rate)):
        raise InputError(f"learning rate {preset.learning_rate}; it must be above 0")
    by_role = zip(ROLE_NAMES, preset.loss_weights.by_role, strict=True)
    trained = [name for name, weight in by_role if weight > 0]
    for dataset, _ in data:
        if not any(dataset.id_counts[name] for name in trained):
            raise InputError(
                f"{dataset.folder}: has no {' or '.join(trained)} tokens, which are all that "
                f"{preset.name!r} trains on; leave it out, or prepare other samples"
            )


def _prepare_model(
    decoder: Transformer, preset: Preset, options: RunOptions, distributed: DistributedContext
) -> Transformer:
    """The decoder with the preset's dropout and an adapter if wanted, on its device, sharded."""
    config = replace(decoder.config, attention_dropout=preset.dropout)
    if distributed.world_size == 1:
        model = _make_trainable(_with_config(decoder, config), options).to(distributed.device)
        return shard_model(
            model, distributed, activation_checkpointing=options.activation_checkpointing
        )
    model = _make_trainable(_meta_decoder(config), options)
    shard_model(
        model,
        distributed,
        bf16=options.bf16,
        activation_checkpointing=options.activation_checkpointing,
        vocab_parallel=options.vocab_parallel,
    )
    model.to_empty(device=distributed.device)
    full: dict[str, Any] = {}
    if distributed.is_main:
        full = _make_trainable(_with_config(decoder, config), options).state_dict()
    set_model_state_dict(
        model, full, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    )
    return model


def _with_config(decoder: Transformer, config: DecoderConfig) -> Transformer:
    """A decoder with another config that shares the weights."""
    model = _meta_decoder(config)
    model.load_state_dict(decoder.state_dict(), assign=True)
    return model


def _make_trainable(model: Transformer, options: RunOptions) -> Transformer:
    """Require gradients, of an adapter only if there is one, and compile if wanted; in place."""
    model.requires_grad_(True)
    _add_adapter(model, options.lora, options.seed)
    if options.compile:
        compile_blocks(model)
    return model


def _meta_decoder(config: DecoderConfig) -> Transformer:
    """A decoder on the meta device, which takes no memory."""
    with torch.device("meta"):
        return Transformer(config)


def _add_adapter(model: Transformer, lora: LoraConfig | None, seed: int = 0) -> LoraModel | None:
    torch.manual_seed(seed)
    return None if lora is None else add_adapter(model, lora)


def _gather_model(
    model: Transformer, lora: LoraConfig | None, folder: Path, distributed: DistributedContext
) -> Transformer | None:
    """The full decoder on the CPU with the adapter merged; None on all ranks but 0."""
    state = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if not distributed.is_main:
        return None
    gathered = _meta_decoder(model.config)
    adapter = _add_adapter(gathered, lora)
    gathered.load_state_dict(state, assign=True)
    if adapter is not None:
        adapter.save(folder / ADAPTER)
        gathered = adapter.merge()
    return gathered.eval()


def _trained_checkpoint(
    checkpoint: Checkpoint, decoder: Transformer, preset: Preset, folder: Path
) -> Checkpoint:
    """The checkpoint with the trained decoder, named after the folder of the run."""
    start = preset.starts_from
    description = f"Trained from {start}." if start else "Trained from scratch."
    defaults = replace(checkpoint.defaults, description=description)
    return replace(checkpoint, name=folder.absolute().name, defaults=defaults, decoder=decoder)


def _manifest(
    preset: Preset, data: Sequence[WeightedDataset], options: RunOptions
) -> dict[str, Any]:
    """All settings that the weights depend on, as JSON values."""
    numbers = {
        field.name: getattr(preset, field.name)
        for field in fields(preset)
        if field.name not in ("from_paper", "from_script")
    }
    return {
        "preset": {**numbers, "loss_weights": asdict(preset.loss_weights)},
        "data": {
            f"{number}": {"request": request_digest(dataset.index["request"]), "weight": weight}
            for number, (dataset, weight) in enumerate(data, 1)
        },
        "seed": options.seed,
        "bf16": options.bf16,
        "lora": None if options.lora is None else asdict(options.lora),
    }


def _describe_data(data: Sequence[WeightedDataset], loader: PackedLoader) -> list[str]:
    """Lines of the model card about the data."""
    lines = []
    for (dataset, _), share in zip(data, loader.mixture.shares, strict=True):
        counts = ", ".join(f"{count:,} {name}" for name, count in dataset.id_counts.items())
        lines.append(
            f"* `{dataset.folder.absolute().name}`: {len(dataset):,} documents ({counts} tokens), "
            f"share of the mixture {share:.4g}"
        )
    if loader.num_excluded:
        lines.append(f"* {_excluded(loader)}")
    return lines


def _excluded(loader: PackedLoader) -> str:
    return (
        f"{loader.num_excluded:,} documents left out: an image makes them longer than "
        f"{loader.context:,} tokens"
    )


def _describe_hardware(options: RunOptions, distributed: DistributedContext) -> str:
    """A paragraph of the model card about hardware and numerics."""
    device = distributed.device
    on_gpu = device.type == "cuda"
    chip = torch.cuda.get_device_name(device) if on_gpu else f"{platform.machine()} CPU"
    size = distributed.world_size
    processes = "1 process" if size == 1 else f"{size} processes"
    dtype = "bfloat16" if options.bf16 else "float32"
    text = (
        f"{processes} on {chip}, PyTorch {torch.__version__}. Matrix products in {dtype}, weights "
        f"and optimizer state in float32; micro-batch size {options.micro_batch_size}; seed "
        f"{options.seed}."
    )
    if (lora := options.lora) is not None:
        text += f" A LoRA adapter (rank {lora.rank}, alpha {lora.alpha:g}) was trained and merged."
    return text
