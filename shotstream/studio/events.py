"""Every message of the studio, both ways, as a typed model; docs/studio_protocol.md is tested against it.

A viewer sends controls and reports over one WebSocket; each control carries an `id` of the viewer's choice
and is answered by exactly one `done` or `error` with that id in `reply_to`. Unknown fields, types and values
out of range are refused. Texts keep their line breaks; other control characters are refused.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from shotstream.story import (
    MAX_CAPTION_CHARS,
    MAX_CHUNKS_PER_SHOT,
    MAX_SEED,
    MAX_SHOTS,
    MAX_TITLE_CHARS,
    NO_TEXT,
)

PROTOCOL_VERSION = 1
_SEED_DIGITS = 19


def _printable(text: str) -> str:
    if not text.strip():
        raise ValueError("empty; say what is to be seen")
    if bad := NO_TEXT.search(text):
        raise ValueError(f"it holds the character U+{ord(bad[0]):04X}; remove it")
    return text


def _seed(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) <= _SEED_DIGITS and int(text) <= MAX_SEED):
        raise ValueError(f"allowed are the whole numbers from 0 to {MAX_SEED}")
    return text


Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""Made by the server: 16 hexadecimal digits."""
ReplyId = Annotated[str, Field(min_length=1, max_length=64)]
"""Made by the viewer: any text of at most 64 characters."""
Caption = Annotated[str, Field(max_length=MAX_CAPTION_CHARS), AfterValidator(_printable)]
Title = Annotated[str, Field(max_length=MAX_TITLE_CHARS), AfterValidator(_printable)]
NumChunks = Annotated[int, Field(ge=1, le=MAX_CHUNKS_PER_SHOT)]
Seed = Annotated[str, AfterValidator(_seed)]
"""A decimal number up to 2^63 - 1, as text: JavaScript's numbers end at 2^53."""
Index = Annotated[int, Field(ge=0, le=MAX_SHOTS)]
FrameIndex = Annotated[int, Field(ge=0, le=10**9)]


class Message(BaseModel):
    """What all messages share: exactly these fields, of exactly these types, and never changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


# What messages are made of.


class NewShot(Message):
    """A shot to be made."""

    caption: Caption
    """What it shows."""
    num_chunks: NumChunks | None = None
    """Its length; null: the model's usual one."""
    seed: Seed | None = None
    """Of its noise; null: derived from the story's seed and the shot's place."""


class Place(Message):
    """A frame of a take: where a viewer is, or what is meant."""

    take_id: Id
    """The take."""
    frame_index: FrameIndex
    """Frame of that take, from 0."""


class Effect(Message):
    """The chunk at which a control takes effect: what comes before it in the film stays as it is."""

    shot_id: Id | None
    """The shot; null: nothing of the film changes."""
    shot_index: int
    """Its place in the film, from 0."""
    chunk_index: int
    """The first chunk of that shot that is new, gone, or may come out differently."""
    film_frame: int
    """Where that chunk begins in the film. After a `cut`: remove everything from here on from the buffer."""


class ContextFrame(Message):
    """A frame that conditions a shot."""

    take_id: Id
    """The take that it is of; its picture is `GET .../takes/{take_id}/frames/{frame_index}.png`."""
    shot_id: Id
    """The shot of that take."""
    frame_index: int
    """Frame of that take, from 0."""
    pin_id: Id | None
    """The pin that put it there; null: chosen by the context policy."""
    shot_phase: int
    """The RoPE phase of its shot: how many kept shots lie before it."""


class TakeState(Message):
    """One rendering of a shot; finished, on disk, and its frames never change."""

    take_id: Id
    caption: str
    """The caption that it was made from."""
    seed: Seed
    """The seed that it was made from."""
    num_chunks: int
    num_frames: int
    was_cut: bool
    """Whether it ended before the length that was ordered."""
    weights_match: bool
    """Whether it was made with the weights that are loaded now."""
    created_at: str
    """ISO 8601, UTC."""
    context: tuple[ContextFrame, ...]
    """What conditioned it."""


ShotStatus = Literal["waiting", "queued", "generating", "done", "stale", "failed"]
StaleReason = Literal["context", "caption", "global_caption", "seed"]


class ShotState(Message):
    """A card of the strip."""

    shot_id: Id
    caption: str
    num_chunks: int | None
    seed: Seed | None
    status: ShotStatus
    """waiting: not asked for yet; queued: will be made; stale: made from what has since changed, see
    `stale_reasons`; failed: see `failure`. A stale shot that is queued to be made again is `queued`."""
    stale_reasons: tuple[StaleReason, ...]
    """What changed: an earlier shot, the captions or the seed."""
    failure: str | None
    """Why the last attempt failed; null: it did not."""
    take_id: Id | None
    """The chosen take, which is in the film; null: none yet."""
    film_frame: int | None
    """Where it begins in the film; null: it is not in the film."""
    takes: tuple[TakeState, ...]
    """All finished takes, oldest first."""


