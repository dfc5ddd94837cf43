"""The checkpoint's `config.json` as transformers' configuration classes.

Which keys there are, their defaults and their checks are read off the house's own dataclasses. What
transformers adds to every configuration stays; a key that neither side knows becomes an attribute,
as everywhere in transformers, and is read by nobody.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import PretrainedConfig

from emu3.config import QUANT_METHOD, DecoderConfig, FileConfig, VisionConfig
from emu3.errors import InputError

THEIRS = frozenset({"model_type", "rope_scaling", "quantization_config"})
"""Keys that transformers keeps in its own way; they are checked where they come in."""


class Emu3DecoderConfig(PretrainedConfig):
    """`config.json` of Emu3-Gen, -Chat and -Stage1.

    Not called Emu3Config: transformers tells configurations apart by the names of their classes
    too, and has one of that name for its own port, with another tokenizer.
    """

    model_type = "Emu3"
    keys_to_ignore_at_inference = ("past_key_values",)
    tokenizer_class = "Emu3Tokenizer"  # for folders without a tokenizer_config.json

    def __init__(self, use_cache: bool = True, **values: Any) -> None:
        if (values.get("quantization_config") or {}).get("quant_method") == QUANT_METHOD:
            raise InputError(
                "these weights were written by emu3 quantize, which transformers cannot read; "
                "open the folder with emu3.Emu3.from_pretrained"
            )
        known = _taken(DecoderConfig, values)
        super().__init__(**values)
        self.use_cache = use_cache
        _adopt(self, known)

    def settings(self) -> DecoderConfig:
        """The house's configuration; raises InputError on a value whose arithmetic it lacks."""
        return DecoderConfig.from_dict(_said(DecoderConfig, self))


Emu3Config = Emu3DecoderConfig
"""The name in the published code, for scripts that import it."""


class Emu3VisionVQConfig(PretrainedConfig):
    """`config.json` of Emu3-VisionTokenizer."""

    model_type = "Emu3VisionVQ"

    def __init__(self, **values: Any) -> None:
        known = _taken(VisionConfig, values)
        super().__init__(**values)
        _adopt(self, known)

    def settings(self) -> VisionConfig:
        """The house's configuration; raises InputError on a value whose arithmetic it lacks."""
        return VisionConfig.from_dict(_said(VisionConfig, self))


class Emu3TokenizerConfig(PretrainedConfig):
    """No folder has it; the tokenizer is registered under it and found by its class name.

    Registered under the decoder's configuration, it would lose to the folder's own Python code as
    soon as a script says `trust_remote_code=True`: tokenizers alone are preferred only this way.
    """

    model_type = "Emu3Tokenizer"


def _taken(kind: type[FileConfig], values: dict[str, Any]) -> FileConfig:
    """Take the keys of a house configuration out of `values`; raises InputError on bad ones."""
    names = {field.name for field in fields(kind)}
    ours = {name: values.pop(name) for name in names & values.keys() - {"quantization_config"}}
    return kind.from_dict(ours)


def _adopt(config: PretrainedConfig, known: FileConfig) -> None:
    for name, value in known.to_dict().items():
        if name not in THEIRS:
            setattr(config, name, value)


def _said(kind: type[FileConfig], config: PretrainedConfig) -> dict[str, Any]:
    names = {field.name for field in fields(kind)} - THEIRS
    return {name: getattr(config, name) for name in names}
