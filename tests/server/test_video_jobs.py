"""JobStore outlive the process: stopped, killed, deleted, or more than there is room for."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from emu3.errors import InputError
from emu3.inference.async_engine import RequestHandle
from emu3.inference.events import VideoFrames, VideoResult
from emu3.server import video_worker
from emu3.server.job_store import Asked, Job, JobStore, default_jobs_folder
from emu3.server.video_worker import write_clip

from .conftest import KEY, moving_checkpoint, serving
from .test_cli import process
from .test_videos import client_of, settings

openai = pytest.importorskip("openai")
pytest.importorskip("av")
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


def queued(jobs: JobStore, most: int = 9) -> Job:
    job = jobs.add("x", "2", "16x16", Asked({"prompt": "x"}, None), most)
    assert job is not None
    return job


def test_a_folder_belongs_to_one_server(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for _ in range(2):  # new, and there already
        jobs = JobStore(folder, "tiny")
        with pytest.raises(InputError, match=r"another server has it open.*--jobs"):
            JobStore(folder, "other")
        jobs.close()
    (folder / "jobs.sqlite").write_bytes(b"no database" * 99)
    with pytest.raises(InputError, match="--jobs"):
        JobStore(folder, "tiny")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--jobs"):
        JobStore(tmp_path / "file", "tiny")


def test_each_model_has_its_own(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path, "tiny")
    job = queued(jobs)
    jobs.close()
    other = JobStore(tmp_path, "other")
    assert other.get(job.id) is None
    assert other.next(()) is None
    assert not other.delete(job.id)
    assert other.page(9, None, newest_first=True) == []
    other.close()
    jobs = JobStore(tmp_path, "tiny")
    assert jobs.next(()) == job
    jobs.close()


def test_first_come_first_served(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path, "tiny")
    first, second, third = (queued(jobs) for _ in range(3))
    assert jobs.next(()) == first
    assert jobs.next([first.id]) == second
    assert jobs.complete(first.id, {"codes": []})
    assert jobs.fail(second.id, "no")
    assert not jobs.complete(second.id, {})
    assert jobs.next(()) == third
    assert jobs.add("x", "2", "16x16", Asked({}, None), 1) is None
    assert [job.status for job in jobs.page(9, None, newest_first=False)] == [
        "completed",
        "failed",
        "queued",
    ]
    jobs.close()


def test_files_of_a_process_that_was_killed_are_swept(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path, "tiny")
    kept, lost = queued(jobs), queued(jobs)
    for job in (kept, lost):
        jobs.clip(job.id).touch()
    half = jobs.clips / f".{kept.id}.123.part.mp4"
    half.touch()
    theirs = jobs.clips / "holiday.mp4"
    theirs.touch()
    jobs.complete(kept.id, {})
    jobs.close()
    jobs = JobStore(tmp_path, "tiny")
    assert sorted(jobs.clips.iterdir()) == sorted([jobs.clip(kept.id), theirs])
    with pytest.raises(ValueError, match="no id"):
        jobs.clip("../jobs")
    jobs.close()


def test_what_is_done_for_long_enough_is_forgotten(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path, "tiny")
    made, failed, waiting = (queued(jobs) for _ in range(3))
    jobs.complete(made.id, {})
    jobs.fail(failed.id, "no")
    jobs.clip(made.id).touch()
    jobs.forget(time.time() - 60)
    assert jobs.clip(made.id).exists()
    jobs.forget(time.time() + 60)
    assert jobs.page(9, None, newest_first=True) == [waiting]
    assert list(jobs.clips.iterdir()) == []
    jobs.close()


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "by itself"])
def test_a_kept_video_expires(asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_worker, "SWEEP", 1e9 if asked else 0.01)
    limits = settings(tmp_path, keep_videos=0.5)
    with serving(limits, moving_checkpoint()) as server, client_of(server) as client:
        video = client.videos.create(prompt="a car", seconds="1")
        assert video.expires_at is None
        video = client.videos.poll(video.id, poll_interval_ms=5)
        assert video.expires_at == video.completed_at + 1800
        assert next(limits.jobs.glob("clips/*.mp4"))
        now = time.time
        monkeypatch.setattr(video_worker.time, "time", lambda: now() + 1801)
        if asked:
            with pytest.raises(openai.NotFoundError, match="no such video"):
                client.videos.download_content(video.id)
        while list(limits.jobs.glob("clips/*.mp4")):
            time.sleep(0.01)
        assert list(client.videos.list()) == []


def test_the_folder_is_where_state_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_jobs_folder() == tmp_path / "emu3" / "jobs"


class Held:
    """Holds every video back at its first frames, until it is let go or given up."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reached, self.go, tell = threading.Event(), threading.Event(), RequestHandle.tell

        def held(ticket: RequestHandle, event: Any) -> None:
            tell(ticket, event)
            while isinstance(event, VideoFrames) and not ticket.cancelled and not self.go.is_set():
                self.reached.set()
                self.go.wait(0.005)

        patch.setattr(RequestHandle, "tell", held)


