"""Schemas of a story's state: shots, takes, pins, branches, the model and the limits."""

from typing import Literal

from pydantic import Field

from shotstream.story import MAX_CHUNKS_PER_SHOT, ReferenceRole, SteerMode
from shotstream.studio.schemas.base import (
    Caption,
    FrameIndex,
    Id,
    LaterChunk,
    Message,
    NumChunks,
    PictureId,
    ReferenceId,
    Seed,
    ShotNumbers,
)


class Switch(Message):
    """Another caption of a shot, from one of its chunks on."""

    caption: Caption
    """The caption of the shot from then on."""
    chunk_index: LaterChunk
    """The first chunk that has it, from 0; at least 1."""
    mode: SteerMode = "recache"
    """How the shot turns to it. recache: at once; blend: slowly, over 4 chunks; keep: only the words change,
    what the shot remembers of itself does not.
    """


class NewShot(Message):
    """A shot to add."""

    caption: Caption
    """The caption of the shot."""
    num_chunks: NumChunks | None = None
    """Length in chunks; null: the model's default length."""
    seed: Seed | None = None
    """Seed of the noise; null: derived from the story's seed and the shot's index."""
    then: tuple[Switch, ...] = Field(default=(), max_length=MAX_CHUNKS_PER_SHOT, strict=False)
    """Captions that it gets while it is generated, in order."""


class Place(Message):
    """A frame of a take, by its address."""

    take_id: Id
    """The take."""
    frame_index: FrameIndex
    """Index of the frame in that take, from 0."""


class Effect(Message):
    """The chunk at which a control takes effect. Earlier chunks of the film do not change."""

    shot_id: Id | None
    """The shot; null: the film does not change."""
    shot_index: int
    """Index of the shot in the film, from 0."""
    chunk_index: int
    """The first chunk of that shot that is new, removed, or may come out differently."""
    film_frame: int
    """Film frame at which that chunk begins. After a `cut`: remove everything from this frame on from the
    playback buffer."""


class ContextFrame(Message):
    """A picture that conditions a shot: a frame of an earlier shot, or a reference, which comes first."""

    take_id: Id | None
    """The take that holds the frame. The picture is `GET .../takes/{take_id}/frames/{frame_index}.png`. null:
    it is a reference.
    """
    shot_id: Id | None
    """The shot of that take."""
    frame_index: int | None
    """Index of the frame in that take, from 0."""
    reference_id: str | None
    """The reference; null: it is a frame."""
    picture_id: PictureId | None
    """Its picture, `GET .../pictures/{picture_id}.png`; null: it is missing, or this is a frame."""
    pin_id: Id | None
    """The pin that selected it; null: the context policy selected it."""
    shot_phase: int
    """RoPE phase of its shot: the number of shots in the context before it."""
    score: float | None = None
    """How well it matches the shot, if the context policy compares; the higher the better. Comparable among
    the frames of one shot only."""
    shared: tuple[str, ...] = ()
    """What its shot shows that this shot shows as well, in words, as far as the context policy knows."""


class TakeState(Message):
    """A finished take: one rendering of a shot. It is on disk, and its frames never change."""

    take_id: Id
    caption: str
    """The caption it was generated from."""
    then: tuple[Switch, ...]
    """Captions that it got while it was generated, in order."""
    seed: Seed
    """The seed it was generated from."""
    num_chunks: int
    num_frames: int
    was_cut: bool
    """Whether it ended before the requested length."""
    weights_match: bool
    """Whether it was generated with the weights that are loaded now."""
    created_at: str
    """Time at which it was stored: ISO 8601, UTC."""
    context: tuple[ContextFrame, ...]
    """The references and frames that conditioned it."""
    context_policy: str
    """Name of the policy that chose the frames."""


ShotStatus = Literal["waiting", "queued", "generating", "done", "stale", "failed"]
StaleReason = Literal["context", "caption", "global_caption", "seed", "cast"]


class ShotState(Message):
    """A shot of the shown branch."""

    shot_id: Id
    caption: str
    then: tuple[Switch, ...]
    """Captions that it gets while it is generated, in order; `steer` adds one."""
    num_chunks: int | None
    seed: Seed | None
    status: ShotStatus
    """State of the shot. waiting: not requested yet; queued: will be generated; stale: an input has changed
    since it was generated, see `stale_reasons`; failed: see `failure`. A stale shot that will be generated
    again is `queued`.
    """
    stale_reasons: tuple[StaleReason, ...]
    """The inputs that have changed: an earlier shot or the context policy (`context`), a caption, the seed,
    or a reference that it sees (`cast`).
    """
    failure: str | None
    """Why the last attempt failed; null: it did not fail."""
    take_id: Id | None
    """The chosen take, which is part of the film; null: no take yet."""
    film_frame: int | None
    """Film frame at which it begins; null: it is not in the film."""
    takes: tuple[TakeState, ...]
    """All finished takes, oldest first."""


