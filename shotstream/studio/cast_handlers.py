"""Handlers of the controls that change the cast: a reference is added, changed or removed."""

from collections.abc import Sequence
from dataclasses import replace

from shotstream.story import StoryError
from shotstream.streaming.references import cited
from shotstream.studio.api_error import ApiError
from shotstream.studio.cast import CastEntry
from shotstream.studio.checks import check_caption_length, check_cast
from shotstream.studio.effects import effect_at
from shotstream.studio.open_story import OpenStory
from shotstream.studio.schemas.state import Effect
from shotstream.studio.schemas.viewer_messages import AddReference, EditReference, RemoveReference
from shotstream.studio.shot_list import first_difference


def handle_add_reference(control: AddReference, story: OpenStory) -> Effect:
    """Adds a reference to the cast; see `AddReference`."""
    entry = CastEntry(**dict(control.reference))
    return _change_cast(story, (*story.shot_list.cast, entry), f"Add @{entry.reference_id}", entry)


def handle_edit_reference(control: EditReference, story: OpenStory) -> Effect:
    """Changes a reference; see `EditReference`."""
    old = _find(story, control.reference_id)
    names = ("caption", "role", "shots", "picture_id")
    changes = {name: value for name in names if (value := getattr(control, name)) is not None}
    if control.new_id is not None:
        changes["reference_id"] = control.new_id
    entry = replace(old, **changes, file_name="" if control.picture_id is not None else old.file_name)
    cast = tuple(entry if other is old else other for other in story.shot_list.cast)
    return _change_cast(story, cast, f"Edit @{old.reference_id}", entry)


def handle_remove_reference(control: RemoveReference, story: OpenStory) -> Effect:
    """Removes a reference that no caption cites; see `RemoveReference`."""
    old = _find(story, control.reference_id)
    _refuse_if_cited(story, old.reference_id)
    cast = tuple(entry for entry in story.shot_list.cast if entry is not old)
    return _change_cast(story, cast, f"Remove @{old.reference_id}")


def _change_cast(
    story: OpenStory, cast: Sequence[CastEntry], label: str, changed: CastEntry | None = None
) -> Effect:
    before, limits = story.shot_list, story.app.limits
    if changed is not None:
        check_caption_length(changed.caption, limits)
        try:
            changed.as_reference()
        except StoryError as error:
            raise ApiError("invalid", str(error)) from error
        if changed.picture_id is not None and changed.picture_id not in story.history.pictures:
            raise ApiError("not_found", "this story has no such picture; upload it first")
        if sum(entry.reference_id == changed.reference_id for entry in cast) > 1:
            raise ApiError("refused", f"there is @{changed.reference_id} already; choose another id")
    if len(cast) > limits.references:
        raise ApiError("limit", f"a story has at most {limits.references} pictures in its cast here")
    now = replace(before, cast=tuple(cast))
    check_cast(now, story.history.takes, story.app.pipeline.context_budget)
    story.commit(now, label)
    story.failures.clear()  # A shot may have failed for lack of the picture.
    return effect_at(story, first_difference(before, now))


def _find(story: OpenStory, reference_id: str) -> CastEntry:
    for entry in story.shot_list.cast:
        if entry.reference_id == reference_id:
            return entry
    raise ApiError("not_found", f"the cast has no @{reference_id}")


def _refuse_if_cited(story: OpenStory, reference_id: str) -> None:
    shot_list, takes = story.shot_list, story.history.takes
    if reference_id in cited(shot_list.global_caption):
        raise ApiError("refused", f"the story cites @{reference_id}; change what all shots share first")
    numbers: list[int] = []
    for number, shot in enumerate(shot_list.shots, start=1):
        queued = story.history.queue.get(shot.shot_id)
        told = [*shot.captions, *(takes[shot.take_id].captions if shot.take_id is not None else ())]
        told += [queued.caption] if queued is not None and queued.caption is not None else []
        if reference_id in cited(" ".join(told)):
            numbers.append(number)
    if numbers:
        shots = f"shot{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
        cites = "cite" if len(numbers) > 1 else "cites"
        raise ApiError(
            "refused", f"{shots} {cites} @{reference_id}; change the caption, and generate again, first"
        )
