"""Schemas of messages from viewer to server: controls, which are answered, and reports, which are not.

Each control carries an `id` that the viewer chose. The server answers it with exactly one `done` or `error`
that has this id in `reply_to`.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from shotstream.story import MAX_CHUNKS_PER_SHOT, ReferenceRole, SteerMode
from shotstream.studio.schemas.base import (
    Caption,
    Id,
    Index,
    Message,
    NumChunks,
    PictureId,
    PolicyName,
    ReferenceId,
    ReplyId,
    Seed,
    ShotNumbers,
    Title,
)
from shotstream.studio.schemas.state import NewReference, NewShot, Place, Switch


class Control(Message):
    """Base class of controls: messages that the server answers."""

    id: ReplyId
    """Id that the viewer chose; the answer has it in `reply_to`."""


class AddShot(Control):
    """Add a shot."""

    type: Literal["add_shot"]
    shot: NewShot
    index: Index | None = None
    """Index of the new shot in the film; null: last."""


class EditShot(Control):
    """Change the captions, length or seed of a shot; null keeps a value.

    A finished shot becomes stale by a new caption or seed. A new length applies to its next take.
    """

    type: Literal["edit_shot"]
    shot_id: Id
    caption: Caption | None = None
    then: Annotated[tuple[Switch, ...], Field(max_length=MAX_CHUNKS_PER_SHOT, strict=False)] | None = None
    """Captions that it gets while it is generated, in order."""
    num_chunks: NumChunks | None = None
    seed: Seed | None = None


class RemoveShot(Control):
    """Remove a shot from the film. Its takes are kept for `undo`."""

    type: Literal["remove_shot"]
    shot_id: Id


class MoveShot(Control):
    """Move a shot to another index in the film."""

    type: Literal["move_shot"]
    shot_id: Id
    index: Index


class MakeShot(Control):
    """Generate a shot that has no take or is stale, and all earlier shots that have no take."""

    type: Literal["make_shot"]
    shot_id: Id


class Retake(Control):
    """Generate another take of a shot, and choose it when it is finished."""

    type: Literal["retake"]
    shot_id: Id
    caption: Caption | None = None
    """Caption of the new take, which then has no other; null: unchanged, with those of `then`."""
    num_chunks: NumChunks | None = None
    """Length of the new take in chunks; null: unchanged."""
    seed: Seed | None = None
    """Seed of the new take; null: the next seed, derived from the chosen take's."""


class RemakeStale(Control):
    """Generate every stale shot again, first to last."""

    type: Literal["remake_stale"]


class ChooseTake(Control):
    """Choose another take of a shot for the film.

    Later shots that were generated from the old take become stale.
    """

    type: Literal["choose_take"]
    shot_id: Id
    take_id: Id


class Cut(Control):
    """End the shot that is playing with the chunk that is playing, and begin the next shot.

    Frames after that chunk that no viewer has seen are removed from the film; later shots that a viewer has
    seen become stale.
    """

    type: Literal["cut"]
    playing: Place | None = None
    """The frame that the viewer shows; null: the last chunk that was generated."""
    shot: NewShot | None = None
    """A new shot to come next; null: the next shot of the film."""


class Steer(Control):
    """Give the shot that is being generated another caption, from its next chunk on.

    `done` gives that chunk. The shot keeps the caption in `then`, for its later takes too.
    """

    type: Literal["steer"]
    caption: Caption
    mode: SteerMode = "recache"
    """How the shot turns to it, as in Switch."""


class Stop(Control):
    """End the shot that is being generated with its last finished chunk, and turn autoplay off."""

    type: Literal["stop"]


class SetAutoplay(Control):
    """Set whether shots without a take are generated without a request."""

    type: Literal["set_autoplay"]
    on: bool


class EditStory(Control):
    """Change the title, the global caption or the context policy; null keeps a value.

    Shots after the first become stale by a new context policy.
    """

    type: Literal["edit_story"]
    title: Title | None = None
    global_caption: Caption | None = None
    context_policy: PolicyName | None = None
    """One of the model's `context_policies`."""


class Undo(Control):
    """Revert the last change. If a take is being generated, that is the last change, unless a `steer` of it
    is: the take is then generated again without it. Turns autoplay off.
    """

    type: Literal["undo"]


class Redo(Control):
    """Apply the last reverted change again. Turns autoplay off."""

    type: Literal["redo"]


class Branch(Control):
    """Create a branch that holds the film up to and including a shot, and show it. Turns autoplay off."""

    type: Literal["branch"]
    shot_id: Id | None = None
    """The last shot that the branch keeps; null: all shots."""
    name: Title | None = None
    """Name of the branch; null: a number is chosen."""


class SwitchBranch(Control):
    """Show another branch. Turns autoplay off."""

    type: Literal["switch_branch"]
    branch_id: Id


class Pin(Control):
    """Pin a frame of the film: it conditions every shot after its own that is generated from now on."""

    type: Literal["pin"]
    frame: Place


class Unpin(Control):
    """Remove a pin."""

    type: Literal["unpin"]
    pin_id: Id


class AddReference(Control):
    """Add a reference to the cast, last. Shots that see it become stale."""

    type: Literal["add_reference"]
    reference: NewReference


class EditReference(Control):
    """Change a reference; null keeps a value. A new caption or picture makes shots that see it stale."""

    type: Literal["edit_reference"]
    reference_id: ReferenceId
    """The reference, by the id that it has now."""
    new_id: ReferenceId | None = None
    picture_id: PictureId | None = None
    caption: Caption | None = None
    role: ReferenceRole | None = None
    shots: ShotNumbers | None = None


class RemoveReference(Control):
    """Remove a reference, which no caption may cite. Shots that saw it become stale."""

    type: Literal["remove_reference"]
    reference_id: ReferenceId


class Playhead(Message):
    """The viewer's playback position. Not answered.

    Send it 4 times a second while playing, and at each pause and seek.
    """

    type: Literal["playhead"]
    at: Place | None
    """The frame that is shown; null: none yet."""
    playing: bool
    stalls: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Number of times that playback has stalled for lack of data since the page was opened."""


class CutShown(Message):
    """The latency of a `cut`, sent when the next shot's first frame is on the screen. Not answered."""

    type: Literal["cut_shown"]
    cut_s: Annotated[float, Field(ge=0, le=3600)]
    """Seconds from pressing Cut to that frame, measured in the page."""


AnyControl = (
    AddShot
    | EditShot
    | RemoveShot
    | MoveShot
    | MakeShot
    | Retake
    | RemakeStale
    | ChooseTake
    | Cut
    | Steer
    | Stop
    | SetAutoplay
    | EditStory
    | Undo
    | Redo
    | Branch
    | SwitchBranch
    | Pin
    | Unpin
    | AddReference
    | EditReference
    | RemoveReference
)
FromViewer = Annotated[AnyControl | Playhead | CutShown, Field(discriminator="type")]
FROM_VIEWER: TypeAdapter[AnyControl | Playhead | CutShown] = TypeAdapter(FromViewer)
