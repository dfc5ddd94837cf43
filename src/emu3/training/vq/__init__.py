"""Training of the vision tokenizer (VQ-GAN): encoder, codebook and decoder.

Read `trainer.py` first: `train_vq` trains all of it on images and video clips. `warm_start.py`
starts from a trained image tokenizer; `decoder_finetuning.py` trains the decoder alone afterwards.
"""

from emu3.training.vq.decoder_finetuning import finetune_vq_decoder
from emu3.training.vq.trainer import VQTrainingConfig, train_vq
from emu3.training.vq.warm_start import warm_start

__all__ = ["VQTrainingConfig", "finetune_vq_decoder", "train_vq", "warm_start"]
