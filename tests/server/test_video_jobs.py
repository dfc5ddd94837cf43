"""The job store and the video worker: restarts, kills, deletion, limits and failures."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from emu3.errors import InputError
from emu3.inference.async_engine import RequestHandle
from emu3.inference.events import VideoFrames, VideoResult
from emu3.server import video_worker
from emu3.server.job_store import Job, JobStore, StoredRequest, default_jobs_folder
from emu3.server.video_worker import write_video

from .conftest import KEY, serving, video_checkpoint
from .test_cli import server_process
from .test_videos import client_of, settings

openai = pytest.importorskip("openai")
pytest.importorskip("av")
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


def add_job(store: JobStore, limit: int = 9) -> Job:
    job = store.add("x", "2", "16x16", StoredRequest({"prompt": "x"}, None), limit)
    assert job is not None
    return job


def test_a_folder_is_locked_by_one_server(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for _ in range(2):  # new, and there already
        jobs = JobStore(folder, "tiny")
        with pytest.raises(InputError, match=r"in use by another server.*--jobs"):
            JobStore(folder, "other")
        jobs.close()
    (folder / "jobs.sqlite").write_bytes(b"no database" * 99)
    with pytest.raises(InputError, match="--jobs"):
        JobStore(folder, "tiny")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--jobs"):
        JobStore(tmp_path / "file", "tiny")


def test_jobs_belong_to_one_model(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path, "tiny")
    job = add_job(jobs)
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


def test_jobs_run_in_order(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path, "tiny")
    first, second, third = (add_job(jobs) for _ in range(3))
    assert jobs.next(()) == first
    assert jobs.next([first.id]) == second
    assert jobs.complete(first.id, {"codes": []})
    assert jobs.fail(second.id, "no")
    assert not jobs.complete(second.id, {})
    assert jobs.next(()) == third
    assert jobs.add("x", "2", "16x16", StoredRequest({}, None), 1) is None
    assert [job.status for job in jobs.page(9, None, newest_first=False)] == [
        "completed",
        "failed",
        "queued",
    ]
    jobs.close()


def test_files_of_a_killed_process_are_deleted(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path, "tiny")
    kept, lost = add_job(jobs), add_job(jobs)
    for job in (kept, lost):
        jobs.path(job.id).touch()
    half = jobs.clips / f".{kept.id}.123.part.mp4"
    half.touch()
    unrelated = jobs.clips / "holiday.mp4"
    unrelated.touch()
    jobs.complete(kept.id, {})
    jobs.close()
    jobs = JobStore(tmp_path, "tiny")
    assert sorted(jobs.clips.iterdir()) == sorted([jobs.path(kept.id), unrelated])
    with pytest.raises(ValueError, match="not the id"):
        jobs.path("../jobs")
    jobs.close()


def test_jobs_of_version_0_1_are_kept(tmp_path: Path) -> None:
    done, waiting = "video_" + "a" * 32, "video_" + "b" * 32
    columns = (
        "number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, model TEXT, created INTEGER, "
        "completed INTEGER, status TEXT, prompt TEXT, seconds TEXT, size TEXT, error TEXT, "
        "asked TEXT, given BLOB, made TEXT"
    )
    database = sqlite3.connect(tmp_path / "jobs.sqlite")
    database.execute(f"CREATE TABLE jobs ({columns})")
    old = "INSERT INTO jobs VALUES (?, ?, 'tiny', 1, ?, ?, 'x', '2', '16x16', NULL, ?, NULL, ?)"
    made = '{"codes": [[[1]]], "frames": 4, "fps": 8.0}'
    database.execute(old, (1, done, 2, "completed", "{}", made))
    asked = '{"prompt": "x", "guidance": 2.0, "negative": null}'
    database.execute(old, (2, waiting, None, "queued", asked, None))
    database.commit()
    database.close()
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / f"{done}.mp4").write_bytes(b"a video")
    for _ in range(2):  # migrated, and opened again
        jobs = JobStore(tmp_path, "tiny")
        job = jobs.next(())
        assert job is not None
        assert job.id == waiting
        assert jobs.request(waiting).fields == {
            "prompt": "x",
            "guidance_scale": 2.0,
            "negative_prompt": None,
        }
        assert jobs.path(done).read_bytes() == b"a video"
        jobs.close()


def test_old_finished_jobs_are_deleted(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path, "tiny")
    made, failed, waiting = (add_job(jobs) for _ in range(3))
    jobs.complete(made.id, {})
    jobs.fail(failed.id, "no")
    jobs.path(made.id).touch()
    jobs.delete_finished(time.time() - 60)
    assert jobs.path(made.id).exists()
    jobs.delete_finished(time.time() + 60)
    assert jobs.page(9, None, newest_first=True) == [waiting]
    assert list(jobs.clips.iterdir()) == []
    jobs.close()


@pytest.mark.parametrize("on_access", [True, False], ids=["on access", "in the background"])
def test_videos_expire(on_access: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_worker, "EXPIRY_SECONDS", 1e9 if on_access else 0.01)
    limits = settings(tmp_path, keep_videos=0.5)
    with serving(limits, video_checkpoint()) as server, client_of(server) as client:
        video = client.videos.create(prompt="a car", seconds="1")
        assert video.expires_at is None
        video = client.videos.poll(video.id, poll_interval_ms=5)
        assert video.expires_at == video.completed_at + 1800
        assert next(limits.jobs.glob("clips/*.mp4"))
        now = time.time
        monkeypatch.setattr(video_worker.time, "time", lambda: now() + 1801)
        if on_access:
            with pytest.raises(openai.NotFoundError, match="no such video"):
                client.videos.download_content(video.id)
        while list(limits.jobs.glob("clips/*.mp4")):
            time.sleep(0.01)
        assert list(client.videos.list()) == []


def test_the_default_folder_is_in_the_state_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_jobs_folder() == tmp_path / "emu3" / "jobs"


class VideoPause:
    """Pauses the engine at the first frames of every video until `go` is set or it is ended."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        deliver, cancel = RequestHandle.deliver, RequestHandle.cancel
        cancelled = set[RequestHandle]()

        def paused_deliver(handle: RequestHandle, event: Any) -> None:
            deliver(handle, event)
            while (
                isinstance(event, VideoFrames) and handle not in cancelled and not self.go.is_set()
            ):
                self.reached.set()
                self.go.wait(0.005)

        def recorded_cancel(handle: RequestHandle) -> None:
            cancelled.add(handle)
            cancel(handle)

        patch.setattr(RequestHandle, "deliver", paused_deliver)
        patch.setattr(RequestHandle, "cancel", recorded_cancel)


