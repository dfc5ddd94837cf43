"""Metrics for any checkpoint: token loss by role, and the quality of image reconstructions.

Read `token_loss` first, then `reconstruction`; `emu3 eval` prints both. `proportions`,
`image_metrics` and `contact_sheets` are the parts that task-specific evaluations are built from.
"""

from emu3.evaluation.contact_sheets import (
    save_contact_sheet,
    save_image_grid,
    save_video_contact_sheet,
)
from emu3.evaluation.image_metrics import psnr, ssim
from emu3.evaluation.proportions import Proportion, exact_match, wilson_interval
from emu3.evaluation.reconstruction import (
    ReconstructionReport,
    evaluate_reconstruction,
    find_images,
)
from emu3.evaluation.token_loss import RoleLoss, TokenLossReport, evaluate_token_loss

__all__ = [
    "Proportion",
    "ReconstructionReport",
    "RoleLoss",
    "TokenLossReport",
    "evaluate_reconstruction",
    "evaluate_token_loss",
    "exact_match",
    "find_images",
    "psnr",
    "save_contact_sheet",
    "save_image_grid",
    "save_video_contact_sheet",
    "ssim",
    "wilson_interval",
]
