"""What was read of a video file, compared with what the file declares."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# A phone or a browser that drops a few frames makes no damaged file. Without declared durations of
# frames, longer gaps are usual: browsers record nothing while a tab is hidden.
MIN_GAP, MIN_GAP_FRAMES = 0.25, 3  # seconds and frame intervals
MIN_GAP_UNDECLARED, MIN_GAP_FRAMES_UNDECLARED = 1.0, 10
REGULAR = 0.9  # share of regular intervals above which a gap is not just a variable rate
MAX_MISSING, MAX_MISSING_SHARE = 0.5, 0.03  # seconds, and share of the declared duration
MAX_MISSING_FRAMES = 2


@dataclass
class VideoReport:
    """Figures about the frames that were decoded, in file order; complete after the last frame.

    Times are in seconds. `declared_duration` and `declared_frames` are None where the file does not
    say; `read_until` is on the same clock as `declared_duration`.
    """

    declared_duration: float | None = None
    declared_frames: int | None = None
    read_until: float = 0.0
    others_until: float = 0.0  # end of the other streams, if declared_duration includes them
    corrupt_frames: int = 0
    errors: int = 0  # parts of the file that could not be read or decoded
    truncated: bool = False  # the file ends within a packet
    discarded: int = 0  # frames that the file itself hides
    starts: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)

    def gaps(self) -> NDArray[np.float64]:
        """The lengths in seconds of the gaps between frames that no variable rate explains."""
        intervals, declared = np.diff(self.starts), np.array(self.durations[:-1])
        if not len(intervals):
            return intervals
        usual = float(np.median(intervals))
        believed = bool(np.median(declared) > usual / 2)
        expected = declared if believed else np.full_like(intervals, max(usual, 0.0))
        holes = intervals - expected
        if np.mean(np.abs(holes) <= 0.5 * expected) < REGULAR:
            return intervals[:0]
        least = MIN_GAP if believed else MIN_GAP_UNDECLARED
        frames = MIN_GAP_FRAMES if believed else MIN_GAP_FRAMES_UNDECLARED
        return holes[holes > np.maximum(least, frames * np.maximum(expected, usual))]

    def problems(self) -> list[str]:
        """What is wrong with the file, with figures; empty if it was read whole."""
        found = []
        declared, frames = self.declared_duration, len(self.starts) + self.discarded
        if declared is not None and declared - self.read_until > max(
            MAX_MISSING, MAX_MISSING_SHARE * declared
        ):
            found.append(f"{max(self.read_until, 0):.1f} of {declared:.1f} seconds could be read")
        if self.declared_frames is not None:
            missing = self.declared_frames - frames
            if missing > max(MAX_MISSING_FRAMES, MAX_MISSING_SHARE * self.declared_frames):
                found.append(f"{frames} of {self.declared_frames} frames could be read")
        gaps = self.gaps()
        if len(gaps):
            found.append(f"{gaps.sum():.1f} seconds without frames in {len(gaps)} gaps")
        if self.corrupt_frames:
            found.append(f"{self.corrupt_frames} of {len(self.starts)} frames are corrupt")
        if self.errors:
            found.append(f"{self.errors} errors in the data")
        if self.truncated:
            found.append("the file ends within a packet")
        return found
