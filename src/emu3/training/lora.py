"""LoRA on the decoder, through PEFT: small matrices learn, the weights of the model stay.

W x becomes W x + (alpha / rank) * B A x with B zero at the start, so nothing changes until a step
is taken (Hu et al. 2021, arXiv 2106.09685). The model is changed in place: whatever trains its
parameters that ask for gradients now trains the adapter alone. Files are PEFT's own.

    model = open_checkpoint("nano", None, place).decoder
    adapted = adapt(model, Lora(rank=8))
    train_decoder(model, run, documents, visual, folder)
    adapted.save(folder / "adapter")
    plain = adapted.merge()
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
from emu3.inference.optimize import is_optimized
from emu3.models.quantization import Quantized
from emu3.models.transformer import Transformer

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EMBEDDING = "embed_tokens"
HEAD = "lm_head"


@dataclass(frozen=True)
class LoraConfig:
    """Which layers get an adapter, by the ends of their names, and how large it is."""

    rank: int = 8
    alpha: float = 16.0  # an update counts alpha / rank
    dropout: float = 0.0
    target_modules: tuple[str, ...] = LINEAR  # EMBEDDING may be added; the head may not

    def __post_init__(self) -> None:
        """Raise InputError on an adapter that cannot be."""
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise InputError(f"{self}: rank is 1 or more, alpha above 0, dropout in [0, 1)")
        if HEAD in self.target_modules:
            # A picture asks the head for its codes only, and losses read its matrix directly.
            raise InputError("the head takes no adapter; leave lm_head out of layers")
        unknown = set(self.target_modules) - {*LINEAR, EMBEDDING}
        if unknown or not self.target_modules:
            raise InputError(
                f"layers {sorted(unknown)}: give some of {', '.join((*LINEAR, EMBEDDING))}"
            )


@dataclass(frozen=True)
class LoraModel:
    """A decoder with an adapter in it; `model` is the one that was given, changed in place."""

    model: Transformer
    peft: Any  # peft.PeftModel around it

    def save(self, folder: Path) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`, whole or not at all."""
        check_writable(folder.parent / f"{folder.name}.json")
        with atomic_write(folder) as temporary:
            self.peft.save_pretrained(str(temporary), save_embedding_layers=False)

    def merge(self) -> Transformer:
        """Add the adapter to the weights; the model has its plain layers and names again.

        The adapter is gone afterwards. Every parameter asks for gradients, as in a fresh model.
        """
        self.peft.merge_and_unload()
        return self.model.requires_grad_(True)


def add_adapter(model: Transformer, lora: LoraConfig) -> LoraModel:
    """Put a fresh adapter on a decoder, which computes what it did; only the adapter learns.

    Raises MissingExtraError without PEFT, InputError on a model that is quantised, ready to be run,
    or adapted already.
    """
    peft = _peft()
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
    """Put a saved adapter on the decoder it was trained on; `trainable` to go on training it.

    Raises as `adapt`, and InputError on a folder that holds none or one of another shape.
    """
    peft = _peft()
    _check(model)
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder}: no adapter_config.json; name the folder that an adapter is in")
    try:
        with _writable_config(model):
            wrapped = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder}: no adapter for this model ({reason})") from None
    return LoraModel(model, wrapped)


def has_adapter(model: nn.Module) -> bool:
    """Whether there is an adapter in the model."""
    return any(".lora_A." in name or ".lora_embedding_A." in name for name in model.state_dict())


@contextmanager
def _writable_config(model: Transformer) -> Iterator[None]:
    """PEFT takes any config for transformers' and writes into it; ours is frozen: lend a copy."""
    config = model.config
    object.__setattr__(model, "config", config.to_dict())
    try:
        yield
    finally:
        object.__setattr__(model, "config", config)


def _check(model: Transformer) -> None:
    if has_adapter(model):
        raise InputError("the model has an adapter already; merge it first")
    if is_optimized(model):
        raise InputError("the model is open to be run; open_checkpoint gives one to train")
    if any(isinstance(module, Quantized) for module in model.modules()):
        raise InputError("the model is quantised; LoRA needs it in fp32 or bf16")


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise MissingExtraError("peft", "train", "LoRA") from None
    return peft
