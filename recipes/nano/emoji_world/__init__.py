"""Emoji World: a small, endless set of pictures with captions, questions and answers.

A picture is one of 400 objects, drawn in one of three styles, placed on one of six flat
backgrounds in one of five shapes; a clip is one that moves in one of fifteen ways. All of it
follows from a random generator, so the same seed gives the same data. It is large enough to learn
drawing and seeing from, and small enough that one machine can, with a tenth of the pairs of object
and style, and of object and motion, held out to tell learning from remembering.

The icons are fetched, not shipped: Noto Emoji (Apache-2.0, Google), Fluent Emoji Flat (MIT,
Microsoft) and Twemoji (CC BY 4.0, Twitter and other contributors); and other hands' drawings of the
same things, to learn from (`hands.py`).
"""

from recipes.nano.emoji_world.captions import (
    QUESTIONS,
    Kind,
    answer,
    caption,
    dialogue,
    full_caption,
    open_caption,
    question_answer,
)
from recipes.nano.emoji_world.icon_sets import HANDS, Hands
from recipes.nano.emoji_world.icons import (
    SIZES,
    STYLES,
    Icons,
    default_folder,
    fetch_icons,
    rasterise,
)
from recipes.nano.emoji_world.image_augmentation import GENTLY, WIDELY, vary
from recipes.nano.emoji_world.motion import MOTIONS, Pose, held_out_motions
from recipes.nano.emoji_world.objects import OBJECTS, mirrorable, spoken, with_article
from recipes.nano.emoji_world.scene import (
    BACKGROUNDS,
    CODE,
    RATIOS,
    Scene,
    blank,
    compose,
    grid,
    paste,
    random_scene,
    usual_scene,
)
from recipes.nano.emoji_world.split import held_out, held_out_pairs, seen_pairs
from recipes.nano.emoji_world.svg_augmentation import Redrawn
from recipes.nano.emoji_world.video_captions import (
    clip_answer,
    clip_caption,
    clip_question,
    full_clip_caption,
)
from recipes.nano.emoji_world.video_scene import (
    MovingScene,
    compose_clip,
    compose_frame,
    draw_pose,
    place,
    random_moving_scene,
    sprite,
)

__all__ = [
    "BACKGROUNDS",
    "CODE",
    "GENTLY",
    "HANDS",
    "MOTIONS",
    "OBJECTS",
    "QUESTIONS",
    "RATIOS",
    "SIZES",
    "STYLES",
    "WIDELY",
    "Hands",
    "Icons",
    "Kind",
    "MovingScene",
    "Pose",
    "Redrawn",
    "Scene",
    "answer",
    "blank",
    "caption",
    "clip_answer",
    "clip_caption",
    "clip_question",
    "compose",
    "compose_clip",
    "compose_frame",
    "default_folder",
    "dialogue",
    "draw_pose",
    "fetch_icons",
    "full_caption",
    "full_clip_caption",
    "grid",
    "held_out",
    "held_out_motions",
    "held_out_pairs",
    "mirrorable",
    "open_caption",
    "paste",
    "place",
    "question_answer",
    "random_moving_scene",
    "random_scene",
    "rasterise",
    "seen_pairs",
    "spoken",
    "sprite",
    "usual_scene",
    "vary",
    "with_article",
]
