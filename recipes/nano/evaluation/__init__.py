"""The evaluation of nano: what it generates and answers, compared with the true icons.

Every proportion comes with its chance level, an upper bound and a 95% interval, for the pairs of
object and style that were trained on and for those held out. What a generated image shows is
decided by the nearest true icon in fixed features (gradients, colours, a thumbnail), and how an
object moves by tracking it; no learned model takes part. Read `image_evaluation` first.
Needs the extra `emu3[nano]`.
"""

from recipes.nano.evaluation.icon_classifier import NearestIconClassifier, classify_background
from recipes.nano.evaluation.image_evaluation import evaluate_images
from recipes.nano.evaluation.protocols import GeneratedImages, ImageModel, VideoModel
from recipes.nano.evaluation.report import Metrics, Report, SamplingSettings
from recipes.nano.evaluation.video_evaluation import evaluate_videos

__all__ = [
    "GeneratedImages",
    "ImageModel",
    "Metrics",
    "NearestIconClassifier",
    "Report",
    "SamplingSettings",
    "VideoModel",
    "classify_background",
    "evaluate_images",
    "evaluate_videos",
]
