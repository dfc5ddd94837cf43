"""Emoji World: an endless synthetic data set of images and videos with captions and questions.

An image is one of 400 objects in one of three drawing styles on one of six flat backgrounds, in one
of five aspect ratios; a video is an object in one of fifteen motions. Everything follows from a
random generator, so a seed reproduces the data. A tenth of the pairs of object and style, and of
object and motion, is held out. Read `scene` and `video_scene` first.

The icons are downloaded, not shipped: Noto Emoji (Apache-2.0, Google), Fluent Emoji Flat (MIT,
Microsoft) and Twemoji (CC BY 4.0, Twitter and other contributors); and further sets that are only
trained on (`icon_sets`).
"""

from recipes.nano.emoji_world.captions import (
    QUESTIONS,
    QuestionKind,
    answer,
    caption,
    caption_without_style,
    dialogue,
    full_caption,
    question_answer,
)
from recipes.nano.emoji_world.download import STYLES, fetch_icons
from recipes.nano.emoji_world.icon_sets import ICON_SETS, IconSets
from recipes.nano.emoji_world.icons import ICON_SIZES, Icons, default_folder, rasterise
from recipes.nano.emoji_world.image_augmentation import LARGE_AFFINE, SMALL_AFFINE, augment_icon
from recipes.nano.emoji_world.motion import MOTIONS, Pose, held_out_motions
from recipes.nano.emoji_world.objects import OBJECTS, display_name, mirrorable, with_article
from recipes.nano.emoji_world.scene import (
    BACKGROUNDS,
    CODE_SIZE,
    RATIOS,
    Scene,
    blank_image,
    centred_scene,
    code_grid,
    paste_icon,
    random_scene,
    render_scene,
)
from recipes.nano.emoji_world.split import held_out_mask, held_out_pairs, seen_pairs
from recipes.nano.emoji_world.svg_augmentation import IconVariants
from recipes.nano.emoji_world.video_captions import (
    VideoQuestionKind,
    full_video_caption,
    video_answer,
    video_caption,
    video_question,
)
from recipes.nano.emoji_world.video_scene import (
    VideoScene,
    paste_wrapped,
    random_video_scene,
    render_frame,
    render_pose,
    render_sprite,
    render_video,
)

__all__ = [
    "BACKGROUNDS",
    "CODE_SIZE",
    "ICON_SETS",
    "ICON_SIZES",
    "LARGE_AFFINE",
    "MOTIONS",
    "OBJECTS",
    "QUESTIONS",
    "RATIOS",
    "SMALL_AFFINE",
    "STYLES",
    "IconSets",
    "IconVariants",
    "Icons",
    "Pose",
    "QuestionKind",
    "Scene",
    "VideoQuestionKind",
    "VideoScene",
    "answer",
    "augment_icon",
    "blank_image",
    "caption",
    "caption_without_style",
    "centred_scene",
    "code_grid",
    "default_folder",
    "dialogue",
    "display_name",
    "fetch_icons",
    "full_caption",
    "full_video_caption",
    "held_out_mask",
    "held_out_motions",
    "held_out_pairs",
    "mirrorable",
    "paste_icon",
    "paste_wrapped",
    "question_answer",
    "random_scene",
    "random_video_scene",
    "rasterise",
    "render_frame",
    "render_pose",
    "render_scene",
    "render_sprite",
    "render_video",
    "seen_pairs",
    "video_answer",
    "video_caption",
    "video_question",
    "with_article",
]
