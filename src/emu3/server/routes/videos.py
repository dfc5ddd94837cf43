"""`/v1/videos`: video jobs. A request is answered at once with a job; the video follows later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import FileResponse, Response

from emu3.checkpoints.generation_defaults import GenerationDefaults
from emu3.errors import InputError
from emu3.inference.events import VideoSpec
from emu3.inference.requests import VideoInput, VideoRequest
from emu3.inference.video import DEFAULT_FPS
from emu3.processing.document_format import VideoCodes
from emu3.server.dependencies import EngineDep, SettingsDep, VideoWorkerDep, require_task
from emu3.server.errors import APIError, invalid_request, queue_full
from emu3.server.job_store import COMPLETED, FAILED, JOB_ID, Job
from emu3.server.media import (
    VideoDecoder,
    decode_image,
    is_data_url,
    load_image,
    spritesheet,
    thumbnail,
    too_many_frames,
)
from emu3.server.openapi import WORK_ERRORS, request_body
from emu3.server.request_body import RequestBody
from emu3.server.routes.images import random_seed, sampling_params
from emu3.server.schema_types import Upload
from emu3.server.schemas import (
    Video,
    VideoContentQuery,
    VideoDeleted,
    VideoError,
    VideoExtensionRequest,
    VideoGenerationRequest,
    VideoList,
    VideoListQuery,
    VideoSourceExtensionRequest,
)
from emu3.server.settings import Settings
from emu3.server.video_worker import VideoWorker

# Routes are plain functions, which FastAPI runs in threads: they wait for the disk and decode
# images and videos.
router = APIRouter(
    prefix="/v1/videos", tags=["videos"], dependencies=[Depends(require_task("video"))]
)


@router.post(
    "", responses=WORK_ERRORS, openapi_extra=request_body(VideoGenerationRequest, form=True)
)
def create_video(
    body: Annotated[
        VideoGenerationRequest, Depends(RequestBody(VideoGenerationRequest, form=True))
    ],
    engine: EngineDep,
    settings: SettingsDep,
    worker: VideoWorkerDep,
) -> Video:
    """Generate a video from a text, and optionally from its first image."""
    return enqueue(worker, video_request(body, engine.checkpoint.defaults, settings))


@router.get("")
def list_videos(query: Annotated[VideoListQuery, Query()], worker: VideoWorkerDep) -> VideoList:
    """List video jobs, page by page."""
    after = None if query.after is None else find_job(worker, query.after)
    worker.delete_expired()
    jobs = worker.store.page(query.limit + 1, after, newest_first=query.order == "desc")
    page = [describe_job(worker, job) for job in jobs[: query.limit]]
    return VideoList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(jobs) > query.limit,
    )


@router.post(
    "/extensions",
    responses=WORK_ERRORS,
    openapi_extra=request_body(VideoSourceExtensionRequest, form=True),
)
def extend_video_source(
    body: Annotated[
        VideoSourceExtensionRequest, Depends(RequestBody(VideoSourceExtensionRequest, form=True))
    ],
    engine: EngineDep,
    settings: SettingsDep,
    worker: VideoWorkerDep,
) -> Video:
    """Extend an uploaded video, or a completed one by its id."""
    if isinstance(body.video, str) and not is_data_url(body.video):
        if body.fps is not None:
            raise invalid_request("fps", "only allowed with an uploaded video")
        return extend_job(worker, body.video, body, engine.checkpoint.defaults, settings)
    decoder = VideoDecoder(engine.checkpoint.vision_processor.preprocessor, settings)
    if isinstance(body.video, Upload):
        video = decoder.decode(body.video.data, "video", body.fps)
    else:
        video = decoder.decode_data_url(body.video, "video", body.fps)
    request = extension_request(body, video, body.prompt, engine.checkpoint.defaults, settings)
    return enqueue(worker, request)


@router.post("/edits")
@router.post("/characters")
@router.post("/{video_id}/remix")
def edit_video() -> None:
    """Refuse: the model cannot edit videos."""
    raise invalid_request(
        None,
        "not supported: the model was not trained to edit videos; "
        "POST /v1/videos/{id}/extend continues one",
        "unsupported",
    )


@router.get("/{video_id}")
def retrieve_video(video_id: str, worker: VideoWorkerDep) -> Video:
    """Return the status of a video job."""
    return describe_job(worker, find_job(worker, video_id))


@router.delete("/{video_id}")
def delete_video(video_id: str, worker: VideoWorkerDep) -> VideoDeleted:
    """Delete a video; a job that is running is cancelled."""
    job = find_job(worker, video_id)
    worker.delete(job)
    return VideoDeleted(id=job.id)


@router.get(
    "/{video_id}/content",
    response_class=Response,
    responses={
        200: {"content": {"video/mp4": {}, "image/webp": {}, "image/jpeg": {}}},
        206: {"description": "A range of the file"},
        416: {"description": "The range is outside the file"},
    },
)
def video_content(
    video_id: str, query: Annotated[VideoContentQuery, Query()], worker: VideoWorkerDep
) -> Response:
    """Return the video as MP4, its first frame as WebP, or a spritesheet of frames as JPEG."""
    path = worker.store.path(completed_job(worker, video_id).id)
    try:
        if query.variant != "video":
            make_image, media_type = STILL_VARIANTS[query.variant]
            return Response(make_image(path), media_type=media_type)
        stat = path.stat()
    except FileNotFoundError:
        raise APIError(404, "this video was deleted", "video_id", "video_not_found") from None
    return FileResponse(
        path,
        media_type="video/mp4",
        stat_result=stat,
        filename=path.name,
        content_disposition_type="inline",
    )


@router.post(
    "/{video_id}/extend",
    responses=WORK_ERRORS,
    openapi_extra=request_body(VideoExtensionRequest, form=True),
)
def extend_video(
    video_id: str,
    body: Annotated[VideoExtensionRequest, Depends(RequestBody(VideoExtensionRequest, form=True))],
    engine: EngineDep,
    settings: SettingsDep,
    worker: VideoWorkerDep,
) -> Video:
    """Extend a completed video."""
    return extend_job(worker, video_id, body, engine.checkpoint.defaults, settings)


def video_request(
    body: VideoGenerationRequest, defaults: GenerationDefaults, settings: Settings
) -> VideoRequest:
    """Return the engine request for an API request. Raises APIError."""
    fps = body.fps or DEFAULT_FPS
    _check_frames(body.seconds * fps, settings)
    image = None
    if isinstance(body.input_reference, Upload):
        image = decode_image(body.input_reference.data, "input_reference", settings)
    elif body.input_reference is not None:
        image = load_image(body.input_reference, "input_reference", settings)
    return VideoRequest(
        body.prompt,
        body.seconds,
        fps,
        body.size,
        image=image,
        seed=random_seed() if body.seed is None else body.seed,
        sampling=sampling_params(body, defaults),
        guidance_scale=body.guidance_scale,
        negative_prompt=body.negative_prompt,
    )


def extension_request(
    body: VideoExtensionRequest,
    video: VideoInput | VideoCodes,
    prompt: str | None,
    defaults: GenerationDefaults,
    settings: Settings,
) -> VideoRequest:
    """Return the engine request that continues `video`. Raises APIError.

    With `prompt` None, the engine captions the video if the model can; otherwise the prompt is
    empty, as in `Emu3.extend`.
    """
    frames = video.frames if isinstance(video, VideoCodes) else len(video.frames)
    _check_frames(frames + body.seconds * video.fps, settings)
    return VideoRequest(
        prompt,
        body.seconds,
        video=video,
        seed=random_seed() if body.seed is None else body.seed,
        sampling=sampling_params(body, defaults),
        guidance_scale=body.guidance_scale,
        negative_prompt=body.negative_prompt,
    )


def _check_frames(frames: float, settings: Settings) -> None:
    if frames > settings.max_frames:
        raise too_many_frames("seconds", settings)


def extend_job(
    worker: VideoWorker,
    video_id: str,
    body: VideoExtensionRequest,
    defaults: GenerationDefaults,
    settings: Settings,
) -> Video:
    """Queue the continuation of a completed video. Raises APIError."""
    job = completed_job(worker, video_id)
    prompt = job.prompt or None if body.prompt is None else body.prompt
    request = extension_request(body, worker.video_codes(job), prompt, defaults, settings)
    return enqueue(worker, request)


def enqueue(worker: VideoWorker, request: VideoRequest) -> Video:
    """Queue a video job. Raises APIError."""
    try:
        spec = worker.describe(request)
    except InputError as error:
        raise invalid_request(None, str(error)) from None
    check_pixels(spec, worker.settings)
    job = worker.enqueue(request, spec)
    if job is None:
        message = f"{worker.settings.max_jobs} videos are queued already (limit max_jobs)"
        raise queue_full(message, worker.settings.retry_after)
    return describe_job(worker, job)


def check_pixels(spec: VideoSpec, settings: Settings) -> None:
    """Raise APIError on a video whose frames would take too much memory."""
    pixels = spec.width * spec.height
    if pixels > settings.max_pixels:
        raise invalid_request(
            "size", f"{pixels} pixels, at most {settings.max_pixels} are allowed (limit max_pixels)"
        )
    if pixels * spec.frames > settings.max_video_pixels:
        raise invalid_request(
            "seconds",
            f"{pixels * spec.frames} pixels in all frames, at most {settings.max_video_pixels} "
            "are allowed (limit max_video_pixels)",
        )


def find_job(worker: VideoWorker, video_id: str) -> Job:
    """Return a job by its id. Raises APIError."""
    worker.delete_expired()
    job = worker.store.get(video_id) if JOB_ID.fullmatch(video_id) else None
    if job is None:
        raise APIError(404, "no such video", "video_id", "video_not_found")
    return job


def completed_job(worker: VideoWorker, video_id: str) -> Job:
    """Return a completed job by its id. Raises APIError."""
    job = find_job(worker, video_id)
    if job.status == FAILED:
        raise invalid_request("video_id", f"this video failed: {job.error}", "video_failed")
    if job.status != COMPLETED:
        raise invalid_request(
            "video_id", "this video is not completed yet; try again later", "video_not_completed"
        )
    return job


def describe_job(worker: VideoWorker, job: Job) -> Video:
    """Return a job as clients see it."""
    status, progress = worker.progress(job)
    return Video(
        id=job.id,
        model=worker.settings.model,
        status=status,  # type: ignore[arg-type]  # a column of the store
        progress=progress,
        created_at=job.created,
        completed_at=job.completed if status == COMPLETED else None,
        expires_at=worker.expires(job),
        prompt=job.prompt,
        seconds=job.seconds,
        size=job.size,
        error=None if job.error is None else VideoError(message=job.error),
    )


STILL_VARIANTS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "thumbnail": (thumbnail, "image/webp"),
    "spritesheet": (spritesheet, "image/jpeg"),
}
"""Variants of a video's content that are images: how to make them, and their media type."""
