"""Routes of the pictures of a story's references: upload, and the picture as the model sees it."""

import base64
from typing import Annotated

from fastapi import Body, Path
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from shotstream.studio.api_error import ApiError
from shotstream.studio.dependencies import BackendDep
from shotstream.studio.routers.common import IMMUTABLE, StoryId, add_head_routes, api_router
from shotstream.studio.schemas.rest import Picture
from shotstream.video.pictures import PictureError, fit_picture, picture_from_bytes, picture_to_uri

router = api_router()

PictureName = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


@router.post("/stories/{story_id}/pictures", status_code=201)
async def upload_picture(
    backend: BackendDep,
    story_id: StoryId,
    data: Annotated[bytes, Body(media_type="application/octet-stream")],
) -> Picture:
    """Stores a picture, from the bytes of a picture file, for `add_reference` and `edit_reference`."""
    size = backend.app.pipeline.pixel_size
    try:
        image = await run_in_threadpool(lambda: picture_to_uri(fit_picture(picture_from_bytes(data), size)))
    except PictureError as error:
        raise ApiError("invalid", str(error)) from error
    stored = await backend.worker.call(lambda manager: manager.add_picture(story_id, image))
    return Picture(picture_id=stored.picture_id, image=image, outside=stored.outside)


@router.get("/stories/{story_id}/pictures/{picture_id}.png", response_class=Response)
async def get_picture(backend: BackendDep, story_id: StoryId, picture_id: PictureName) -> Response:
    """A picture as the model sees it, as PNG."""
    image = await run_in_threadpool(backend.app.store.picture, story_id, picture_id)
    if image is None:
        raise ApiError("not_found", "this story has no such picture")
    return Response(base64.b64decode(image.partition(",")[2]), media_type="image/png", headers=IMMUTABLE)


add_head_routes(router)
