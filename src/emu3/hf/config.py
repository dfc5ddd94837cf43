"""transformers configuration classes for `config.json` in BAAI's format.

Keys, defaults and validation come from the dataclasses in `emu3.config`. Keys that transformers
adds to every configuration are kept. An unknown key becomes an attribute without effect, as
everywhere in transformers.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import PretrainedConfig

from emu3.config import QUANT_METHOD, DecoderConfig, FileConfig, VisionConfig
from emu3.errors import InputError

TRANSFORMERS_KEYS = frozenset({"model_type", "rope_scaling", "quantization_config"})
"""Keys that `PretrainedConfig` handles itself; they are validated in the constructor."""


class Emu3DecoderConfig(PretrainedConfig):
    """`config.json` of Emu3-Gen, -Chat and -Stage1.

    The class is not called Emu3Config, because transformers also maps configurations by class name
    and has an Emu3Config for its own implementation, with another tokenizer.
    """

    model_type = "Emu3"
    keys_to_ignore_at_inference = ("past_key_values",)
    tokenizer_class = "Emu3Tokenizer"  # for folders without a tokenizer_config.json

    def __init__(self, use_cache: bool = True, **values: Any) -> None:
        if (values.get("quantization_config") or {}).get("quant_method") == QUANT_METHOD:
            raise InputError(
                "transformers cannot load weights written by `emu3 quantize`; load the folder with "
                "emu3.Emu3.from_pretrained"
            )
        known = _pop_known(DecoderConfig, values)
        super().__init__(**values)
        self.use_cache = use_cache
        _set_attributes(self, known)

    def as_decoder_config(self) -> DecoderConfig:
        """The configuration for this library. Raises InputError on an unsupported value."""
        return DecoderConfig.from_dict(_values(DecoderConfig, self))


Emu3Config = Emu3DecoderConfig
"""The name in BAAI's code, for scripts that import it."""


class Emu3VisionVQConfig(PretrainedConfig):
    """`config.json` of Emu3-VisionTokenizer."""

    model_type = "Emu3VisionVQ"

    def __init__(self, **values: Any) -> None:
        known = _pop_known(VisionConfig, values)
        super().__init__(**values)
        _set_attributes(self, known)

    def as_vision_config(self) -> VisionConfig:
        """The configuration for this library. Raises InputError on an unsupported value."""
        return VisionConfig.from_dict(_values(VisionConfig, self))


class Emu3TokenizerConfig(PretrainedConfig):
    """The configuration under which the tokenizer is registered; no checkpoint folder has it.

    If it were registered under the decoder's configuration, `trust_remote_code=True` would load the
    Python code in the checkpoint folder instead of `Emu3Tokenizer`.
    """

    model_type = "Emu3Tokenizer"


def _pop_known(kind: type[FileConfig], values: dict[str, Any]) -> FileConfig:
    """Remove the keys of an `emu3.config` class from `values`; raises InputError if invalid."""
    names = {field.name for field in fields(kind)} - {"quantization_config"}
    return kind.from_dict({name: values.pop(name) for name in names & values.keys()})


def _set_attributes(config: PretrainedConfig, known: FileConfig) -> None:
    for name, value in known.to_dict().items():
        if name not in TRANSFORMERS_KEYS:
            setattr(config, name, value)


def _values(kind: type[FileConfig], config: PretrainedConfig) -> dict[str, Any]:
    names = {field.name for field in fields(kind)} - TRANSFORMERS_KEYS
    return {name: getattr(config, name) for name in names}
