"""Emu3 in transformers: after `import emu3.hf` the Auto classes load checkpoints in BAAI's format.

    import emu3.hf
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("BAAI/Emu3-Gen")

The import registers the model types "Emu3" (config, causal language model, tokenizer) and
"Emu3VisionVQ" (config, model, image processor), so no Python code from a checkpoint folder is run.
The classes wrap this library's model, templates and document format. Start with `causal_lm`.
"""

from __future__ import annotations

from emu3.errors import MissingExtraError

try:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForCausalLM,
        AutoTokenizer,
    )
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise MissingExtraError("transformers", "hf", "emu3.hf") from None

from emu3.hf.causal_lm import Emu3ForCausalLM
from emu3.hf.config import (
    Emu3Config,
    Emu3DecoderConfig,
    Emu3TokenizerConfig,
    Emu3VisionVQConfig,
)
from emu3.hf.image_processor import Emu3VisionVQImageProcessor
from emu3.hf.processor import Emu3Processor
from emu3.hf.tokenizer import Emu3Tokenizer
from emu3.hf.vision_tokenizer import Emu3VisionVQModel

__all__ = [
    "Emu3Config",
    "Emu3DecoderConfig",
    "Emu3ForCausalLM",
    "Emu3Processor",
    "Emu3Tokenizer",
    "Emu3VisionVQConfig",
    "Emu3VisionVQImageProcessor",
    "Emu3VisionVQModel",
]

AutoConfig.register("Emu3", Emu3DecoderConfig, exist_ok=True)
AutoConfig.register("Emu3VisionVQ", Emu3VisionVQConfig, exist_ok=True)
AutoModelForCausalLM.register(Emu3DecoderConfig, Emu3ForCausalLM, exist_ok=True)
AutoModel.register(Emu3VisionVQConfig, Emu3VisionVQModel, exist_ok=True)
AutoTokenizer.register(Emu3TokenizerConfig, Emu3Tokenizer, exist_ok=True)
AutoImageProcessor.register(
    Emu3VisionVQConfig, slow_image_processor_class=Emu3VisionVQImageProcessor, exist_ok=True
)
