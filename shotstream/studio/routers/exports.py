"""Routes of exports: the film, or one shot, as a file in many formats."""

from collections.abc import Callable
from typing import Literal

from fastapi.responses import FileResponse, Response

from shotstream.studio.dependencies import BackendDep, ExportWriter
from shotstream.studio.exporter import Exporter
from shotstream.studio.routers.common import ShotId, StoryId, add_head_routes, api_router

router = api_router()


def _text(make: Callable[[Exporter], str]) -> ExportWriter:
    return lambda exporter, path: path.write_text(make(exporter), encoding="utf-8") and None


EXPORTS: dict[str, tuple[str, ExportWriter]] = {
    "film.mp4": ("video/mp4", Exporter.mp4),
    "film.gif": ("image/gif", Exporter.gif),
    "film.srt": ("application/x-subrip", _text(Exporter.srt)),
    "film.vtt": ("text/vtt", _text(Exporter.vtt)),
    "film.edl": ("text/plain", _text(Exporter.edl)),
    "film.fcpxml": ("application/xml", _text(Exporter.fcpxml)),
    "film.otio": ("application/json", _text(Exporter.otio)),
    "edit.zip": ("application/zip", Exporter.editing_zip),
    "storyboard.png": ("image/png", lambda exporter, path: path.write_bytes(exporter.storyboard())),
    "story.yaml": ("application/yaml", _text(Exporter.story_yaml)),
    "replay.json": ("application/json", _text(Exporter.replay)),
}
"""The media type and the writer of every export of a film, by file name."""
ExportName = Literal[
    "film.mp4",
    "film.gif",
    "film.srt",
    "film.vtt",
    "film.edl",
    "film.fcpxml",
    "film.otio",
    "edit.zip",
    "storyboard.png",
    "story.yaml",
    "replay.json",
]


@router.get("/stories/{story_id}/export/shots/{shot_id}.mp4", response_class=FileResponse)
async def export_shot_mp4(backend: BackendDep, story_id: StoryId, shot_id: ShotId) -> Response:
    """One shot as MP4, with the file name and frame rate that the timeline exports refer to."""
    return await backend.export(
        story_id, "shot.mp4", "video/mp4", lambda film, path: film.clip(path, shot_id)
    )


@router.get("/stories/{story_id}/export/shots/{shot_id}.gif", response_class=FileResponse)
async def export_shot_gif(backend: BackendDep, story_id: StoryId, shot_id: ShotId) -> Response:
    """One shot as GIF."""
    return await backend.export(story_id, "shot.gif", "image/gif", Exporter.gif, shot_id)


@router.get("/stories/{story_id}/export/{name}", response_class=FileResponse)
async def export_film(backend: BackendDep, story_id: StoryId, name: ExportName) -> Response:
    """The film of the shown branch as a file."""
    media_type, writer = EXPORTS[name]
    return await backend.export(story_id, name, media_type, writer)


@router.head("/stories/{story_id}/export/{name}", include_in_schema=False)
async def check_film_export(backend: BackendDep, story_id: StoryId, name: ExportName) -> Response:
    """Whether there is a film to export; the file is not written for it."""
    await backend.check_film_exists(story_id)
    return _head_answer(EXPORTS[name][0])


@router.head("/stories/{story_id}/export/shots/{shot_id}.{kind}", include_in_schema=False)
async def check_shot_export(
    backend: BackendDep, story_id: StoryId, shot_id: ShotId, kind: Literal["mp4", "gif"]
) -> Response:
    """Whether there is a shot to export; the file is not written for it."""
    await backend.check_film_exists(story_id, shot_id)
    return _head_answer("video/mp4" if kind == "mp4" else "image/gif")


def _head_answer(media_type: str) -> Response:
    """Returns an answer without Content-Length: the length is known only once the file is written."""
    response = Response(media_type=media_type)
    del response.headers["content-length"]
    return response


add_head_routes(router)
