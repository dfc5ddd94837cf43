"""Videos that were asked for, in a file of SQLite, and those that are made, beside it.

    FOLDER/jobs.sqlite    what was asked, what became of it, and the codes of what was made
    FOLDER/clips/ID.mp4   what was made

A job is waiting until it is done: who is at work on it is not written down, so that a process that
was killed leaves nothing to be cleared up. The file of a clip is whole before its job says so.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from emu3.errors import InputError

ID = re.compile(r"video_[0-9a-f]{32}")
TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    model TEXT NOT NULL,
    created INTEGER NOT NULL,
    completed INTEGER,
    status TEXT NOT NULL,
    prompt TEXT NOT NULL,
    seconds TEXT NOT NULL,
    size TEXT NOT NULL,
    error TEXT,
    asked TEXT NOT NULL,
    given BLOB,
    made TEXT
)
"""
SHOWN = "number, id, created, completed, status, prompt, seconds, size, error"
QUEUED, COMPLETED, FAILED = "queued", "completed", "failed"


@dataclass(frozen=True)
class Job:
    """What clients may know of a video. Times are seconds since 1970."""

    number: int
    id: str
    created: int
    completed: int | None
    status: str
    prompt: str
    seconds: str
    size: str
    error: str | None


@dataclass(frozen=True)
class Asked:
    """What it takes to make a video: fields, and the bytes that came with them."""

    fields: dict[str, Any]
    given: bytes | None


class JobStore:
    """The videos of one model in one folder, which nobody else can have open meanwhile."""

    def __init__(self, folder: Path, model: str) -> None:
        """Open a folder, made where there is none. Raises InputError where that cannot be."""
        self.model, self.clips, self.lock = model, folder / "clips", RLock()
        try:
            self.clips.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.file = sqlite3.connect(
                folder / "jobs.sqlite", timeout=1, isolation_level=None, check_same_thread=False
            )
            self.file.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.file.execute("BEGIN EXCLUSIVE")  # held until the process ends, however it does
            self.file.execute(TABLE)
            self.file.execute("COMMIT")
        except sqlite3.OperationalError as error:
            busy = "another server has it open" if "locked" in str(error) else str(error)
            raise InputError(f"{folder}: {busy}; name another folder with --jobs") from None
        except (OSError, sqlite3.DatabaseError) as error:
            raise InputError(f"{folder}: no folder for jobs ({error}); see --jobs") from None
        self._sweep()

    def _sweep(self) -> None:
        """Remove clips that no job says were made: their process was killed in between."""
        known = {row[0] for row in self._rows("SELECT id FROM jobs WHERE status = ?", COMPLETED)}
        for path in self.clips.iterdir():
            name = path.name.removeprefix(".").partition(".")[0]
            if ID.fullmatch(name) and (name not in known or path.name.startswith(".")):
                path.unlink()

    def close(self) -> None:
        """Let others have the folder."""
        with self.lock:
            self.file.close()

    def add(self, prompt: str, seconds: str, size: str, asked: Asked, most: int) -> Job | None:
        """Queue one up, unless `most` are waiting already."""
        name = f"video_{secrets.token_hex(16)}"
        values = (name, self.model, int(time.time()), QUEUED, prompt, seconds, size)
        with self.lock:
            if self.waiting() >= most:
                return None
            self._rows(
                "INSERT INTO jobs (id, model, created, status, prompt, seconds, size, asked, given)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *values,
                json.dumps(asked.fields),
                asked.given,
            )
        return self.get(name)

    def waiting(self) -> int:
        """How many are not done, those at work too."""
        where = "SELECT COUNT(*) FROM jobs WHERE model = ? AND status = ?"
        return int(self._rows(where, self.model, QUEUED)[0][0])

    def get(self, name: str) -> Job | None:
        """One by its id."""
        found = self._rows(f"SELECT {SHOWN} FROM jobs WHERE id = ? AND model = ?", name, self.model)
        return Job(*found[0]) if found else None

    def asked(self, name: str) -> Asked:
        """What it takes to make one that is there."""
        fields, given = self._rows("SELECT asked, given FROM jobs WHERE id = ?", name)[0]
        return Asked(json.loads(fields), given)

    def made(self, name: str) -> dict[str, Any]:
        """What was written down of one that is completed."""
        return dict(json.loads(self._rows("SELECT made FROM jobs WHERE id = ?", name)[0][0]))

    def next(self, busy: Iterable[str]) -> Job | None:
        """The oldest one that waits and that nobody is at work on."""
        skipped = set(busy)
        for row in self._rows(
            f"SELECT {SHOWN} FROM jobs WHERE model = ? AND status = ? ORDER BY number",
            self.model,
            QUEUED,
        ):
            if row[1] not in skipped:
                return Job(*row)
        return None

    def page(self, most: int, after: Job | None, newest_first: bool) -> list[Job]:
        """At most so many, behind `after`."""
        order, sign = ("DESC", "<") if newest_first else ("ASC", ">")
        start = -1 if after is None else after.number
        if newest_first and after is None:
            start = 2**62
        found = self._rows(
            f"SELECT {SHOWN} FROM jobs WHERE model = ? AND number {sign} ? "
            f"ORDER BY number {order} LIMIT ?",
            self.model,
            start,
            most,
        )
        return [Job(*row) for row in found]

    def complete(self, name: str, made: dict[str, Any]) -> bool:
        """One is made, and its clip is there; False if nobody wants it any more."""
        done = "completed = ?, made = ?, given = NULL"
        values = (int(time.time()), json.dumps(made))
        return self._end(name, f"status = '{COMPLETED}', {done}", *values)

    def fail(self, name: str, error: str) -> bool:
        """One cannot be made."""
        done = "completed = ?, error = ?, given = NULL"
        return self._end(name, f"status = '{FAILED}', {done}", int(time.time()), error)

    def _end(self, name: str, change: str, *values: object) -> bool:
        with self.lock:
            cursor = self.file.execute(
                f"UPDATE jobs SET {change} WHERE id = ? AND status = ?", (*values, name, QUEUED)
            )
            return cursor.rowcount == 1

    def delete(self, name: str) -> bool:
        """Forget one, and its clip; False if there is none."""
        with self.lock:
            cursor = self.file.execute(
                "DELETE FROM jobs WHERE id = ? AND model = ?", (name, self.model)
            )
        self.clip(name).unlink(missing_ok=True)
        return cursor.rowcount == 1

    def forget(self, before: float) -> None:
        """Delete those that were done by then, and their clips."""
        done = "model = ? AND completed <= ?"
        with self.lock:
            found = self._rows(f"SELECT id FROM jobs WHERE {done}", self.model, before)
            for (name,) in found:
                self.delete(name)

    def clip(self, name: str) -> Path:
        """Where the clip of a job is. Raises ValueError on what is no id."""
        if ID.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no id of a job")
        return self.clips / f"{name}.mp4"

    def _rows(self, command: str, *values: object) -> list[Any]:
        with self.lock:
            return self.file.execute(command, values).fetchall()


def default_jobs_folder() -> Path:
    """Where jobs are kept unless somebody says: the state of this person's programs."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "emu3" / "jobs"
