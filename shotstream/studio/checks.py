"""Checks of what a person asks for, against the limits of the server: captions, lengths, new shots."""

from collections.abc import Sequence

from shotstream.story import Shot, Steer, StoryError
from shotstream.studio.api_error import ApiError
from shotstream.studio.ids import new_id
from shotstream.studio.limits import Limits
from shotstream.studio.schemas.state import NewShot, Switch
from shotstream.studio.shot_list import ShotEntry


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


def check_shot_length(num_chunks: int | None, limits: Limits) -> None:
    """Raises ApiError if a shot is too long."""
    if num_chunks is not None and num_chunks > limits.chunks_per_shot:
        raise ApiError("limit", f"{num_chunks} chunks; a shot has at most {limits.chunks_per_shot} here")
