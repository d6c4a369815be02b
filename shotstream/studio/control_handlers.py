"""Handlers of controls: one function for each control message. `apply_control` calls the right one.

A handler changes the story in one database transaction, and only then in memory. It returns the chunk at
which the change takes effect.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch

from shotstream.streaming.context_sampling import NO_MEMORY, max_pictures
from shotstream.streaming.noise import derive_seed
from shotstream.studio.api_error import ApiError
from shotstream.studio.cast_handlers import (
    handle_add_reference,
    handle_edit_reference,
    handle_remove_reference,
)
from shotstream.studio.checks import (
    check_caption_length,
    check_cast,
    check_policy,
    check_shot_length,
    check_told,
    new_shot_entry,
    steers_of,
)
from shotstream.studio.effects import effect_at, effect_at_next, effect_at_shot, find_shot, truncate
from shotstream.studio.history import QueuedTake
from shotstream.studio.ids import new_id
from shotstream.studio.media_store import CorruptTakeError
from shotstream.studio.open_story import OpenStory
from shotstream.studio.schedule import next_index
from shotstream.studio.schemas.state import Effect, Place
from shotstream.studio.schemas.viewer_messages import (
    AddShot,
    AnyControl,
    Branch,
    ChooseTake,
    Cut,
    EditShot,
    EditStory,
    MakeShot,
    MoveShot,
    Pin,
    Redo,
    RemakeStale,
    RemoveShot,
    Retake,
    SetAutoplay,
    Stop,
    SwitchBranch,
    Undo,
    Unpin,
)
from shotstream.studio.shot_list import PinnedFrame, ShotEntry, ShotList, first_difference, stale_reasons
from shotstream.studio.steer_handler import handle_steer
from shotstream.studio.take_job import shorten_take
from shotstream.studio.take_record import TakeRecord


@singledispatch
def apply_control(control: AnyControl, story: OpenStory) -> Effect:  # noqa: ARG001 (each control has its own handler)
    """Carries out a control on a story, and returns where it takes effect.

    Raises:
        ApiError: The control cannot be carried out. The story did not change.
        OSError: A file cannot be written. The story did not change.
        SQLAlchemyError: The database cannot be written. The story did not change.
    """
    raise AssertionError(f"no such control: {control}")


for _handle in (handle_steer, handle_add_reference, handle_edit_reference, handle_remove_reference):
    apply_control.register(_handle)


@apply_control.register
def handle_add_shot(control: AddShot, story: OpenStory) -> Effect:
    """Adds a shot to the film; see `AddShot`."""
    shot = new_shot_entry(control.shot, story.app.limits)
    at = len(story.shot_list.shots) if control.index is None else control.index
    check_told(story.shot_list, story.app.pipeline.context_budget, shot.captions, at)
    shot_list = _insert_shot(story, story.shot_list, shot, control.index)
    story.commit(shot_list, f"Add {truncate(shot.caption)}")
    return effect_at_shot(story, shot.shot_id)


@apply_control.register
def handle_edit_shot(control: EditShot, story: OpenStory) -> Effect:
    """Changes the captions, length or seed of a shot; see `EditShot`."""
    index, shot = find_shot(story, control.shot_id)
    if control.caption is not None:
        check_caption_length(control.caption, story.app.limits)
        shot = replace(shot, caption=control.caption)
    if control.then is not None:
        shot = replace(shot, then=steers_of(control.then, story.app.limits))
    if control.num_chunks is not None:
        check_shot_length(control.num_chunks, story.app.limits)
        shot = replace(shot, num_chunks=control.num_chunks)
    if control.seed is not None:
        shot = replace(shot, seed=int(control.seed))
    if control.caption is not None or control.then is not None:
        check_told(story.shot_list, story.app.pipeline.context_budget, shot.captions, index)
    story.commit(story.shot_list.with_shot(shot), f"Edit shot {index + 1}")
    _clear_failure(story, shot.shot_id)
    return effect_at_shot(story, shot.shot_id)


@apply_control.register
def handle_remove_shot(control: RemoveShot, story: OpenStory) -> Effect:
    """Removes a shot from the film; see `RemoveShot`."""
    index, shot = find_shot(story, control.shot_id)
    shots = tuple(c for c in story.shot_list.shots if c.shot_id != shot.shot_id)
    story.commit(replace(story.shot_list, shots=shots), f"Remove shot {index + 1}")
    _clear_failure(story, shot.shot_id)
    return effect_at(story, index)


@apply_control.register
def handle_move_shot(control: MoveShot, story: OpenStory) -> Effect:
    """Moves a shot to another index; see `MoveShot`."""
    index, shot = find_shot(story, control.shot_id)
    shots = [c for c in story.shot_list.shots if c.shot_id != shot.shot_id]
    shots.insert(control.index, shot)
    story.commit(replace(story.shot_list, shots=tuple(shots)), f"Move shot {index + 1}")
    return effect_at(story, min(index, control.index))


@apply_control.register
def handle_make_shot(control: MakeShot, story: OpenStory) -> Effect:
    """Queues a shot, and earlier ones without a take; see `MakeShot`."""
    index, shot = find_shot(story, control.shot_id)
    if shot.take_id is not None and not stale_reasons(story.shot_list, index, story.history.takes):
        raise ApiError("refused", f"shot {index + 1} is finished; use retake for another take")
    before = [c for c in story.shot_list.shots[:index] if c.take_id is None]
    _queue_takes(story, *(QueuedTake(shot_id=c.shot_id) for c in (*before, shot)))
    return effect_at_shot(story, shot.shot_id)


@apply_control.register
def handle_retake(control: Retake, story: OpenStory) -> Effect:
    """Queues another take of a shot, with the next unused seed by default; see `Retake`."""
    index, shot = find_shot(story, control.shot_id)
    if shot.take_id is None:
        raise ApiError("refused", f"shot {index + 1} has no take yet; generate it first")
    if control.caption is not None:
        check_caption_length(control.caption, story.app.limits)
        check_told(story.shot_list, story.app.pipeline.context_budget, (control.caption,), index)
    check_shot_length(control.num_chunks, story.app.limits)
    used = {take.seed for take in story.history.takes.values() if take.shot_id == shot.shot_id}
    seed = story.history.takes[shot.take_id].seed if control.seed is None else int(control.seed)
    while control.seed is None and seed in used:
        seed = derive_seed(seed, "retake")
    queued = QueuedTake(
        shot_id=shot.shot_id,
        caption=control.caption,
        num_chunks=control.num_chunks,
        seed=seed,
        then=None if control.caption is None else (),
    )
    _queue_takes(story, queued)
    if story.job is not None and story.job.request.shot_id == shot.shot_id:
        story.discard_job()
    return effect_at_shot(story, shot.shot_id)


@apply_control.register
def handle_remake_stale(control: RemakeStale, story: OpenStory) -> Effect:
    """Queues the first stale shot and all later ones with a take; see `RemakeStale`."""
    del control
    shot_list, takes = story.shot_list, story.history.takes
    stale = [i for i in range(len(shot_list.shots)) if stale_reasons(shot_list, i, takes)]
    if not stale:
        raise ApiError("refused", "no shot is stale")
    # A new take makes every later shot stale, so those are generated again as well.
    later = [shot for shot in shot_list.shots[stale[0] :] if shot.take_id is not None]
    _queue_takes(story, *(QueuedTake(shot_id=shot.shot_id) for shot in later))
    return effect_at(story, stale[0])


@apply_control.register
def handle_choose_take(control: ChooseTake, story: OpenStory) -> Effect:
    """Chooses a finished take, and takes its captions, length and seed over; see `ChooseTake`."""
    index, shot = find_shot(story, control.shot_id)
    take = story.history.takes.get(control.take_id)
    if take is None or take.shot_id != shot.shot_id:
        raise ApiError("not_found", f"shot {index + 1} has no such take")
    check_told(story.shot_list, story.app.pipeline.context_budget, take.captions, index)
    chosen = replace(
        shot,
        take_id=take.take_id,
        caption=take.caption,
        seed=take.seed,
        num_chunks=take.num_chunks,
        then=take.then,
    )
    queue = {key: queued for key, queued in story.history.queue.items() if key != shot.shot_id}
    story.commit(story.shot_list.with_shot(chosen), f"Choose a take of shot {index + 1}", queue=queue)
    if story.job is not None and story.job.request.shot_id == shot.shot_id:
        story.discard_job()
    _clear_failure(story, shot.shot_id)
    return effect_at_shot(story, shot.shot_id)


@apply_control.register
def handle_cut(control: Cut, story: OpenStory) -> Effect:
    """Ends the shot that is playing with the playing chunk, and queues the next shot; see `Cut`."""
    added = None if control.shot is None else new_shot_entry(control.shot, story.app.limits)
    if added is not None:
        _check_shot_count(story, story.shot_list)
    index, keep = _playing_shot(story, control.playing)
    if added is not None:
        check_told(story.shot_list, story.app.pipeline.context_budget, added.captions, index + 1)
    shot_list, ended, record = story.shot_list, None, None
    shot = shot_list.shots[index]
    old = None if shot.take_id is None else story.history.takes[shot.take_id]
    if story.job is not None and story.job.request.index == index:
        ended = story.job
        record = story.save_take(ended, keep)
        shot_list = story.history.with_take(shot_list, record)
    elif old is not None and keep < old.num_chunks:
        record = _shorten_take(story, old, keep)
        shortened = replace(shot, take_id=record.take_id, num_chunks=keep, then=record.then)
        shot_list = shot_list.with_shot(shortened)
    seen = story.seen if record is None else story.seen | {record.take_id}
    if added is not None:
        shot_list = _insert_shot(story, shot_list, added, index + 1)
    if record is not None or added is not None:
        unseen = [
            replace(c, take_id=None) if c.take_id is not None and c.take_id not in seen else c
            for c in shot_list.shots[index + 1 :]
        ]
        shot_list = replace(shot_list, shots=(*shot_list.shots[: index + 1], *unseen))
    queue = {
        key: queued for key, queued in story.history.queue.items() if ended is None or key != shot.shot_id
    }
    following = shot_list.shots[index + 1 : index + 2]
    if following and following[0].take_id is None:
        queue[following[0].shot_id] = QueuedTake(shot_id=following[0].shot_id)
        _clear_failure(story, following[0].shot_id)
    if shot_list == story.shot_list:
        story.history.set_queue(queue=queue)
        story.mark_changed()
        return effect_at(story, index + 1)
    records = [] if record is None else [record]
    story.commit(shot_list, f"Cut shot {index + 1}", records, ended_job=ended, queue=queue)
    story.seen = seen
    if record is not None and ended is None and old is not None:
        story.replaced_takes[old.take_id] = record.take_id
        story.discard_job()
    return effect_at(story, index + 1)


@apply_control.register
def handle_stop(control: Stop, story: OpenStory) -> Effect:
    """Ends the running take with its last finished chunk, and turns autoplay off; see `Stop`."""
    del control
    job = story.job
    if job is None or job.num_made == 0:
        index = next_index(story)
        story.history.set_queue(autoplay=False, queue={})
        story.discard_job()
        story.mark_changed()
        return effect_at(story, len(story.shot_list.shots) if index is None else index)
    num_made = job.num_made
    record = story.save_take(job, num_made)
    shot_list = story.history.with_take(story.shot_list, record)
    label = f"Stop in shot {job.request.index + 1}"
    story.commit(shot_list, label, [record], ended_job=job, autoplay=False, queue={})
    return effect_at(story, job.request.index, num_made)


@apply_control.register
def handle_set_autoplay(control: SetAutoplay, story: OpenStory) -> Effect:
    """Turns autoplay on or off; see `SetAutoplay`."""
    story.history.set_queue(autoplay=control.on)
    story.mark_changed()
    return effect_at_next(story)


@apply_control.register
def handle_edit_story(control: EditStory, story: OpenStory) -> Effect:
    """Changes the title, the global caption or the context policy; see `EditStory`."""
    old = story.shot_list
    shot_list = old
    if control.title is not None:
        shot_list = replace(shot_list, title=control.title)
    if control.global_caption is not None:
        check_caption_length(control.global_caption, story.app.limits)
        shot_list = replace(shot_list, global_caption=control.global_caption)
        check_told(shot_list, story.app.pipeline.context_budget, (), len(shot_list.shots))
    pipeline, policy = story.app.pipeline, control.context_policy
    if policy is not None and policy != pipeline.usable_policy(old.context_policy):
        check_policy(policy, pipeline)
        shot_list = replace(shot_list, context_policy=policy)
    if shot_list == old:
        return effect_at(story, len(old.shots))
    story.commit(shot_list, "Edit the story")
    return effect_at(story, first_difference(old, shot_list))


@apply_control.register
def handle_undo(control: Undo, story: OpenStory) -> Effect:
    """Discards the running take, or reverts the last change; see `Undo`."""
    del control
    again = story.unsteered
    if again is not None:
        return _switch_shot_list(story, lambda: story.history.undo({again.shot_id: again}))
    if story.job is not None:
        index = story.job.request.index
        story.history.set_queue(autoplay=False, queue={})
        story.discard_job()
        return effect_at(story, index)
    return _switch_shot_list(story, story.history.undo)


@apply_control.register
def handle_redo(control: Redo, story: OpenStory) -> Effect:
    """Applies the last reverted change again; see `Redo`."""
    del control
    return _switch_shot_list(story, story.history.redo)


@apply_control.register
def handle_branch(control: Branch, story: OpenStory) -> Effect:
    """Creates a branch from the film up to a shot, and shows it; see `Branch`."""
    shot_list = story.shot_list
    if control.shot_id is not None:
        index, _ = find_shot(story, control.shot_id)
        shot_list = replace(shot_list, shots=shot_list.shots[: index + 1])
    if len(story.history.branches) >= story.app.limits.branches:
        raise ApiError("limit", f"a story has at most {story.app.limits.branches} branches here")
    _check_quota(story)
    name = control.name or f"Branch {len(story.history.branches) + 1}"
    return _switch_shot_list(story, lambda: story.history.start_branch(shot_list, name))


@apply_control.register
def handle_switch_branch(control: SwitchBranch, story: OpenStory) -> Effect:
    """Shows another branch; see `SwitchBranch`."""
    if control.branch_id not in story.history.branches:
        raise ApiError("not_found", "this story has no such branch")
    return _switch_shot_list(story, lambda: story.history.switch_branch(control.branch_id))


@apply_control.register
def handle_pin(control: Pin, story: OpenStory) -> Effect:
    """Pins a frame of the film; see `Pin`."""
    pipeline, shot_list, frame = story.app.pipeline, story.shot_list, control.frame
    most = max_pictures(pipeline.context_budget)
    if not pipeline.context_budget:
        raise ApiError("refused", NO_MEMORY)
    if len(shot_list.pins) >= most:
        raise ApiError("limit", f"at most {most} frames can be pinned; unpin one first")
    if frame.take_id not in shot_list.take_ids():
        raise ApiError("not_found", "the film has no such take")
    if frame.frame_index >= story.history.takes[frame.take_id].num_frames:
        raise ApiError("not_found", "that take has no such frame")
    if any((p.take_id, p.frame_index) == (frame.take_id, frame.frame_index) for p in shot_list.pins):
        raise ApiError("refused", "that frame is pinned already")
    pin = PinnedFrame(pin_id=new_id(), take_id=frame.take_id, frame_index=frame.frame_index)
    pinned = replace(shot_list, pins=(*shot_list.pins, pin))
    if shot_list.cast:
        check_cast(pinned, story.history.takes, pipeline.context_budget)
    story.commit(pinned, "Pin a frame")
    return effect_at_next(story)


@apply_control.register
def handle_unpin(control: Unpin, story: OpenStory) -> Effect:
    """Removes a pin; see `Unpin`."""
    pins = tuple(pin for pin in story.shot_list.pins if pin.pin_id != control.pin_id)
    if len(pins) == len(story.shot_list.pins):
        raise ApiError("not_found", "this story has no such pin")
    story.commit(replace(story.shot_list, pins=pins), "Unpin a frame")
    return effect_at_next(story)


def _switch_shot_list(story: OpenStory, switch: Callable[[], None]) -> Effect:
    """Shows another shot list, by undo, redo or a branch; the effect is at the first shot that differs."""
    before, num_bytes = story.shot_list, story.history.num_bytes
    switch()
    story.discard_job()
    story.app.add_stored_bytes(story.history.num_bytes - num_bytes)
    story.failures.clear()
    story.discard_outdated_job()
    return effect_at(story, first_difference(before, story.shot_list))


def _playing_shot(story: OpenStory, place: Place | None) -> tuple[int, int]:
    """Returns the index of the shot that is playing, and its number of chunks up to the playing one."""
    job, shots = story.job, story.shot_list.shots
    take_id = None if place is None else story.current_take_id(place.take_id)
    if place is not None and job is not None and take_id == job.take_id and job.num_made:
        story.seen.add(job.take_id)
        return job.request.index, min(story.app.chunk_index_of(place.frame_index) + 1, job.num_made)
    if place is not None:
        for index, shot in enumerate(shots):
            if shot.take_id is not None and shot.take_id == take_id:
                story.seen.add(shot.take_id)
                most = story.history.takes[shot.take_id].num_chunks
                return index, min(story.app.chunk_index_of(place.frame_index) + 1, most)
        if take_id in story.history.takes:
            raise ApiError(
                "refused", "the frame that was playing is no longer in the film; play the film again, and cut"
            )
        if job is None or take_id != job.take_id:
            raise ApiError("not_found", "this story has no such take")
    if job is not None and job.num_made:
        return job.request.index, job.num_made
    made = [i for i, shot in enumerate(shots[: job.request.index if job else None]) if shot.take_id]
    if not made:
        raise ApiError("refused", "there is no finished chunk to cut")
    last = shots[made[-1]].take_id
    assert last is not None
    return made[-1], story.history.takes[last].num_chunks


def _shorten_take(story: OpenStory, old: TakeRecord, num_chunks: int) -> TakeRecord:
    _check_quota(story)
    try:
        return shorten_take(story.app, story.story_id, story.cache, old, num_chunks)
    except CorruptTakeError as error:
        story.repair_take(old.take_id)
        raise ApiError(
            "busy", "the files of this shot are damaged and are being repaired; try again soon"
        ) from error


def _check_quota(story: OpenStory) -> None:
    if story.app.is_quota_reached():
        raise ApiError("quota", "the storage quota is used up; delete a story first")


def _clear_failure(story: OpenStory, shot_id: str) -> None:
    """Forgets that a shot failed, so that it can be generated again."""
    story.failures.pop(shot_id, None)


def _insert_shot(story: OpenStory, shot_list: ShotList, shot: ShotEntry, index: int | None) -> ShotList:
    _check_shot_count(story, shot_list)
    shots = list(shot_list.shots)
    shots.insert(len(shots) if index is None else index, shot)
    return replace(shot_list, shots=tuple(shots))


def _check_shot_count(story: OpenStory, shot_list: ShotList) -> None:
    if len(shot_list.shots) >= story.app.limits.shots:
        raise ApiError("limit", f"a story has at most {story.app.limits.shots} shots here")


def _queue_takes(story: OpenStory, *wants: QueuedTake) -> None:
    story.history.set_queue(queue={**story.history.queue, **{queued.shot_id: queued for queued in wants}})
    for queued in wants:
        _clear_failure(story, queued.shot_id)
    story.mark_changed()
