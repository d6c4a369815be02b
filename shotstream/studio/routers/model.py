"""Routes of the model and of the API: vocabulary, bundled stories, caption checks, the OpenAPI schema."""

from typing import Any

from fastapi import Request

from shotstream.film.prepare import caption_warnings, unknown_words
from shotstream.story import Reference, Shot, ShotCaptions, Story
from shotstream.streaming.references import cite, cite_all
from shotstream.studio.catalogue import caption_suggestions, list_bundled_stories
from shotstream.studio.dependencies import BackendDep
from shotstream.studio.routers.common import add_head_routes, api_router
from shotstream.studio.schemas.rest import BundledStory, CaptionAdvice, CaptionCheck, ModelAnswer, Suggestions
from shotstream.studio.story_manager import StoryManager
from shotstream.theatre.reading.settled import described

router = api_router()


@router.get("/model")
async def get_model(backend: BackendDep) -> ModelAnswer:
    """The loaded model and the server's limits."""
    return await backend.worker.call(lambda manager: ModelAnswer(model=manager.model, limits=manager.limits))


@router.get("/suggestions")
def get_suggestions(backend: BackendDep) -> Suggestions:
    """The vocabulary of the model, with example captions."""
    return caption_suggestions(backend.app.pipeline)


@router.get("/bundled")
def get_bundled_stories() -> list[BundledStory]:
    """The stories that come with the program."""
    return list_bundled_stories()


@router.post("/captions/check")
async def check_caption(backend: BackendDep, body: CaptionCheck) -> CaptionAdvice:
    """What the model understands of a caption, the words that it does not know, and warnings."""

    def check(_: StoryManager) -> CaptionAdvice:
        pipeline = backend.app.pipeline
        try:
            about, told, earlier = _as_cited(body)
        except ValueError as error:
            return CaptionAdvice(unknown_words=(), understood=None, warnings=(str(error),))
        seed = 0 if body.seed is None else int(body.seed)
        shot = pipeline.read(about, [*earlier, tuple(told) if body.running else told[0]], seed)
        if shot is not None:
            notes = () if body.seed is None else shot.notes
            return CaptionAdvice(
                unknown_words=tuple(map(str, shot.said.unknown)),
                understood=described(shot.said if body.seed is None else shot.reading),
                warnings=notes,
            )
        story = Story(global_caption=about, shots=(Shot(caption=told[-1]),))
        return CaptionAdvice(
            unknown_words=unknown_words(pipeline.text_encoder, about, told[-1]),
            understood=None,
            warnings=tuple(caption_warnings(story, pipeline)),
        )

    return await backend.worker.call(check)


def _as_cited(body: CaptionCheck) -> tuple[str, list[str], list[ShotCaptions]]:
    """Returns the captions of all shots, of the shot and of earlier ones, with captions for references.

    Raises:
        ValueError: One cites what is no reference.
    """
    references = [
        Reference(id=one.reference_id, image="its picture", caption=one.caption) for one in body.references
    ]
    told = [cite(caption, references) for caption in (*body.running, body.caption)]
    return cite(body.global_caption, references), told, [cite_all(one, references) for one in body.earlier]


@router.get("/openapi.json", include_in_schema=False)
def get_openapi_schema(request: Request) -> dict[str, Any]:
    """The OpenAPI schema, with the path prefix of a proxy as its server."""
    root_path = request.scope["root_path"]
    servers = {"servers": [{"url": root_path}]} if root_path else {}
    return {**request.app.openapi(), **servers}


add_head_routes(router)