def test_a_stop_puts_back_what_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    order = {"prompt": "a car", "seconds": "1", "extra_body": {"seed": 5}}
    with serving(settings(tmp_path), moving_checkpoint()) as server, client_of(server) as client:
        name = client.videos.create(**order).id
        held.reached.wait()
        while (video := client.videos.retrieve(name)).status == "queued":
            time.sleep(0.005)
        assert video.status == "in_progress"
    monkeypatch.undo()
    films = list[VideoResult]()
    monkeypatch.setattr(
        "emu3.server.video_worker.write_clip",
        lambda path, film, model: (films.append(film), write_clip(path, film, model)),
    )
    with serving(settings(tmp_path), moving_checkpoint()) as server, client_of(server) as client:
        assert client.videos.poll(name, poll_interval_ms=5).status == "completed"
        again = client.videos.create(**order).id
        assert client.videos.poll(again, poll_interval_ms=5).status == "completed"
        clips = [client.videos.download_content(each).read() for each in (name, again)]
    assert films[0] == films[1]
    assert clips[0] == clips[1]


def test_deleting_one_at_work_gives_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    with serving(settings(tmp_path), moving_checkpoint()) as server, client_of(server) as client:
        name = client.videos.create(prompt="x", seconds="2").id
        held.reached.wait()
        with pytest.raises(openai.BadRequestError, match="not made yet"):
            client.videos.download_content(name)
        client.videos.delete(name)
        while server.engine.stats().running_videos:
            time.sleep(0.005)
        assert server.engine.stats().cancelled == 1
        held.go.set()
        other = client.videos.create(prompt="x", seconds="0.5").id
        assert client.videos.poll(other, poll_interval_ms=5).status == "completed"
    assert [path.stem for path in (tmp_path / "clips").iterdir()] == [other]


def test_no_more_wait_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    limits = settings(tmp_path, max_jobs=2, max_running_videos=1)
    with serving(limits, moving_checkpoint()) as server, client_of(server) as client:
        names = [client.videos.create(prompt="x", seconds="0.5").id for _ in range(2)]
        with pytest.raises(openai.RateLimitError, match="limit max_jobs") as caught:
            client.videos.create(prompt="x", seconds="0.5")
        assert caught.value.response.headers["retry-after"] == "5"
        held.go.set()
        for name in names:
            assert client.videos.poll(name, poll_interval_ms=5).status == "completed"


def test_a_full_engine_is_waited_for(tmp_path: Path) -> None:
    """Pictures fill its queue; the video is not refused for that."""
    with (
        serving(settings(tmp_path), moving_checkpoint(), max_waiting=1, max_running=1) as server,
        client_of(server) as client,
    ):
        names = [client.videos.create(prompt="x", seconds="0.5").id for _ in range(4)]
        for name in names:
            assert client.videos.poll(name, poll_interval_ms=5).status == "completed"


@pytest.mark.parametrize("ours", [True, False])
def test_a_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: bool) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("secret") if ours else InputError("too dark to film")

    monkeypatch.setattr("emu3.server.video_worker.write_clip", fails)
    with serving(settings(tmp_path), moving_checkpoint()) as server, client_of(server) as client:
        video = client.videos.create(prompt="x", seconds="0.5")
        video = client.videos.poll(video.id, poll_interval_ms=5)
        assert (video.status, video.error.code) == ("failed", "video_failed")
        assert ("too dark" in video.error.message) is not ours
        assert "secret" not in video.error.message
        with pytest.raises(openai.BadRequestError, match="could not be made"):
            client.videos.download_content(video.id)


def test_what_cannot_be_written_down_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, full = JobStore.complete, threading.Event()

    def no_room(self: JobStore, name: str, made: Any) -> bool:
        if full.is_set():
            return complete(self, name, made)
        full.set()
        raise OSError("no space left")

    monkeypatch.setattr(JobStore, "complete", no_room)
    monkeypatch.setattr(JobStore, "fail", lambda *_: 1 / 0)
    with serving(settings(tmp_path), moving_checkpoint()) as server, client_of(server) as client:
        video = client.videos.create(prompt="x", seconds="0.5")
        assert client.videos.poll(video.id, poll_interval_ms=5).status == "completed"


@pytest.mark.slow
@pytest.mark.timeout(600)  # two processes begin and end
def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    """A real process, killed while it is at work; the next one has what was made, and goes on."""
    pytest.importorskip("uvicorn")
    model, jobs = tmp_path / "tiny", tmp_path / "jobs"
    moving_checkpoint().save(model)
    options = ("--model", model, "--jobs", jobs, "--no-studio", "--api-key", KEY)
    with process(*options) as (url, started):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        first = client.videos.create(prompt="x", seconds="0.5").id
        assert client.videos.poll(first, poll_interval_ms=5).status == "completed"
        clip = client.videos.download_content(first).read()
        others = [client.videos.create(prompt="x", seconds="1.5").id for _ in range(3)]
        while client.videos.retrieve(others[0]).status != "in_progress":
            time.sleep(0.005)
        started.send_signal(signal.SIGKILL)
        assert started.wait(60) == -signal.SIGKILL
    with process(*options) as (url, started):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        assert client.videos.retrieve(first).status == "completed"
        assert client.videos.download_content(first).read() == clip
        for name in others:
            assert client.videos.poll(name, poll_interval_ms=20).status == "completed"
        started.send_signal(signal.SIGTERM)
        assert started.wait(300) == 0
