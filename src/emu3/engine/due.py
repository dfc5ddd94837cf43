"""Which pictures are due to be decoded: finished ones at once, partial ones in company.

Several of one size decode faster together than one by one. So a partial picture waits while another
is about to have its own: until its next row at the most, and not at all where there is no other.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from emu3.engine.plan import DrawJob


def due(jobs: Sequence[DrawJob]) -> dict[DrawJob, Tensor]:
    """Codes [r, w] of those to be decoded now: all rows of a picture that is done, or as many as
    its partial picture has.
    """
    drawing = [job for job in jobs if not job.picture.done]
    waiting = [job for job in drawing if reached(job) > job.partials_told]
    now = {job: job.picture.rows() for job in jobs if job.picture.done}
    coming = any(is_coming(job) for job in drawing if job not in waiting)
    if any(map(is_late, waiting)) or not coming:
        now |= {job: job.picture.rows()[: rows_of(job, reached(job))] for job in waiting}
    return now


def finished(job: DrawJob) -> int:
    """Rows that are drawn."""
    return len(job.picture.codes) // job.picture.size[1]


def reached(job: DrawJob) -> int:
    """How many of its partial pictures the rows so far are enough for."""
    return finished(job) * (job.request.partials + 1) // job.picture.size[0]


def rows_of(job: DrawJob, number: int) -> int:
    """The rows that a partial picture has; the first is number 1."""
    return -(-number * job.picture.size[0] // (job.request.partials + 1))


def is_late(job: DrawJob) -> bool:
    """Whether one that is due has waited for a row, or must not wait: the next is a row away."""
    rows = finished(job)
    return rows > rows_of(job, reached(job)) or rows + 1 >= rows_of(job, reached(job) + 1)


def is_coming(job: DrawJob) -> bool:
    """Whether the next partial picture is one row away."""
    number = reached(job) + 1
    return number <= job.request.partials and finished(job) + 1 >= rows_of(job, number)