class PinState(Message):
    """A pinned frame: it conditions every later shot."""

    pin_id: Id
    take_id: Id
    frame_index: int
    is_used: bool
    """Whether its take is in the film. A pin of another take is inactive until that take is chosen again."""


class NewReference(Message):
    """A reference to add: a picture of the person's own that conditions shots."""

    reference_id: ReferenceId
    picture_id: PictureId
    """The picture, from the answer of its upload."""
    caption: Caption
    """What the picture shows; it stands in captions in the place of `@id`."""
    role: ReferenceRole = "subject"
    """What it is a reference of."""
    shots: ShotNumbers = "all"
    """The shots that see it; a shot that cites it always does."""


class ReferenceState(Message):
    """A reference of the story."""

    reference_id: str
    """Word by which captions cite it, as `@id`."""
    picture_id: PictureId | None
    """The picture; null: it is missing, and shots that see it fail until `edit_reference` gives it one."""
    file_name: str
    """Name of the file of a missing picture, for the user."""
    outside: str | None
    """A sentence that the picture is not one of the model's world; null: it may be."""
    caption: str
    role: ReferenceRole
    shots: ShotNumbers


class BranchState(Message):
    """A branch of the story's history."""

    branch_id: Id
    name: str
    num_shots: int


class Making(Message):
    """The take that is being generated."""

    take_id: Id
    shot_id: Id
    shot_index: int
    num_chunks: int
    """Requested length in chunks."""
    num_made: int
    """Chunks generated so far."""
    seed: Seed
    """The seed it is generated from."""
    film_frame: int
    """Film frame at which it begins."""
    context: tuple[ContextFrame, ...]
    """The references and frames that condition it."""


class StoryState(Message):
    """The complete state of a story. It is sent after every change; a client needs nothing else."""

    story_id: Id
    revision: int
    """Number of the state; grows by at least 1 with every change, as long as the story is open on the
    server.
    """
    title: str
    global_caption: str
    seed: Seed
    autoplay: bool
    """Whether shots without a take are generated without a request."""
    branch_id: Id
    """The branch that is shown."""
    branches: tuple[BranchState, ...]
    shots: tuple[ShotState, ...]
    pins: tuple[PinState, ...]
    max_pins: int
    """Maximum number of pins and of references that all shots see, together; 0: the model's context has no
    place for them.
    """
    cast: tuple[ReferenceState, ...]
    """The references, in the order in which a shot sees them."""
    context_policy: str
    """Name of the policy that chooses the frames of earlier shots that condition a shot."""
    making: Making | None
    """The take that is being generated; null: none."""
    memory: tuple[ContextFrame, ...]
    """The references and frames that condition the shot that is being generated or, if there is none, the
    next one.
    """
    undo: str | None
    """Label of the change that `undo` would revert; null: nothing."""
    redo: str | None
    """Label of the change that `redo` would apply again; null: nothing."""
    num_frames: int
    """Length of the film in frames."""
    num_bytes: int
    """Size of its files in bytes."""


class StorySummary(Message):
    """One story in the list of stories."""

    story_id: Id
    title: str
    created_at: str
    updated_at: str
    num_shots: int
    num_frames: int
    num_bytes: int
    cover: Place | None
    """A frame to show as its picture; null: no take yet."""


class LimitsState(Message):
    """The server's limits, as far as clients need them."""

    caption_chars: int
    shots: int
    chunks_per_shot: int
    open_stories: int
    viewers_per_story: int
    messages_per_s: float
    references: int
    upload_bytes: int
    picture_bytes: int
    story_bytes: int
    look_ahead_s: float
    quota_bytes: int


class ModelState(Message):
    """The loaded model and the format of its video."""

    model_id: str
    family: str
    weights_sha256: str
    fps: int
    width_px: int
    """Width of the model's frames in pixels."""
    height_px: int
    scale: int
    """Enlargement of the frames in the MP4 (nearest neighbour)."""
    mime: str
    """MIME type for `addSourceBuffer`."""
    num_chunks: int
    """Default length of a shot in chunks."""
    first_chunk_frames: int
    """Number of frames in a shot's first chunk."""
    chunk_frames: int
    """Number of frames in every later chunk."""
    context_frames: int
    """Number of frames that condition a shot."""
    context_policies: tuple[str, ...]
    """Names of the policies that can choose them; the model's own first."""
