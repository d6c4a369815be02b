"""The REST routes: stories, takes and what is exported of them; all under /api/.

One router for every application: what a route works with is its application's `Backend`.
"""

import io
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Request
from fastapi.responses import FileResponse, Response
from fastapi.routing import APIRoute
from PIL import Image
from starlette.concurrency import run_in_threadpool

from shotstream.film.prepare import caption_warnings
from shotstream.story import (
    Shot,
    Story,
    StoryError,
    bundled_stories,
    compose_caption,
    read_story,
    story_from_bytes,
)
from shotstream.studio.api_error import ApiError
from shotstream.studio.catalogue import caption_suggestions, list_bundled_stories, list_stories
from shotstream.studio.dependencies import Backend, BackendDep, ExportWriter
from shotstream.studio.download import DownloadResponse
from shotstream.studio.events import (
    BranchState,
    BundledStory,
    CaptionAdvice,
    CaptionCheck,
    CreateStory,
    ImportedStory,
    LimitsState,
    Message,
    ModelState,
    NewShot,
    Problem,
    ShotState,
    StoryState,
    StorySummary,
    Suggestions,
    TakeState,
)
from shotstream.studio.exports import Exporter
from shotstream.studio.media_store import CorruptTakeError
from shotstream.studio.story_manager import StoryManager
from shotstream.studio.validation import JsonRoute

DEFAULT_SEED = 7
IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}

StoryId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
TakeId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
ShotId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
FrameNumber = Annotated[int, Path(ge=0, le=10**9)]


class ModelAnswer(Message):
    """What is loaded, and what is allowed."""

    model: ModelState
    limits: LimitsState


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

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 404, 409, 413, 503)
}

router = APIRouter(prefix="/api", responses=_PROBLEMS, route_class=JsonRoute)


@router.get("/model")
async def model(backend: BackendDep) -> ModelAnswer:
    """The model and the limits."""

    def told(manager: StoryManager) -> ModelAnswer:
        return ModelAnswer(model=manager.model, limits=manager.limits)

    return await backend.worker.call(told)


@router.get("/suggestions")
def suggest(backend: BackendDep) -> Suggestions:
    """What the model's world understands."""
    return caption_suggestions(backend.app.pipeline)


@router.get("/bundled")
def bundled_ones() -> list[BundledStory]:
    """The stories that come with the program."""
    return list_bundled_stories()


@router.post("/captions/check")
async def check_caption(backend: BackendDep, body: CaptionCheck) -> CaptionAdvice:
    """What the model would not take of a caption."""

    def check(_: StoryManager) -> CaptionAdvice:
        story = Story(global_caption=body.global_caption, shots=(Shot(caption=body.caption),))
        whole = compose_caption(body.global_caption, body.caption, 0)
        return CaptionAdvice(
            unknown_words=tuple(backend.app.pipeline.text_encoder.unknown_words(whole)),
            warnings=tuple(caption_warnings(story, backend.app.pipeline)),
        )

    return await backend.worker.call(check)


@router.get("/stories")
def stories(backend: BackendDep) -> list[StorySummary]:
    """Every story, the latest change first."""
    return list_stories(backend.app.store)


@router.post("/stories", status_code=201)
async def create(backend: BackendDep, body: CreateStory) -> StoryState:
    """A new story."""
    if body.bundled is not None:
        if body.model_fields_set & {"title", "global_caption", "shots"}:
            raise ApiError("invalid", "give the name of a bundled story, or a story of your own")
        known = bundled_stories()
        if body.bundled not in known:
            raise ApiError("not_found", f"no such bundled story; there are {', '.join(known)}")
        return await _start(backend, read_story(known[body.bundled]), body.seed, body.autoplay)
    if body.global_caption is None:
        raise ApiError("invalid", "global_caption: say what all shots share")
    title, caption, shots = body.title, body.global_caption, body.shots
    seed = DEFAULT_SEED if body.seed is None else int(body.seed)
    return await backend.worker.call(
        lambda manager: manager.create_story(title, caption, shots, seed=seed, autoplay=body.autoplay)
    )


@router.post("/stories/import", status_code=201)
async def import_story(
    backend: BackendDep,
    text: Annotated[bytes, Body(media_type="application/octet-stream")],
) -> ImportedStory:
    """A new story from the text of a story file."""
    try:
        story = await run_in_threadpool(story_from_bytes, text)
    except StoryError as error:
        raise ApiError("invalid", str(error)) from error
    started = await _start(backend, story, None, autoplay=True)
    return ImportedStory(**dict(started), warnings=story.warnings)


async def _start(backend: Backend, story: Story, seed: str | None, autoplay: bool) -> StoryState:
    chosen = next((s for s in (None if seed is None else int(seed), story.seed) if s is not None), None)
    shots = [
        NewShot(
            caption=shot.caption,
            num_chunks=shot.num_chunks,
            seed=None if shot.seed is None else str(shot.seed),
        )
        for shot in story.shots
    ]
    return await backend.worker.call(
        lambda manager: manager.create_story(
            story.title,
            story.global_caption,
            shots,
            seed=DEFAULT_SEED if chosen is None else chosen,
            autoplay=autoplay,
        )
    )


@router.get("/stories/{story_id}")
async def story(backend: BackendDep, story_id: StoryId) -> StoryState:
    """A story, whole."""
    return await backend.worker.call(lambda manager: manager.story_state(story_id))