class PinState(Message):
    """A frame kept in the memory of every shot after its own."""

    pin_id: Id
    take_id: Id
    frame_index: int
    is_used: bool
    """Whether its take is in the film; a pin of another take rests until its take is chosen again."""


class BranchState(Message):
    """A line of the story's history."""

    branch_id: Id
    name: str
    num_shots: int


class Making(Message):
    """The take that is being made."""

    take_id: Id
    shot_id: Id
    shot_index: int
    num_chunks: int
    """Ordered."""
    num_made: int
    """Chunks made so far."""
    film_frame: int
    """Where it begins in the film."""
    context: tuple[ContextFrame, ...]
    """What conditions it."""


class StoryState(Message):
    """A story, whole: sent after every change, so that a page shows nothing else."""

    story_id: Id
    revision: int
    """Grows by at least 1 with every change, for as long as somebody watches the story."""
    title: str
    global_caption: str
    seed: Seed
    autoplay: bool
    """Whether shots without a take are made without being asked for."""
    branch_id: Id
    """The branch that is shown."""
    branches: tuple[BranchState, ...]
    shots: tuple[ShotState, ...]
    pins: tuple[PinState, ...]
    max_pins: int
    """0: this model's context policy knows no pins."""
    making: Making | None
    """The take that is being made; null: none."""
    memory: tuple[ContextFrame, ...]
    """What conditions the shot that is being made, or else would condition the next one."""
    undo: str | None
    """What `undo` would take back; null: nothing."""
    redo: str | None
    """What `redo` would do again; null: nothing."""
    num_frames: int
    """Length of the film."""
    num_bytes: int
    """Of its files."""


class ImportedStory(StoryState):
    """A story that was made of a file."""

    warnings: tuple[str, ...]
    """What was not read of the file, a line each, for the person whose file it is."""


class StorySummary(Message):
    """A line of the list of stories."""

    story_id: Id
    title: str
    created_at: str
    updated_at: str
    num_shots: int
    num_frames: int
    num_bytes: int
    cover: Place | None
    """A frame to show; null: nothing is made yet."""


class LimitsState(Message):
    """What the server allows."""

    caption_chars: int
    shots: int
    chunks_per_shot: int
    open_stories: int
    viewers_per_story: int
    messages_per_s: float
    upload_bytes: int
    look_ahead_s: float
    quota_bytes: int


class ModelState(Message):
    """The model and the form of its pictures."""

    model_id: str
    family: str
    weights_sha256: str
    fps: int
    width_px: int
    """Of the engine's frames."""
    height_px: int
    scale: int
    """The MP4's pictures are this many times larger (nearest neighbour)."""
    mime: str
    """For `addSourceBuffer`."""
    num_chunks: int
    """Usual length of a shot."""
    first_chunk_frames: int
    """Frames of a shot's first chunk."""
    chunk_frames: int
    """Frames of every later chunk."""
    context_frames: int
    """Frames that condition a shot."""


# From the viewer.


class Control(Message):
    """A message that is answered."""

    id: ReplyId
    """Comes back as `reply_to`."""


class AddShot(Control):
    """Queue a shot."""

    type: Literal["add_shot"]
    shot: NewShot
    index: Index | None = None
    """Its place in the film; null: last."""


class EditShot(Control):
    """Change what a shot is to be made from; a shot that is made becomes stale, but by its length, which its
    next take has. Null leaves a value."""

    type: Literal["edit_shot"]
    shot_id: Id
    caption: Caption | None = None
    num_chunks: NumChunks | None = None
    seed: Seed | None = None


class RemoveShot(Control):
    """Take a shot out of the film; its takes stay for `undo`."""

    type: Literal["remove_shot"]
    shot_id: Id


class MoveShot(Control):
    """Give a shot another place in the film."""

    type: Literal["move_shot"]
    shot_id: Id
    index: Index


class MakeShot(Control):
    """Make a shot that has no take, or a stale one again, and those before it that have none."""

    type: Literal["make_shot"]
    shot_id: Id


class Retake(Control):
    """Make one more take of a shot, and choose it when it is done."""

    type: Literal["retake"]
    shot_id: Id
    caption: Caption | None = None
    """Null: as it is."""
    num_chunks: NumChunks | None = None
    """Null: as it is."""
    seed: Seed | None = None
    """Null: the next one, derived from the chosen take's."""


