"""Builds the state of an open story, and of the model, that viewers are sent."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from shotstream.story import Steer
from shotstream.streaming.context_sampling import allocate, max_pictures
from shotstream.studio.app_context import AppContext
from shotstream.studio.cast import CastEntry
from shotstream.studio.context_cache import plan_context
from shotstream.studio.media_store import CorruptTakeError
from shotstream.studio.schedule import next_index, take_request
from shotstream.studio.schemas.state import (
    BranchState,
    ContextFrame,
    Making,
    ModelState,
    PinState,
    ReferenceState,
    ShotState,
    ShotStatus,
    StoryState,
    Switch,
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
        cast=tuple(_reference_state(story, entry) for entry in shot_list.cast),
        max_pins=max_pictures(pipeline.context_budget),
        context_policy=pipeline.usable_policy(shot_list.context_policy),
        making=None if story.job is None else job_state(story, story.job),
        memory=_memory(story),
        undo=_undo_label(story),
        redo=history.redo_label,
        num_frames=start_frames(shot_list, history.takes)[-1],
        num_bytes=sum(one.num_bytes for one in (*history.takes.values(), *history.pictures.values())),
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
                then=_switches(shot.then),
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
        then=_switches(take.then),
        seed=str(take.seed),
        num_chunks=take.num_chunks,
        num_frames=take.num_frames,
        was_cut=take.was_cut,
        weights_match=take.weights_sha256 == story.app.pipeline.weights_sha256,
        created_at=take.created_at,
        context=_context(story, take.seen, take.context),
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
        seed=str(request.seed),
        film_frame=start_frames(story.shot_list, story.history.takes)[request.index],
        context=_context(story, request.seen, request.context),
    )


def _undo_label(story: "OpenStory") -> str | None:
    if story.job is None or story.unsteered is not None:
        return story.history.undo_label
    return f"Take of shot {story.job.request.index + 1} in the making"


def _switches(steers: Sequence[Steer]) -> tuple[Switch, ...]:
    return tuple(Switch(**asdict(steer)) for steer in steers)


def _reference_state(story: "OpenStory", entry: CastEntry) -> ReferenceState:
    picture = None if entry.picture_id is None else story.history.pictures.get(entry.picture_id)
    return ReferenceState(**asdict(entry), outside=None if picture is None else picture.outside)


def _memory(story: "OpenStory") -> tuple[ContextFrame, ...]:
    if story.job is not None:
        request = story.job.request
        return _context(story, request.seen, request.context)
    index = next_index(story)
    shot_list = story.shot_list
    with suppress(CorruptTakeError):  # it is found again, and repaired, when the shot is generated
        if index is not None:
            request = take_request(story, index)
            return _context(story, request.seen, request.context)
        index = len(shot_list.shots)
        seen = shot_list.seen_at(index)
        return _context(
            story, seen, plan_context(story.app, story.cache, shot_list, index, story.history.takes, "", seen)
        )
    return ()


def _context(
    story: "OpenStory", seen: Sequence[CastEntry], frames: Sequence[ContextFrameRecord]
) -> tuple[ContextFrame, ...]:
    """Returns the references and frames of a shot's context; without frames, references share its places."""
    budget = story.app.pipeline.context_budget
    shares = allocate(len(seen), budget) if seen and not frames else (1,) * len(seen)
    references = [
        ContextFrame(
            take_id=None,
            shot_id=None,
            frame_index=None,
            reference_id=entry.reference_id,
            picture_id=entry.picture_id,
            pin_id=None,
            shot_phase=phase,
        )
        for phase, (entry, share) in enumerate(zip(seen, shares, strict=True))
        for _ in range(share)
    ]
    return (*references, *(_context_frame(story, frame) for frame in frames))


def _context_frame(story: "OpenStory", frame: ContextFrameRecord) -> ContextFrame:
    return ContextFrame(
        take_id=frame.take_id,
        shot_id=story.history.takes[frame.take_id].shot_id,
        frame_index=frame.frame_index,
        reference_id=None,
        picture_id=None,
        pin_id=frame.pin_id,
        shot_phase=frame.shot_phase,
        score=None if frame.score is None else round(frame.score, 4),
        shared=frame.shared,
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


def model_state(app: AppContext) -> ModelState:
    """Returns the state of the loaded model, which does not change."""
    pipeline = app.pipeline
    return ModelState(
        model_id=pipeline.model_id,
        family=pipeline.family,
        weights_sha256=pipeline.weights_sha256,
        fps=pipeline.fps,
        width_px=pipeline.pixel_size.width,
        height_px=pipeline.pixel_size.height,
        scale=app.scale,
        mime=app.mime,
        num_chunks=pipeline.num_chunks,
        first_chunk_frames=pipeline.geometry.chunk_num_frames(0),
        chunk_frames=pipeline.geometry.chunk_num_frames(1),
        context_frames=pipeline.context_budget,
        context_policies=pipeline.context_policies,
    )
