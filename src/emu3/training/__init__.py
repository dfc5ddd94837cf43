"""Training of the decoder (presets, LoRA, DPO, FSDP2) and, in `training.vq`, the vision tokenizer.

Read `trainer.py` first: one loop runs every training. `run.py` runs a preset of `presets.py` on
prepared data, as `emu3 train` does; `decoder.py` trains on batches of your own.
"""

from emu3.training.decoder import BatchFn, DecoderTrainingConfig, init_decoder, train_decoder
from emu3.training.distributed import DistributedContext
from emu3.training.dpo import DPOTrainingConfig, PreferencePair, train_dpo
from emu3.training.errors import TrainingError, TrainingInterrupted
from emu3.training.export import ModelCardData, export_model
from emu3.training.lm_loss import TrainingSequence
from emu3.training.lora import LoraConfig, add_adapter, load_adapter
from emu3.training.presets import PRESETS_BY_NAME, LossWeights, Preset
from emu3.training.run import RunOptions, run_preset
from emu3.training.trainer import StepResult, TrainingConfig, TrainingTask, train

__all__ = [
    "PRESETS_BY_NAME",
    "BatchFn",
    "DPOTrainingConfig",
    "DecoderTrainingConfig",
    "DistributedContext",
    "LoraConfig",
    "LossWeights",
    "ModelCardData",
    "PreferencePair",
    "Preset",
    "RunOptions",
    "StepResult",
    "TrainingConfig",
    "TrainingError",
    "TrainingInterrupted",
    "TrainingSequence",
    "TrainingTask",
    "add_adapter",
    "export_model",
    "init_decoder",
    "load_adapter",
    "run_preset",
    "train",
    "train_decoder",
    "train_dpo",
]