class RemakeStale(Control):
    """Make every stale shot again, first to last."""

    type: Literal["remake_stale"]


class ChooseTake(Control):
    """Put another take of a shot into the film; later shots made from the old one become stale."""

    type: Literal["choose_take"]
    shot_id: Id
    take_id: Id


class Cut(Control):
    """End the shot that is playing with the chunk that is playing, and begin the next one.

    What was made beyond that chunk and nobody has seen leaves the film; what has been seen becomes stale.
    """

    type: Literal["cut"]
    playing: Place | None = None
    """Where the viewer is; null: at the last chunk made."""
    shot: NewShot | None = None
    """A shot to come next; null: the next one of the strip."""


class Stop(Control):
    """End the shot that is being made with the last chunk made, and make no more until asked."""

    type: Literal["stop"]


class SetAutoplay(Control):
    """Whether shots without a take are made without being asked for."""

    type: Literal["set_autoplay"]
    on: bool


class EditStory(Control):
    """Change the title or what all shots share; null leaves a value."""

    type: Literal["edit_story"]
    title: Title | None = None
    global_caption: Caption | None = None


class Undo(Control):
    """Take back the last change; a take in the making is that change. Turns autoplay off."""

    type: Literal["undo"]


class Redo(Control):
    """Do again what was taken back. Turns autoplay off."""

    type: Literal["redo"]


class Branch(Control):
    """Begin a branch that holds the film up to and with a shot, and show it. Turns autoplay off."""

    type: Literal["branch"]
    shot_id: Id | None = None
    """The last shot that is kept; null: all."""
    name: Title | None = None
    """Null: a number."""


class SwitchBranch(Control):
    """Show another branch. Turns autoplay off."""

    type: Literal["switch_branch"]
    branch_id: Id


class Pin(Control):
    """Keep a frame of the film in the memory of every later shot to be made."""

    type: Literal["pin"]
    frame: Place


class Unpin(Control):
    """Let a frame go."""

    type: Literal["unpin"]
    pin_id: Id


class Playhead(Message):
    """Where a viewer is; send it 4 times a second while playing, and at each pause and seek. Not answered."""

    type: Literal["playhead"]
    at: Place | None
    """Null: nothing is shown yet."""
    playing: bool
    stalls: Annotated[int, Field(ge=0, le=10**9)] = 0
    """How often the picture has stood still for want of data, since the page was opened."""


class CutShown(Message):
    """The first frame of the shot after a `cut` is on the screen. Not answered; for the measurements."""

    type: Literal["cut_shown"]
    cut_s: Annotated[float, Field(ge=0, le=3600)]
    """From pressing Cut to that frame, measured in the page."""


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
    | Stop
    | SetAutoplay
    | EditStory
    | Undo
    | Redo
    | Branch
    | SwitchBranch
    | Pin
    | Unpin
)
FromViewer = Annotated[AnyControl | Playhead | CutShown, Field(discriminator="type")]


# From the server.

ErrorCode = Literal[
    "malformed",
    "unknown_event",
    "invalid",
    "too_large",
    "too_fast",
    "not_found",
    "refused",
    "limit",
    "quota",
    "storage",
    "busy",
    "failed",
]


class Hello(Message):
    """The first message of a connection."""

    type: Literal["hello"] = "hello"
    protocol: int = PROTOCOL_VERSION
    viewer_id: Id
    model: ModelState
    limits: LimitsState


class Story(Message):
    """The story as it is now; what comes after `hello` and its notices, and again after every change."""

    type: Literal["story"] = "story"
    story: StoryState


class TakeStarted(Message):
    """A take begins to be made; its `media` follow."""

    type: Literal["take_started"] = "take_started"
    making: Making


class Media(Message):
    """The next message is binary and holds this chunk."""

    type: Literal["media"] = "media"
    take_id: Id
    shot_id: Id
    chunk_index: int
    """In its take, from 0."""
    has_header: bool
    """Whether the binary message begins with the MP4 header: in a take's first chunk."""
    num_bytes: int
    """Length of the binary message."""
    frame_index: int
    """The chunk's first frame in its take. The fragment's own time is `frame_index / fps`."""
    num_frames: int
    film_frame: int
    """Where the take begins in the film: `timestampOffset` is `film_frame / fps`."""
    is_last: bool
    """Whether the take's ordered length is reached."""
    frame_sha256: tuple[str, ...]
    """Of each of the engine's frames, uint8 RGB row by row; none of a preview by a light decoder."""


class MediaDropped(Message):
    """A chunk was not sent because this viewer reads too slowly; fetch the take when it is finished."""

    type: Literal["media_dropped"] = "media_dropped"
    take_id: Id
    chunk_index: int


