"""The handler of `steer`: another caption for the shot that is being generated."""

from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from shotstream.streaming.references import cite, cited
from shotstream.studio.api_error import ApiError
from shotstream.studio.cast import references_of
from shotstream.studio.checks import check_caption_length
from shotstream.studio.effects import effect_at, truncate
from shotstream.studio.history import QueuedTake
from shotstream.studio.open_story import OpenStory
from shotstream.studio.schemas.state import Effect
from shotstream.studio.schemas.viewer_messages import Steer
from shotstream.studio.take_job import TakeJob


def handle_steer(control: Steer, story: OpenStory) -> Effect:
    """Gives the running take another caption from its next chunk on; see `Steer`."""
    job = story.job
    if job is None:
        raise ApiError("refused", "no shot is being made; cut to a new shot with this caption")
    check_caption_length(control.caption, story.app.limits)
    _check_citations(control.caption, job)
    request, queue = job.request, story.history.queue
    queued = queue.get(request.shot_id)
    before = replace(queued or QueuedTake(shot_id=request.shot_id), then=request.then)
    try:
        steer = job.steer(control.caption, control.mode)
    except ValueError as error:
        raise ApiError("refused", str(error)) from error
    shot = replace(story.shot_list.shots[request.index], then=job.request.then)
    if queued is not None:
        queue = {**queue, request.shot_id: replace(queued, then=job.request.then)}
    label = f"Steer shot {request.index + 1}: {truncate(steer.caption)}"
    try:
        story.commit(story.shot_list.with_shot(shot), label, queue=queue)
    except SQLAlchemyError:
        story.discard_job()  # It has a caption that is not stored; the same seed gives its chunks again.
        raise
    story.steered_at[story.history.step_id] = before
    return effect_at(story, request.index, steer.chunk_index)


def _check_citations(caption: str, job: TakeJob) -> None:
    """Raises ApiError if a caption cites what is no reference, or one that the running take does not see."""
    try:
        cite(caption, references_of(job.request.cast))
    except ValueError as error:
        raise ApiError("refused", str(error)) from error
    seen = {entry.reference_id for entry in job.request.seen}
    unseen = next((name for name in cited(caption) if name not in seen), None)
    if unseen is not None:
        number = job.request.index + 1
        raise ApiError(
            "refused", f"shot {number} was begun without the picture of @{unseen}; cut to a new shot with it"
        )
