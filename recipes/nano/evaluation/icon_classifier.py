"""The judge: which of the 400 objects a picture shows, by its nearest true icon.

Of 500 true scenes of pairs trained on it names every one rightly, and 99.2% to 99.8% once they
are blurred, bent or compressed to 24 dB. So what a drawing may score at best is measured too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emu3.errors import InputError
from emu3.progress import count_progress
from recipes.nano.emoji_world import (
    BACKGROUNDS,
    OBJECTS,
    RATIOS,
    STYLES,
    Icons,
    Scene,
    compose,
    mirrorable,
)
from recipes.nano.evaluation.features import Floats, Pixels, background_colour, describe

REFERENCE_BACKGROUNDS = ("white", "gray", "yellow", "blue")
"""What the references are drawn on: a white egg loses its outline on white, a gray one on gray.

Green and pink would add time and, measured, not a single right answer.
"""

_MIRRORABLE = np.array([mirrorable(name) for name in OBJECTS])


@dataclass(frozen=True)
class Judge:
    """Knows the true icons.

    `references[style]` is float32 [400 * backgrounds, D], the backgrounds of an object side by
    side; `lengths[style]` is the squared length of each row.
    """

    references: dict[int, Floats]
    lengths: dict[int, Floats]

    @classmethod
    def build(
        cls,
        icons: Icons,
        styles: Iterable[int] = range(len(STYLES)),
        backgrounds: Sequence[str] = REFERENCE_BACKGROUNDS,
    ) -> Judge:
        """Describe every icon on every background: some seconds a style.

        Raises MissingExtraError without scikit-image.
        """
        styles = tuple(styles)
        references: dict[int, Floats] = {}
        with count_progress("describing the true icons", len(styles) * len(OBJECTS)) as advance:
            for style in styles:
                rows = []
                for thing in range(len(OBJECTS)):
                    rows += [_reference(icons, thing, style, b) for b in backgrounds]
                    advance(1)
                references[style] = np.array(rows)
        return cls(references, {style: (known**2).sum(1) for style, known in references.items()})

    def nearest(self, picture: Pixels, style: int) -> int:
        """The object that a picture, uint8 [H, W, 3], shows most likely, as an index.

        Raises InputError for a style the judge was not built for, or no such picture.
        """
        return int(self.distances(picture, style).argmin())

    def rank(self, picture: Pixels, style: int) -> NDArray[np.int64]:
        """All 400 objects, nearest first."""
        return self.distances(picture, style).argsort(kind="stable")

    def style_of(self, picture: Pixels) -> int:
        """The style of the icon that is nearest among those of all styles."""
        views = _views(picture)
        return min(self.references, key=lambda style: float(self._apart(views, style).min()))

    def distances(self, picture: Pixels, style: int) -> Floats:
        """Squared distance of the picture from each object in a style, float32 [400]."""
        return self._apart(_views(picture), style)

    def _apart(self, views: Floats, style: int) -> Floats:
        """The least over backgrounds and, where the object allows it, the mirror: [400]."""
        if style not in self.references:
            raise InputError(f"the judge knows the styles {sorted(self.references)}, not {style}")
        # Multiplied out, so that the work is one product of matrices.
        apart = self.lengths[style][:, None] - 2 * self.references[style] @ views.T
        apart = (apart + (views**2).sum(1)).reshape(len(OBJECTS), -1, len(views)).min(1)
        apart[~_MIRRORABLE, 1] = np.inf
        least: Floats = apart.min(1)
        return least


def background_of(picture: Pixels) -> str:
    """The name of the background colour nearest to that of a picture, uint8 [H, W, 3]."""
    colour = background_colour(picture) * 255
    apart = {name: np.square(colour - known).sum() for name, known in BACKGROUNDS.items()}
    return min(apart, key=lambda name: float(apart[name]))


def _views(picture: Pixels) -> Floats:
    """The picture and its mirror image, described: [2, D]. A mirrored icon is thus known too."""
    return np.stack([describe(picture), describe(picture[:, ::-1])])


def _reference(icons: Icons, thing: int, style: int, background: str) -> Floats:
    scene = Scene(thing, style, background, RATIOS[0], size=48, x=8, y=8, mirror=False)
    return describe(compose(scene, icons))
