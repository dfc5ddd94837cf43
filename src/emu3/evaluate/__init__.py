"""How well a model does: what it draws, what it answers, and how much of that could be luck.

Every share comes with its chance level, its ceiling and a 95% interval, for the pairs of object
and style that were trained on and for those held out. What a drawn picture shows is decided by a
judge of fixed features (colours, gradients, a thumbnail), and how a clip moves by tracking it;
neither is ever asked of a model of ours.
Needs the extra `emu3[emoji]`.
"""

from emu3.evaluate.judge import Judge, background_of
from emu3.evaluate.model import Drawn, Emu3Like
from emu3.evaluate.moving import evaluate_moving
from emu3.evaluate.moving_report import MovingFigures, MovingReport
from emu3.evaluate.nano import evaluate_nano
from emu3.evaluate.report import DrawingSettings, Figures, NanoReport
from emu3.evaluate.shares import Share, wilson

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