@router.delete("/stories/{story_id}", status_code=204)
async def delete(backend: BackendDep, story_id: StoryId) -> None:
    """Deletes a story and its files."""
    await backend.worker.call(lambda manager: manager.delete_story(story_id))


@router.get("/stories/{story_id}/shots")
async def shots(backend: BackendDep, story_id: StoryId) -> list[ShotState]:
    """The strip of the shown branch."""
    return list((await story(backend, story_id)).shots)


@router.get("/stories/{story_id}/takes")
async def takes(backend: BackendDep, story_id: StoryId) -> list[TakeState]:
    """The takes of the shots of the shown branch."""
    return [take for shot in (await story(backend, story_id)).shots for take in shot.takes]


@router.get("/stories/{story_id}/branches")
async def branches(backend: BackendDep, story_id: StoryId) -> list[BranchState]:
    """The branches."""
    return list((await story(backend, story_id)).branches)


@router.get("/stories/{story_id}/takes/{take_id}/media.mp4", response_class=FileResponse)
async def recording(backend: BackendDep, story_id: StoryId, take_id: TakeId) -> FileResponse:
    """A take's recording, as it was sent."""
    record = await backend.get_take(story_id, take_id)
    try:
        path = await run_in_threadpool(backend.app.media.recording_path, story_id, record)
    except CorruptTakeError as error:
        raise await backend.repair_take(story_id, error) from error
    return DownloadResponse(path, "video/mp4", headers=IMMUTABLE)


@router.get("/stories/{story_id}/takes/{take_id}/frames/{frame_index}.png", response_class=Response)
async def frame(
    backend: BackendDep, story_id: StoryId, take_id: TakeId, frame_index: FrameNumber
) -> Response:
    """A frame of the engine, lossless."""
    record = await backend.get_take(story_id, take_id)
    if frame_index >= record.num_frames:
        raise ApiError("not_found", "that take has no such frame")

    def draw() -> bytes:
        data = io.BytesIO()
        Image.fromarray(backend.app.media.read_frame(story_id, record, frame_index)).save(data, "png")
        return data.getvalue()

    try:
        drawn = await run_in_threadpool(draw)
    except CorruptTakeError as error:
        raise await backend.repair_take(story_id, error) from error
    return Response(drawn, media_type="image/png", headers=IMMUTABLE)


@router.get("/stories/{story_id}/takes/{take_id}/hashes")
async def hashes(backend: BackendDep, story_id: StoryId, take_id: TakeId, response: Response) -> list[str]:
    """The sha256 of a take's frames."""
    response.headers.update(IMMUTABLE)
    return list((await backend.get_take(story_id, take_id)).frame_sha256)


@router.get("/stories/{story_id}/export/shots/{shot_id}.mp4", response_class=FileResponse)
async def export_shot(backend: BackendDep, story_id: StoryId, shot_id: ShotId) -> Response:
    """One shot as MP4, by the name and at the rate that the timelines expect of it."""
    return await backend.export(
        story_id, "shot.mp4", "video/mp4", lambda film, path: film.clip(path, shot_id)
    )


@router.get("/stories/{story_id}/export/shots/{shot_id}.gif", response_class=FileResponse)
async def export_shot_gif(backend: BackendDep, story_id: StoryId, shot_id: ShotId) -> Response:
    """One shot as GIF."""
    return await backend.export(story_id, "shot.gif", "image/gif", Exporter.gif, shot_id)


@router.get("/stories/{story_id}/export/{name}", response_class=FileResponse)
async def export_film(backend: BackendDep, story_id: StoryId, name: ExportName) -> Response:
    """The film of the shown branch, in a form."""
    kind, job = EXPORTS[name]
    return await backend.export(story_id, name, kind, job)


@router.head("/stories/{story_id}/export/{name}", include_in_schema=False)
async def about_film(backend: BackendDep, story_id: StoryId, name: ExportName) -> Response:
    """Whether the film can be taken home, without making its file."""
    await backend.check_film_exists(story_id)
    return _unmade(EXPORTS[name][0])


@router.head("/stories/{story_id}/export/shots/{shot_id}.{kind}", include_in_schema=False)
async def about_shot(
    backend: BackendDep, story_id: StoryId, shot_id: ShotId, kind: Literal["mp4", "gif"]
) -> Response:
    """The same of a shot's."""
    await backend.check_film_exists(story_id, shot_id)
    return _unmade("video/mp4" if kind == "mp4" else "image/gif")


@router.get("/openapi.json", include_in_schema=False)
def schema(request: Request) -> dict[str, Any]:
    """What tools read."""
    root_path = request.scope["root_path"]
    # Its paths begin at the root; a tool is told where that is.
    servers = {"servers": [{"url": root_path}]} if root_path else {}
    return {**request.app.openapi(), **servers}


def answer_head(router: APIRouter) -> None:
    """Answers HEAD where GET is answered, as HTTP wants it, but for paths that have a way of their own."""
    for route in list(router.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            router.add_api_route(
                route.path.removeprefix(router.prefix),
                route.endpoint,
                methods=["HEAD"],
                include_in_schema=False,
                response_class=route.response_class,
                response_model=route.response_model,
            )


def _unmade(media_type: str) -> Response:
    """An answer to HEAD for a file that would have to be made to know its length."""
    response = Response(media_type=media_type)
    del response.headers["content-length"]
    return response


answer_head(router)