def test_running_jobs_are_repeated_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = VideoPause(monkeypatch)
    order = {"prompt": "a car", "seconds": "1", "extra_body": {"seed": 5}}
    with serving(settings(tmp_path), video_checkpoint()) as server, client_of(server) as client:
        name = client.videos.create(**order).id
        pause.reached.wait()
        while (video := client.videos.retrieve(name)).status == "queued":
            time.sleep(0.005)
        assert video.status == "in_progress"
    monkeypatch.undo()
    results = list[VideoResult]()
    monkeypatch.setattr(
        "emu3.server.video_worker.write_video",
        lambda path, video, model: (results.append(video), write_video(path, video, model)),
    )
    with serving(settings(tmp_path), video_checkpoint()) as server, client_of(server) as client:
        assert client.videos.poll(name, poll_interval_ms=5).status == "completed"
        again = client.videos.create(**order).id
        assert client.videos.poll(again, poll_interval_ms=5).status == "completed"
        clips = [client.videos.download_content(each).read() for each in (name, again)]
    assert torch.equal(results[0].codes, results[1].codes)
    assert torch.equal(results[0].frames, results[1].frames)
    assert clips[0] == clips[1]


def test_deleting_a_running_job_cancels_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = VideoPause(monkeypatch)
    with serving(settings(tmp_path), video_checkpoint()) as server, client_of(server) as client:
        name = client.videos.create(prompt="x", seconds="2").id
        pause.reached.wait()
        with pytest.raises(openai.BadRequestError, match="not completed yet"):
            client.videos.download_content(name)
        client.videos.delete(name)
        while server.engine.stats().running_videos:
            time.sleep(0.005)
        assert server.engine.stats().cancelled == 1
        pause.go.set()
        other = client.videos.create(prompt="x", seconds="0.5").id
        assert client.videos.poll(other, poll_interval_ms=5).status == "completed"
    assert [path.stem for path in (tmp_path / "clips").iterdir()] == [other]


