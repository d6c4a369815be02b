"""The chunk at which a control takes effect, and other parts that handlers of controls share."""

from shotstream.studio.api_error import ApiError
from shotstream.studio.open_story import OpenStory
from shotstream.studio.schedule import index_after_job
from shotstream.studio.schemas.state import Effect
from shotstream.studio.shot_list import ShotEntry
from shotstream.studio.shot_list import start_frames as starts_of

_LABEL_CHARS = 40


def find_shot(story: OpenStory, shot_id: str) -> tuple[int, ShotEntry]:
    """Returns the index and the entry of a shot; raises ApiError if the film does not have it."""
    index = story.shot_list.index_of(shot_id)
    if index is None:
        raise ApiError("not_found", "the film has no such shot")
    return index, story.shot_list.shots[index]


def effect_at_shot(story: OpenStory, shot_id: str) -> Effect:
    """Returns the effect at the first chunk of a shot, which the film has."""
    index = story.shot_list.index_of(shot_id)
    assert index is not None
    return effect_at(story, index)


def effect_at_next(story: OpenStory) -> Effect:
    """Returns the effect at the next shot to be generated after the running one."""
    index = index_after_job(story)
    return effect_at(story, len(story.shot_list.shots) if index is None else index)


def effect_at(story: OpenStory, index: int, chunk_index: int = 0) -> Effect:
    """Returns the effect at a chunk of the shot at `index`, which may be one past the last shot."""
    shots, job = story.shot_list.shots, story.job
    index = min(index, len(shots))
    film_frame = starts_of(story.shot_list, story.history.takes)[index] + story.app.num_frames(chunk_index)
    if job is not None and job.request.index < index and shots[job.request.index].take_id is None:
        film_frame += story.app.num_frames(job.request.num_chunks)
    return Effect(
        shot_id=shots[index].shot_id if index < len(shots) else None,
        shot_index=index,
        chunk_index=chunk_index,
        film_frame=film_frame,
    )


def truncate(text: str) -> str:
    """Returns a text in one line, as short as labels are."""
    words = " ".join(text.split())
    return words if len(words) <= _LABEL_CHARS else words[: _LABEL_CHARS - 1].rstrip() + "…"
