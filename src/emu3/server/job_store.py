"""Video jobs, kept in an SQLite file so that they outlive the process.

    FOLDER/jobs.sqlite    requests, their status, and the visual codes of finished videos
    FOLDER/clips/ID.mp4   finished videos

A job is `queued` until it is finished: the store does not record which jobs are running, so a
killed process leaves nothing to clean up. A video file is complete before its job says so.
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

JOB_ID = re.compile(r"video_[0-9a-f]{32}")
TABLE = """
CREATE TABLE IF NOT EXISTS video_jobs (
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
    request TEXT NOT NULL,
    media BLOB,
    result TEXT
)
"""
RENAMED_FIELDS = {"guidance": "guidance_scale", "negative": "negative_prompt", "footage": "video"}
JOB_COLUMNS = "number, id, created, completed, status, prompt, seconds, size, error"
QUEUED, COMPLETED, FAILED = "queued", "completed", "failed"


@dataclass(frozen=True)
class Job:
    """What clients see of a video job. Times are seconds since 1970."""

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
class StoredRequest:
    """A video request as it is stored: JSON fields, and the pixels of its image or video."""

    fields: dict[str, Any]
    media: bytes | None


class JobStore:
    """The video jobs of one model in one folder. The folder is locked while the store is open."""

    def __init__(self, folder: Path, model: str) -> None:
        """Open `folder`, created if it does not exist. Raises InputError if it cannot be opened."""
        self.model, self.clips, self.lock = model, folder / "clips", RLock()
        try:
            self.clips.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.database = sqlite3.connect(
                folder / "jobs.sqlite", timeout=1, isolation_level=None, check_same_thread=False
            )
            self.database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.database.execute("BEGIN EXCLUSIVE")  # the lock lasts until the process ends
            self.database.execute(TABLE)
            self._migrate()
            self.database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            locked = "in use by another server" if "locked" in str(error) else str(error)
            raise InputError(f"{folder}: {locked}; name another folder with --jobs") from None
        except (OSError, sqlite3.DatabaseError) as error:
            raise InputError(
                f"{folder}: not usable as the jobs folder ({error}); name another with --jobs"
            ) from None
        self._delete_orphans()

    def _migrate(self) -> None:
        """Take over the jobs of version 0.1, whose table and request fields had other names.

        Completed and failed jobs are kept whole. Queued ones are generated from their request.
        """
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'jobs'"
        if not self.database.execute(tables).fetchall():
            return
        columns = "id, model, created, completed, status, prompt, seconds, size, error"
        rows = self.database.execute(f"SELECT {columns}, asked, given, made FROM jobs").fetchall()
        for *job, request, media, result in rows:
            fields = {RENAMED_FIELDS.get(k, k): v for k, v in json.loads(request).items()}
            self.database.execute(
                f"INSERT OR IGNORE INTO video_jobs ({columns}, request, media, result) "
                f"VALUES ({', '.join('?' * 12)})",
                (*job, json.dumps(fields), media, result),
            )
        self.database.execute("DROP TABLE jobs")

    def _delete_orphans(self) -> None:
        """Delete video files without a completed job: their process was killed in between."""
        query = "SELECT id FROM video_jobs WHERE status = ?"
        completed = {row[0] for row in self._execute(query, COMPLETED)}
        for path in self.clips.iterdir():
            job_id = path.name.removeprefix(".").partition(".")[0]
            if JOB_ID.fullmatch(job_id) and (job_id not in completed or path.name.startswith(".")):
                path.unlink()

    def close(self) -> None:
        """Close the file and release the folder."""
        with self.lock:
            self.database.close()

    def add(
        self, prompt: str, seconds: str, size: str, request: StoredRequest, limit: int
    ) -> Job | None:
        """Queue a job; None if `limit` jobs are unfinished already."""
        job_id = f"video_{secrets.token_hex(16)}"
        values = (job_id, self.model, int(time.time()), QUEUED, prompt, seconds, size)
        with self.lock:
            if self.num_unfinished() >= limit:
                return None
            self._execute(
                "INSERT INTO video_jobs "
                "(id, model, created, status, prompt, seconds, size, request, media)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *values,
                json.dumps(request.fields),
                request.media,
            )
        return self.get(job_id)

    def num_unfinished(self) -> int:
        """Return the number of jobs that are queued or running."""
        query = "SELECT COUNT(*) FROM video_jobs WHERE model = ? AND status = ?"
        return int(self._execute(query, self.model, QUEUED)[0][0])

    def get(self, job_id: str) -> Job | None:
        """Return a job by its id, or None."""
        query = f"SELECT {JOB_COLUMNS} FROM video_jobs WHERE id = ? AND model = ?"
        rows = self._execute(query, job_id, self.model)
        return Job(*rows[0]) if rows else None

    def request(self, job_id: str) -> StoredRequest:
        """Return the request of a job that exists."""
        query = "SELECT request, media FROM video_jobs WHERE id = ?"
        fields, media = self._execute(query, job_id)[0]
        return StoredRequest(json.loads(fields), media)

    def result(self, job_id: str) -> dict[str, Any]:
        """Return what `complete` stored for a job."""
        rows = self._execute("SELECT result FROM video_jobs WHERE id = ?", job_id)
        return dict(json.loads(rows[0][0]))

    def next(self, running: Iterable[str]) -> Job | None:
        """Return the oldest queued job whose id is not in `running`."""
        skipped = set(running)
        for row in self._execute(
            f"SELECT {JOB_COLUMNS} FROM video_jobs WHERE model = ? AND status = ? ORDER BY number",
            self.model,
            QUEUED,
        ):
            if row[1] not in skipped:
                return Job(*row)
        return None

    def page(self, limit: int, after: Job | None, newest_first: bool) -> list[Job]:
        """Return at most `limit` jobs, those that follow `after` in the given order."""
        order, sign = ("DESC", "<") if newest_first else ("ASC", ">")
        start = after.number if after is not None else (2**62 if newest_first else -1)
        rows = self._execute(
            f"SELECT {JOB_COLUMNS} FROM video_jobs WHERE model = ? AND number {sign} ? "
            f"ORDER BY number {order} LIMIT ?",
            self.model,
            start,
            limit,
        )
        return [Job(*row) for row in rows]

    def complete(self, job_id: str, result: dict[str, Any]) -> bool:
        """Mark a job as completed, its file written; False if it was deleted in the meantime."""
        values = (int(time.time()), json.dumps(result))
        change = f"status = '{COMPLETED}', completed = ?, result = ?, media = NULL"
        return self._finish(job_id, change, *values)

    def fail(self, job_id: str, error: str) -> bool:
        """Mark a job as failed; False if it was deleted in the meantime."""
        change = f"status = '{FAILED}', completed = ?, error = ?, media = NULL"
        return self._finish(job_id, change, int(time.time()), error)

    def _finish(self, job_id: str, change: str, *values: object) -> bool:
        with self.lock:
            cursor = self.database.execute(
                f"UPDATE video_jobs SET {change} WHERE id = ? AND status = ?",
                (*values, job_id, QUEUED),
            )
            return cursor.rowcount == 1

    def delete(self, job_id: str) -> bool:
        """Delete a job and its file; False if there is none."""
        with self.lock:
            cursor = self.database.execute(
                "DELETE FROM video_jobs WHERE id = ? AND model = ?", (job_id, self.model)
            )
        self.path(job_id).unlink(missing_ok=True)
        return cursor.rowcount == 1

    def delete_finished(self, before: float) -> None:
        """Delete the jobs that finished at this time or earlier, and their files."""
        query = "SELECT id FROM video_jobs WHERE model = ? AND completed <= ?"
        with self.lock:
            for (job_id,) in self._execute(query, self.model, before):
                self.delete(job_id)

    def path(self, job_id: str) -> Path:
        """Return the path of a job's video file. Raises ValueError on an invalid id."""
        if JOB_ID.fullmatch(job_id) is None:
            raise ValueError(f"{job_id!r} is not the id of a video job")
        return self.clips / f"{job_id}.mp4"

    def _execute(self, statement: str, *values: object) -> list[Any]:
        with self.lock:
            return self.database.execute(statement, values).fetchall()


def default_jobs_folder() -> Path:
    """Return `$XDG_STATE_HOME/emu3/jobs`, or its default under the home directory."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "emu3" / "jobs"
