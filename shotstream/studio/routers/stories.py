"""Routes of stories: list, create, import, read and delete them."""

from dataclasses import asdict
from typing import Annotated

from fastapi import Body
from starlette.concurrency import run_in_threadpool

from shotstream.story import Story, StoryError, bundled_stories, read_story, story_from_bytes
from shotstream.studio.api_error import ApiError
from shotstream.studio.cast import cast_of_story
from shotstream.studio.catalogue import list_stories
from shotstream.studio.dependencies import Backend, BackendDep
from shotstream.studio.routers.common import StoryId, add_head_routes, api_router
from shotstream.studio.schemas.rest import CreateStory, ImportedStory
from shotstream.studio.schemas.state import (
    BranchState,
    NewShot,
    ShotState,
    StoryState,
    StorySummary,
    Switch,
    TakeState,
)
from shotstream.video.pictures import PictureError

DEFAULT_SEED = 7

router = api_router()


@router.get("/stories")
def get_stories(backend: BackendDep) -> list[StorySummary]:
    """All stories, the most recently changed first."""
    return list_stories(backend.app.store)


@router.post("/stories", status_code=201)
async def create_story(backend: BackendDep, body: CreateStory) -> StoryState:
    """Creates a story."""
    if body.bundled is not None:
        if body.model_fields_set & {"title", "global_caption", "shots"}:
            raise ApiError("invalid", "give the name of a bundled story, or a story of your own")
        known = bundled_stories()
        if body.bundled not in known:
            raise ApiError("not_found", f"no such bundled story; there are {', '.join(known)}")
        story = read_story(known[body.bundled])
        return await _create_from(
            backend, story, body.seed, body.autoplay, body.context_policy, reads_files=True
        )
    if body.global_caption is None:
        raise ApiError("invalid", "global_caption: it is missing")
    title, caption, shots = body.title, body.global_caption, body.shots
    seed = DEFAULT_SEED if body.seed is None else int(body.seed)
    return await backend.worker.call(
        lambda manager: manager.create_story(
            title, caption, shots, seed=seed, autoplay=body.autoplay, context_policy=body.context_policy
        )
    )


@router.post("/stories/import", status_code=201)
async def import_story(
    backend: BackendDep,
    text: Annotated[bytes, Body(media_type="application/octet-stream")],
) -> ImportedStory:
    """Creates a story from the bytes of a story file."""
    try:
        story = await run_in_threadpool(story_from_bytes, text)
    except StoryError as error:
        raise ApiError("invalid", str(error)) from error
    created = await _create_from(backend, story, None, autoplay=True)
    missing = [f"{one.file_name} (@{one.reference_id})" for one in created.cast if one.picture_id is None]
    told = f"pictures that are not in the file: {', '.join(missing)}; add them under Cast" if missing else ""
    return ImportedStory(**dict(created), warnings=(*story.warnings, *([told] if told else [])))


async def _create_from(
    backend: Backend,
    story: Story,
    seed: str | None,
    autoplay: bool,
    context_policy: str | None = None,
    *,
    reads_files: bool = False,
) -> StoryState:
    """Creates a story from a story file; `seed`, then the file's own seed, then the default is used.

    The files of its pictures are read only for stories of the package.
    """
    chosen = next((s for s in (None if seed is None else int(seed), story.seed) if s is not None), None)
    shots = [
        NewShot(
            caption=shot.caption,
            num_chunks=shot.num_chunks,
            seed=None if shot.seed is None else str(shot.seed),
            then=tuple(Switch(**asdict(steer)) for steer in shot.then),
        )
        for shot in story.shots
    ]
    size = backend.app.pipeline.pixel_size
    try:
        cast, images = await run_in_threadpool(cast_of_story, story.references, size, reads_files=reads_files)
    except PictureError as error:
        raise ApiError("invalid", str(error)) from error
    return await backend.worker.call(
        lambda manager: manager.create_story(
            story.title,
            story.global_caption,
            shots,
            seed=DEFAULT_SEED if chosen is None else chosen,
            autoplay=autoplay,
            cast=cast,
            images=images,
            context_policy=context_policy,
        )
    )


@router.get("/stories/{story_id}")
async def get_story(backend: BackendDep, story_id: StoryId) -> StoryState:
    """The complete state of a story."""
    return await backend.worker.call(lambda manager: manager.story_state(story_id))


@router.delete("/stories/{story_id}", status_code=204)
async def delete_story(backend: BackendDep, story_id: StoryId) -> None:
    """Deletes a story and its files."""
    await backend.worker.call(lambda manager: manager.delete_story(story_id))


@router.get("/stories/{story_id}/shots")
async def get_shots(backend: BackendDep, story_id: StoryId) -> list[ShotState]:
    """The shots of the shown branch, in order."""
    return list((await get_story(backend, story_id)).shots)


@router.get("/stories/{story_id}/takes")
async def get_takes(backend: BackendDep, story_id: StoryId) -> list[TakeState]:
    """All takes of the shots of the shown branch."""
    return [take for shot in (await get_story(backend, story_id)).shots for take in shot.takes]


@router.get("/stories/{story_id}/branches")
async def get_branches(backend: BackendDep, story_id: StoryId) -> list[BranchState]:
    """The branches of a story."""
    return list((await get_story(backend, story_id)).branches)


add_head_routes(router)
