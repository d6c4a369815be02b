"""Routes of takes: the recording, single frames, and frame hashes."""

import io

from fastapi.responses import FileResponse, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from shotstream.studio.api_error import ApiError
from shotstream.studio.dependencies import BackendDep
from shotstream.studio.download import DownloadResponse
from shotstream.studio.media_store import CorruptTakeError
from shotstream.studio.routers.common import (
    IMMUTABLE,
    FrameNumber,
    StoryId,
    TakeId,
    add_head_routes,
    api_router,
)

router = api_router()


@router.get("/stories/{story_id}/takes/{take_id}/media.mp4", response_class=FileResponse)
async def get_recording(backend: BackendDep, story_id: StoryId, take_id: TakeId) -> FileResponse:
    """The recording of a take: the MP4 header and fragments that viewers were sent."""
    record = await backend.get_take(story_id, take_id)
    try:
        path = await run_in_threadpool(backend.app.media.recording_path, story_id, record)
    except CorruptTakeError as error:
        raise await backend.start_repair(story_id, error) from error
    return DownloadResponse(path, "video/mp4", headers=IMMUTABLE)


@router.get("/stories/{story_id}/takes/{take_id}/frames/{frame_index}.png", response_class=Response)
async def get_frame(
    backend: BackendDep, story_id: StoryId, take_id: TakeId, frame_index: FrameNumber
) -> Response:
    """A lossless frame of a take, as PNG."""
    record = await backend.get_take(story_id, take_id)
    if frame_index >= record.num_frames:
        raise ApiError("not_found", "that take has no such frame")

    def encode() -> bytes:
        data = io.BytesIO()
        Image.fromarray(backend.app.media.read_frame(story_id, record, frame_index)).save(data, "png")
        return data.getvalue()

    try:
        png = await run_in_threadpool(encode)
    except CorruptTakeError as error:
        raise await backend.start_repair(story_id, error) from error
    return Response(png, media_type="image/png", headers=IMMUTABLE)


@router.get("/stories/{story_id}/takes/{take_id}/hashes")
async def get_hashes(
    backend: BackendDep, story_id: StoryId, take_id: TakeId, response: Response
) -> list[str]:
    """The SHA-256 of each frame of a take."""
    response.headers.update(IMMUTABLE)
    return list((await backend.get_take(story_id, take_id)).frame_sha256)


add_head_routes(router)
