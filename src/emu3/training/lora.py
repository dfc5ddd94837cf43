"""LoRA for the decoder, through PEFT: small matrices are trained, the model's weights are frozen.

W x becomes W x + (alpha / rank) * B A x. B starts at zero, so an adapter changes nothing until the
first step (Hu et al. 2021, arXiv 2106.09685). The model is changed in place, so `train_decoder`
trains the adapter alone. Files have PEFT's format.

    adapter = add_adapter(checkpoint.decoder, LoraConfig(rank=8))
    train_decoder(adapter.model, config, batches, visual, folder)
    adapter.save(folder / "adapter")
    decoder = adapter.merge()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from emu3.errors import InputError, MissingExtraError
from emu3.files import atomic_write, check_writable
from emu3.models.quantization import Quantized
from emu3.models.transformer import Transformer

LINEAR_LAYERS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
EMBEDDING = "embed_tokens"
HEAD = "lm_head"


@dataclass(frozen=True)
class LoraConfig:
    """Size of an adapter and the layers it applies to. Raises InputError on invalid values."""

    rank: int = 8
    alpha: float = 16.0  # an update is scaled by alpha / rank
    dropout: float = 0.0
    target_modules: tuple[str, ...] = LINEAR_LAYERS  # EMBEDDING may be added; the head may not

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise InputError(
                f"{self}: rank must be at least 1, alpha above 0, and dropout in [0, 1)"
            )
        if HEAD in self.target_modules:
            # Image generation uses a slice of the head, and losses use its matrix directly.
            raise InputError("LoRA does not support the output head; remove lm_head")
        unknown = set(self.target_modules) - {*LINEAR_LAYERS, EMBEDDING}
        if unknown or not self.target_modules:
            raise InputError(
                f"target_modules {sorted(unknown)} not supported; choose from "
                f"{', '.join((*LINEAR_LAYERS, EMBEDDING))}"
            )


@dataclass(frozen=True)
class LoraModel:
    """A decoder with an adapter; `model` is the decoder that was passed in, changed in place."""

    model: Transformer
    peft: Any  # peft.PeftModel around it

    def save(self, folder: Path) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`, atomically."""
        check_writable(folder.parent / f"{folder.name}.json")
        with atomic_write(folder) as temporary:
            self.peft.save_pretrained(str(temporary), save_embedding_layers=False)

    def merge(self) -> Transformer:
        """Add the adapter to the weights and remove it; returns the decoder.

        The decoder has its original layers and parameter names, and all of them require gradients.
        """
        self.peft.merge_and_unload()
        return self.model.requires_grad_(True)


def add_adapter(model: Transformer, lora: LoraConfig) -> LoraModel:
    """Add an untrained adapter to a decoder and freeze the other weights, in place.

    Raises MissingExtraError without PEFT, and InputError on a model that is quantized, optimized
    for inference, or already has an adapter.
    """
    peft = _import_peft()
    _check(model)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        bias="none",
    )
    with _writable_config(model):
        return LoraModel(model, peft.get_peft_model(model, config))


def load_adapter(model: Transformer, folder: Path, *, trainable: bool = False) -> LoraModel:
    """Add a saved adapter to the decoder it was trained on; `trainable` to continue training it.

    Raises as `add_adapter`, and InputError on a folder without an adapter or with one that does not
    match the model.
    """
    peft = _import_peft()
    _check(model)
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder}: no adapter_config.json; name the folder of a LoRA adapter")
    try:
        with _writable_config(model):
            wrapped = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder}: the adapter does not match the model ({reason})") from None
    return LoraModel(model, wrapped)


def has_adapter(model: nn.Module) -> bool:
    """Whether the model has a LoRA adapter."""
    return any(".lora_A." in name or ".lora_embedding_A." in name for name in model.state_dict())


@contextmanager
def _writable_config(model: Transformer) -> Iterator[None]:
    """Replace the frozen config by a dict: PEFT expects transformers' config and writes into it."""
    config = model.config
    object.__setattr__(model, "config", config.to_dict())
    try:
        yield
    finally:
        object.__setattr__(model, "config", config)


def _check(model: Transformer) -> None:
    if has_adapter(model):
        raise InputError("the model already has an adapter; merge it first")
    if model.optimized_for_inference:
        raise InputError("the model is optimized for inference; load it with load_checkpoint")
    if any(isinstance(module, Quantized) for module in model.modules()):
        raise InputError("the model is quantized; LoRA needs it in fp32 or bf16")


def _import_peft() -> Any:
    try:
        import peft
    except ImportError:
        raise MissingExtraError("peft", "train", "LoRA") from None
    return peft
