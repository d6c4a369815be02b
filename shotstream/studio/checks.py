"""Checks of what a person asks for, against limits, cast and model: captions, lengths, shots, policies."""

from collections.abc import Mapping, Sequence

from shotstream.story import Shot, Steer, StoryError
from shotstream.streaming.context_sampling import max_pictures
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.references import cite
from shotstream.studio.api_error import ApiError
from shotstream.studio.cast import references_of, seen_by
from shotstream.studio.ids import new_id
from shotstream.studio.limits import Limits
from shotstream.studio.schemas.state import NewShot, Switch
from shotstream.studio.shot_list import ShotEntry, ShotList
from shotstream.studio.take_record import TakeRecord


def new_shot_entry(shot: NewShot, limits: Limits) -> ShotEntry:
    """Returns the entry of a new shot; raises ApiError beyond a limit."""
    check_caption_length(shot.caption, limits)
    check_shot_length(shot.num_chunks, limits)
    return ShotEntry(
        shot_id=new_id(),
        caption=shot.caption,
        num_chunks=shot.num_chunks,
        seed=None if shot.seed is None else int(shot.seed),
        then=steers_of(shot.then, limits),
    )


def steers_of(switches: Sequence[Switch], limits: Limits) -> tuple[Steer, ...]:
    """Returns the later captions of a shot; raises ApiError if one is too long, or they are out of order."""
    for switch in switches:
        check_caption_length(switch.caption, limits)
    try:
        steers = tuple(Steer(**switch.model_dump()) for switch in switches)
        return Shot(caption="its own", then=steers).then
    except StoryError as error:
        raise ApiError("invalid", str(error)) from error


def check_caption_length(text: str, limits: Limits) -> None:
    """Raises ApiError if a caption is too long."""
    if len(text) > limits.caption_chars:
        raise ApiError("limit", f"{len(text)} characters; a caption has at most {limits.caption_chars} here")


def check_told(shot_list: ShotList, budget: int, captions: Sequence[str], index: int) -> None:
    """Checks the captions of a shot, at `index` in a shot list, against the cast.

    Raises:
        ApiError: They cite what is no reference, or the shot would see more pictures than there are places.
    """
    references = references_of(shot_list.cast)
    try:
        for caption in (shot_list.global_caption, *captions):
            cite(caption, references)
    except ValueError as error:
        raise ApiError("refused", str(error)) from error
    place = len(shot_list.take_ids(index))
    num_seen = len(seen_by(shot_list.cast, place, shot_list.global_caption, *captions))
    num_pins, most = len(shot_list.pins_before(index)), max_pictures(budget)
    if num_seen and num_seen + num_pins > most:
        pinned = f" and {num_pins} pinned frame{'s' * (num_pins > 1)}" if num_pins else ""
        raise ApiError(
            "limit",
            f"{num_seen} picture{'s' * (num_seen > 1)} of the cast{pinned} for {most} places in the memory "
            "of a shot; leave one out, or let only shots that cite it see it",
        )


def check_cast(shot_list: ShotList, takes: Mapping[str, TakeRecord], budget: int) -> None:
    """Checks all shots and their chosen takes against the cast, and a shot after them; raises ApiError."""
    check_told(shot_list, budget, (), len(shot_list.shots))
    for index, shot in enumerate(shot_list.shots):
        made = () if shot.take_id is None else takes[shot.take_id].captions
        for captions in {shot.captions, made}:
            try:
                check_told(shot_list, budget, captions, index)
            except ApiError as error:
                raise ApiError(error.code, f"shot {index + 1}: {error}") from error


def check_policy(policy: str, pipeline: StreamingPipeline) -> None:
    """Raises ApiError unless the model can use a context policy."""
    if policy not in pipeline.context_policies:
        known = ", ".join(pipeline.context_policies)
        raise ApiError("invalid", f"no context policy {policy!r} here; there are {known}")


def check_shot_length(num_chunks: int | None, limits: Limits) -> None:
    """Raises ApiError if a shot is too long."""
    if num_chunks is not None and num_chunks > limits.chunks_per_shot:
        raise ApiError("limit", f"{num_chunks} chunks; a shot has at most {limits.chunks_per_shot} here")
