"""How well a model does: what it draws, what it answers, and how much of that could be luck.

Every share comes with its chance level, its ceiling and a 95% interval, for the pairs of object
and style that were trained on and for those held out. What a drawn picture shows is decided by a
judge of fixed features (colours, gradients, a thumbnail), and how a clip moves by tracking it;
neither is ever asked of a model of ours.
Needs the extra `emu3[emoji]`.
"""

from recipes.nano.evaluation.icon_classifier import Judge, background_of
from recipes.nano.evaluation.image_evaluation import evaluate_nano
from recipes.nano.evaluation.proportions import Share, wilson
from recipes.nano.evaluation.protocols import Drawn, Emu3Like
from recipes.nano.evaluation.report import DrawingSettings, Figures, NanoReport
from recipes.nano.evaluation.video_evaluation import evaluate_moving
from recipes.nano.evaluation.video_report import MovingFigures, MovingReport

__all__ = [
    "DrawingSettings",
    "Drawn",
    "Emu3Like",
    "Figures",
    "Judge",
    "MovingFigures",
    "MovingReport",
    "NanoReport",
    "Share",
    "background_of",
    "evaluate_moving",
    "evaluate_nano",
    "wilson",
]
