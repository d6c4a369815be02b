"""The schedule of an open story: which shot is generated next, its inputs, and the look-ahead."""

from dataclasses import replace
from typing import TYPE_CHECKING

from shotstream.streaming.noise import shot_seed
from shotstream.studio.cast import look
from shotstream.studio.context_cache import plan_context
from shotstream.studio.history import QueuedTake
from shotstream.studio.shot_list import start_frames
from shotstream.studio.take_job import TakeRequest
from shotstream.studio.take_record import ContextFrameRecord, steers_until

if TYPE_CHECKING:
    from shotstream.studio.open_story import OpenStory


def next_index(story: "OpenStory") -> int | None:
    """Returns the index of the shot that is generated now, or next; None if there is none."""
    return index_after_job(story) if story.job is None else story.job.request.index


def index_after_job(story: "OpenStory") -> int | None:
    """Returns the index of the shot that is generated after the running job; None if there is none.

    Autoplay stops at a shot that has failed. Queued shots after it are generated all the same.
    """
    own = None if story.job is None else story.job.request.shot_id
    plays_on = story.history.autoplay
    for index, shot in enumerate(story.shot_list.shots):
        if shot.shot_id == own:
            continue
        if shot.shot_id in story.history.queue:
            return index
        if plays_on and shot.take_id is None:
            if shot.shot_id not in story.failures:
                return index
            plays_on = False
    return None


def look_ahead(story: "OpenStory", now_s: float) -> int:
    """Returns the number of frames generated beyond the slowest viewer's playback position."""
    starts = start_frames(story.shot_list, story.history.takes)
    made = starts[-1]
    if story.job is not None:
        made = starts[story.job.request.index] + story.job.num_frames
    return max(0, made - _slowest_playhead(story, now_s)) if story.viewers else 0


def _slowest_playhead(story: "OpenStory", now_s: float) -> int:
    silent_s = story.app.limits.silent_s
    viewers = [viewer for viewer in story.viewers.values() if viewer.reported_s > now_s - silent_s]
    viewers = viewers or list(story.viewers.values())
    playing = [viewer for viewer in viewers if viewer.is_playing]
    return min(viewer.playhead_frame for viewer in playing or viewers)


def is_far_ahead(story: "OpenStory", index: int, now_s: float) -> bool:
    """Returns whether the shot at `index` has to wait for the viewers.

    Of a queued shot only its own frames count, so that its start is generated wherever the viewers are.
    """
    ahead = look_ahead(story, now_s)
    if story.shot_list.shots[index].shot_id in story.history.queue:
        ahead = min(ahead, story.job.num_frames if story.job is not None else 0)
    return ahead >= round(story.app.limits.look_ahead_s * story.app.pipeline.fps)


def take_request(
    story: "OpenStory", index: int, context: tuple[ContextFrameRecord, ...] | None = None
) -> TakeRequest:
    """Returns the inputs of the next take of the shot at `index`: as queued, else as in its entry.

    Args:
        story: The story.
        index: Index of the shot.
        context: The frames that condition it; None: they are chosen now.

    Raises:
        CorruptTakeError: The context policy compares frames of a take that cannot be read.
    """
    shot = story.shot_list.shots[index]
    queued = story.history.queue.get(shot.shot_id) or QueuedTake(shot_id=shot.shot_id)
    seed = shot.seed if queued.seed is None else queued.seed
    if seed is None and shot.take_id is not None:
        seed = story.history.takes[shot.take_id].seed
    num_chunks = queued.num_chunks or shot.num_chunks or story.app.pipeline.num_chunks
    request = TakeRequest(
        shot_id=shot.shot_id,
        index=index,
        caption=queued.caption or shot.caption,
        global_caption=story.shot_list.global_caption,
        seed=shot_seed(story.history.seed, index) if seed is None else seed,
        num_chunks=num_chunks,
        then=steers_until(shot.then if queued.then is None else queued.then, num_chunks),
        before=story.shot_list.take_ids(index),
        pins=story.shot_list.pins_before(index),
        context=(),
        cast=story.shot_list.cast,
        context_policy=story.shot_list.context_policy,
    )
    if context is None:
        context = plan_context(
            story.app,
            story.cache,
            story.shot_list,
            index,
            story.history.takes,
            request.caption,
            request.seen,
        )
    return replace(request, context=context)


def is_outdated(story: "OpenStory", request: TakeRequest) -> bool:
    """Returns whether the inputs of a take that is being generated have changed.

    Another pin, or another reference that it does not see, is for the shots after it.
    """
    index = story.shot_list.index_of(request.shot_id)
    if index is None:
        return True
    now = take_request(story, index, request.context)
    kept = replace(now, pins=request.pins, cast=request.cast)
    return kept != request or look(now.seen) != look(request.seen)