def test_the_queue_of_jobs_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = VideoPause(monkeypatch)
    limits = settings(tmp_path, max_jobs=2, max_running_videos=1)
    with serving(limits, video_checkpoint()) as server, client_of(server) as client:
        names = [client.videos.create(prompt="x", seconds="0.5").id for _ in range(2)]
        with pytest.raises(openai.RateLimitError, match="limit max_jobs") as caught:
            client.videos.create(prompt="x", seconds="0.5")
        assert caught.value.response.headers["retry-after"] == "5"
        pause.go.set()
        for name in names:
            assert client.videos.poll(name, poll_interval_ms=5).status == "completed"


def test_jobs_wait_for_a_full_engine(tmp_path: Path) -> None:
    with (
        serving(settings(tmp_path), video_checkpoint(), max_waiting=1, max_running=1) as server,
        client_of(server) as client,
    ):
        names = [client.videos.create(prompt="x", seconds="0.5").id for _ in range(4)]
        for name in names:
            assert client.videos.poll(name, poll_interval_ms=5).status == "completed"


@pytest.mark.parametrize("internal", [True, False])
def test_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, internal: bool) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("secret") if internal else InputError("too dark")

    monkeypatch.setattr("emu3.server.video_worker.write_video", fails)
    with serving(settings(tmp_path), video_checkpoint()) as server, client_of(server) as client:
        video = client.videos.create(prompt="x", seconds="0.5")
        video = client.videos.poll(video.id, poll_interval_ms=5)
        assert (video.status, video.error.code) == ("failed", "video_failed")
        assert ("too dark" in video.error.message) is not internal
        assert "secret" not in video.error.message
        with pytest.raises(openai.BadRequestError, match="this video failed"):
            client.videos.download_content(video.id)


def test_jobs_are_repeated_if_the_store_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, failed_once = JobStore.complete, threading.Event()

    def fail_once(self: JobStore, job_id: str, result: Any) -> bool:
        if failed_once.is_set():
            return complete(self, job_id, result)
        failed_once.set()
        raise OSError("no space left")

    monkeypatch.setattr(JobStore, "complete", fail_once)
    monkeypatch.setattr(JobStore, "fail", lambda *_: 1 / 0)
    with serving(settings(tmp_path), video_checkpoint()) as server, client_of(server) as client:
        video = client.videos.create(prompt="x", seconds="0.5")
        assert client.videos.poll(video.id, poll_interval_ms=5).status == "completed"


@pytest.mark.slow
@pytest.mark.timeout(600)  # starts two processes
def test_jobs_survive_a_kill(tmp_path: Path) -> None:
    """A killed process leaves its completed videos and its queued jobs to the next one."""
    pytest.importorskip("uvicorn")
    model, jobs = tmp_path / "tiny", tmp_path / "jobs"
    video_checkpoint().save(model)
    options = ("--model", model, "--jobs", jobs, "--no-studio", "--api-key", KEY)
    with server_process(*options) as (url, started):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        first = client.videos.create(prompt="x", seconds="0.5").id
        assert client.videos.poll(first, poll_interval_ms=5).status == "completed"
        clip = client.videos.download_content(first).read()
        others = [client.videos.create(prompt="x", seconds="1.5").id for _ in range(3)]
        while client.videos.retrieve(others[0]).status != "in_progress":
            time.sleep(0.005)
        started.send_signal(signal.SIGKILL)
        assert started.wait(60) == -signal.SIGKILL
    with server_process(*options) as (url, started):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        assert client.videos.retrieve(first).status == "completed"
        assert client.videos.download_content(first).read() == clip
        for name in others:
            assert client.videos.poll(name, poll_interval_ms=20).status == "completed"
        started.send_signal(signal.SIGTERM)
        assert started.wait(300) == 0