class TakeEnded(Message):
    """A take is no longer being made."""

    type: Literal["take_ended"] = "take_ended"
    take_id: Id
    shot_id: Id
    outcome: Literal["finished", "cut", "discarded", "failed"]
    """finished, cut: it is kept, on disk and in the database; discarded, failed: it is gone."""
    num_chunks: int
    """That it kept; chunks sent beyond these are void."""


class Telemetry(Message):
    """How the making goes; about once a second while it changes."""

    type: Literal["telemetry"] = "telemetry"
    state: Literal["generating", "ahead", "idle", "paused", "full"]
    """generating; ahead: as far in front of the slowest viewer as is allowed; idle: nothing to make; paused:
    nobody watches; full: the quota is reached, or the disk or the database takes nothing now."""
    fps: float
    """Frames made per second for this story, over the last few seconds."""
    num_generating: int
    """Stories that share the model now."""
    queue_position: int
    """Chunks of other stories before this one's next."""
    look_ahead_s: float
    """How far the film is made in front of the slowest viewer."""
    first_chunk_s: float | None
    """From beginning the take to its first chunk, of the latest shot; null: none yet."""
    num_viewers: int
    """Of this story."""


class Notice(Message):
    """Something a person should know."""

    type: Literal["notice"] = "notice"
    code: Literal["weights_changed", "storage", "deleted", "closing"]
    message: str
    """For the person, in one line."""


class Done(Message):
    """A control was carried out; the `story` that shows it has been sent before."""

    type: Literal["done"] = "done"
    reply_to: ReplyId
    effect: Effect


class Error(Message):
    """A message was not carried out; the story goes on as if it had not been sent."""

    type: Literal["error"] = "error"
    reply_to: ReplyId | None
    """Null: the message has no `id`, or none that could be read."""
    code: ErrorCode
    message: str
    """For the person, in one line."""


FromServer = Annotated[
    Hello | Story | TakeStarted | Media | MediaDropped | TakeEnded | Telemetry | Notice | Done | Error,
    Field(discriminator="type"),
]

FROM_VIEWER: TypeAdapter[AnyControl | Playhead | CutShown] = TypeAdapter(FromViewer)
FROM_SERVER: TypeAdapter[
    Hello | Story | TakeStarted | Media | MediaDropped | TakeEnded | Telemetry | Notice | Done | Error
] = TypeAdapter(FromServer)


# Bodies of the REST routes.


class CreateStory(Message):
    """A new story: a bundled one by name, or a document (docs: stories), or an empty one."""

    bundled: Annotated[str, Field(max_length=100)] | None = None
    """Name of a bundled story; then title, global caption and shots are its own, and are left out."""
    title: Title = "Untitled"
    global_caption: Caption | None = None
    """Needed unless `bundled` is given."""
    shots: tuple[NewShot, ...] = Field(default=(), max_length=MAX_SHOTS, strict=False)
    seed: Seed | None = None
    """Of the story; null: 7, or the bundled story's own."""
    autoplay: bool = True


class BundledStory(Message):
    """A story that comes with the program."""

    name: str
    title: str
    global_caption: str
    captions: tuple[str, ...]


class WordCard(Message):
    """Words that a caption may say, and a picture of what they mean."""

    words: str
    picture: str
    """A PNG as a data: URL, a pixel of it for a pixel of the model's world."""


class Suggestions(Message):
    """What the loaded model's world understands; empty lists for a model without a fixed vocabulary."""

    species: tuple[str, ...]
    colours: tuple[str, ...]
    places: tuple[str, ...]
    times: tuple[str, ...]
    framings: tuple[str, ...]
    actions: tuple[str, ...]
    spots: tuple[str, ...]
    cameras: tuple[str, ...]
    held_out: tuple[tuple[str, str], ...]
    """(species, colour) pairs never shown in training."""
    words: tuple[str, ...]
    """Every word that is understood."""
    examples: tuple[str, ...]
    """Shot captions to begin with."""
    cast: tuple[WordCard, ...]
    """Everyone whom training showed: "purple fox"."""
    sets: tuple[WordCard, ...]
    """Every place, by day."""
    skies: tuple[WordCard, ...]
    """Every time of day."""


class CaptionCheck(Message):
    """A caption to be checked before it is used."""

    global_caption: Caption
    caption: Caption


class CaptionAdvice(Message):
    """What the model would not take of a caption."""

    unknown_words: tuple[str, ...]
    warnings: tuple[str, ...]


class Problem(Message):
    """The body of every REST answer of status 400 and above."""

    code: ErrorCode
    message: str
