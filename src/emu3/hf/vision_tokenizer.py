"""The vision tokenizer as a transformers model. Keep it in float32: rounding changes codes."""

from __future__ import annotations

from torch import Tensor

from emu3.hf.config import Emu3VisionVQConfig
from emu3.hf.pretrained import Emu3PreTrainedModel
from emu3.models.vq.tokenizer import VisionTokenizer


class Emu3VisionVQModel(Emu3PreTrainedModel):
    """The Emu3 vision tokenizer. Its submodules and parameters have BAAI's names."""

    config_class = Emu3VisionVQConfig
    main_input_name = "pixel_values"
    base_model_prefix = "emuvideovq"

    def __init__(self, config: Emu3VisionVQConfig) -> None:
        super().__init__(config)
        tokenizer = VisionTokenizer(config.as_vision_config())
        for name, module in tokenizer.named_children():
            self.add_module(name, module)
        # Not registered as a submodule: parameters must not have two names.
        self.__dict__["tokenizer"] = tokenizer
        self.post_init()

    @property
    def spatial_scale_factor(self) -> int:
        """Pixels per code, along height and width."""
        return self.tokenizer.config.spatial_factor

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode pixels to codes. See `encode`."""
        return self.encode(pixel_values)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels to codes: [B, 3, H, W] to [B, h, w], [B, T, 3, H, W] to [B, t, h, w]."""
        return self.tokenizer.encode(pixels)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes to pixels: [B, h, w] to [B, 3, H, W], [B, t, h, w] to [B, T, 3, H, W]."""
        return self.tokenizer.decode(codes)
