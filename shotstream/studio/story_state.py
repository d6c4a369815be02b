"""Builds the state of an open story that viewers are sent."""

from contextlib import suppress
from typing import TYPE_CHECKING

from shotstream.streaming.context_sampling import max_pins
from shotstream.studio.context_cache import plan_context
from shotstream.studio.media_store import CorruptTakeError
from shotstream.studio.schedule import next_index
from shotstream.studio.schemas.state import (
    BranchState,
    ContextFrame,
    Making,
    PinState,
    ShotState,
    ShotStatus,
    StoryState,
    TakeState,
)
from shotstream.studio.shot_list import stale_reasons, start_frames
from shotstream.studio.take_job import TakeJob
from shotstream.studio.take_record import ContextFrameRecord, TakeRecord

if TYPE_CHECKING:
    from shotstream.studio.open_story import OpenStory


def story_state(story: "OpenStory") -> StoryState:
    """Returns the complete state of a story."""
    history, shot_list = story.history, story.shot_list
    pipeline = story.app.pipeline
    film = shot_list.take_ids()
    policy = shot_list.context_policy or pipeline.context_policy
    return StoryState(
        story_id=story.story_id,
        revision=story.revision,
        title=shot_list.title,
        global_caption=shot_list.global_caption,
        seed=str(history.seed),
        autoplay=history.autoplay,
        branch_id=history.branch.branch_id,
        branches=tuple(
            BranchState(
                branch_id=branch_id,
                name=history.branches[branch_id].name,
                num_shots=len(branch_script.shots),
            )
            for branch_id, branch_script in history.branch_shot_lists().items()
        ),
        shots=shot_states(story),
        pins=tuple(
            PinState(
                pin_id=pin.pin_id,
                take_id=pin.take_id,
                frame_index=pin.frame_index,
                is_used=pin.take_id in film,
            )
            for pin in shot_list.pins
        ),
        max_pins=max_pins(policy, pipeline.context_budget),
        context_policy=policy,
        making=None if story.job is None else job_state(story, story.job),
        memory=_memory(story),
        undo=f"Take of shot {story.job.request.index + 1} in the making"
        if story.job is not None
        else history.undo_label,
        redo=history.redo_label,
        num_frames=start_frames(shot_list, history.takes)[-1],
        num_bytes=sum(take.num_bytes for take in history.takes.values()),
    )


def shot_states(story: "OpenStory") -> tuple[ShotState, ...]:
    """Returns the state of each shot, in order."""
    shot_list, takes = story.shot_list, story.history.takes
    starts = start_frames(shot_list, takes)
    takes_of: dict[str, list[TakeRecord]] = {}
    for take in takes.values():
        takes_of.setdefault(take.shot_id, []).append(take)
    states: list[ShotState] = []
    for index, shot in enumerate(shot_list.shots):
        reasons = stale_reasons(shot_list, index, takes)
        states.append(
            ShotState(
                shot_id=shot.shot_id,
                caption=shot.caption,
                num_chunks=shot.num_chunks,
                seed=None if shot.seed is None else str(shot.seed),
                status=_status(story, index, bool(reasons)),
                stale_reasons=reasons,
                failure=story.failures.get(shot.shot_id),
                take_id=shot.take_id,
                film_frame=None if shot.take_id is None else starts[index],
                takes=tuple(take_state(story, take) for take in takes_of.get(shot.shot_id, ())),
            )
        )
    return tuple(states)


def take_state(story: "OpenStory", take: TakeRecord) -> TakeState:
    """Returns the state of a finished take."""
    return TakeState(
        take_id=take.take_id,
        caption=take.caption,
        seed=str(take.seed),
        num_chunks=take.num_chunks,
        num_frames=take.num_frames,
        was_cut=take.was_cut,
        weights_match=take.weights_sha256 == story.app.pipeline.weights_sha256,
        created_at=take.created_at,
        context=_frames(story, take.context),
        context_policy=take.context_policy or story.app.pipeline.context_policy,
    )


def job_state(story: "OpenStory", job: TakeJob) -> Making:
    """Returns the state of the take that a job generates."""
    request = job.request
    return Making(
        take_id=job.take_id,
        shot_id=request.shot_id,
        shot_index=request.index,
        num_chunks=request.num_chunks,
        num_made=job.num_made,
        film_frame=start_frames(story.shot_list, story.history.takes)[request.index],
        context=_frames(story, request.context),
    )


def _memory(story: "OpenStory") -> tuple[ContextFrame, ...]:
    if story.job is not None:
        return _frames(story, story.job.request.context)
    index = next_index(story)
    index = len(story.shot_list.shots) if index is None else index
    caption = story.shot_list.shots[index].caption if index < len(story.shot_list.shots) else ""
    takes = story.history.takes
    with suppress(CorruptTakeError):  # it is found again, and repaired, when the shot is generated
        return _frames(story, plan_context(story.app, story.cache, story.shot_list, index, takes, caption))
    return ()


def _frames(story: "OpenStory", frames: tuple[ContextFrameRecord, ...]) -> tuple[ContextFrame, ...]:
    return tuple(
        ContextFrame(
            take_id=frame.take_id,
            shot_id=story.history.takes[frame.take_id].shot_id,
            frame_index=frame.frame_index,
            pin_id=frame.pin_id,
            shot_phase=frame.shot_phase,
            score=None if frame.score is None else round(frame.score, 4),
            shared=frame.shared,
        )
        for frame in frames
    )


def _status(story: "OpenStory", index: int, is_stale: bool) -> ShotStatus:
    shot = story.shot_list.shots[index]
    if story.job is not None and story.job.request.shot_id == shot.shot_id:
        return "generating"
    if shot.shot_id in story.failures:
        return "failed"
    if shot.shot_id in story.history.queue or (shot.take_id is None and story.history.autoplay):
        return "queued"
    if shot.take_id is None:
        return "waiting"
    return "stale" if is_stale else "done"
