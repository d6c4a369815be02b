"""Schemas of messages from server to viewer."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from shotstream.studio.schemas.base import PROTOCOL_VERSION, ErrorCode, Id, Message, ReplyId
from shotstream.studio.schemas.state import Effect, LimitsState, Making, ModelState, StoryState


class Hello(Message):
    """The first message of a connection."""

    type: Literal["hello"] = "hello"
    protocol: int = PROTOCOL_VERSION
    viewer_id: Id
    model: ModelState
    limits: LimitsState


class Story(Message):
    """The current state of the story. It is sent after `hello` and its notices, and after every change."""

    type: Literal["story"] = "story"
    story: StoryState


class TakeStarted(Message):
    """Generation of a take has started. Its `media` messages follow."""

    type: Literal["take_started"] = "take_started"
    making: Making


class Media(Message):
    """Describes a chunk of video. The next message is binary and holds that chunk."""

    type: Literal["media"] = "media"
    take_id: Id
    shot_id: Id
    chunk_index: int
    """Index in its take, from 0."""
    has_header: bool
    """Whether the binary message begins with the MP4 header, as a take's first chunk does."""
    num_bytes: int
    """Length of the binary message."""
    frame_index: int
    """Index of the chunk's first frame in its take. The fragment's own time is `frame_index / fps`."""
    num_frames: int
    film_frame: int
    """Film frame at which the take begins: `timestampOffset` is `film_frame / fps`."""
    is_last: bool
    """Whether this chunk completes the take's requested length."""
    frame_sha256: tuple[str, ...]
    """SHA-256 of each lossless frame (uint8 RGB, row by row); empty if a preview decoder made the picture."""


class MediaDropped(Message):
    """A chunk was not sent because this viewer reads too slowly. Fetch the take when it is finished."""

    type: Literal["media_dropped"] = "media_dropped"
    take_id: Id
    chunk_index: int


class TakeEnded(Message):
    """Generation of a take has ended."""

    type: Literal["take_ended"] = "take_ended"
    take_id: Id
    shot_id: Id
    outcome: Literal["finished", "cut", "discarded", "failed"]
    """Outcome of the generation. finished, cut: the take is on disk and in the database; discarded, failed:
    nothing of it is kept.
    """
    num_chunks: int
    """Chunks that the take keeps; chunks sent beyond these are void."""


class Telemetry(Message):
    """Progress of generation; about once a second, whenever it has changed."""

    type: Literal["telemetry"] = "telemetry"
    state: Literal["generating", "ahead", "idle", "paused", "full"]
    """State of generation. generating: a take is generated; ahead: it waits, because the look-ahead limit
    before the slowest viewer is reached; idle: nothing to generate; paused: no viewer is connected; full: the
    quota is reached, or disk or database cannot be written now.
    """
    fps: float
    """Frames generated per second for this story, over the last few seconds."""
    num_generating: int
    """Stories that share the model now."""
    queue_position: int
    """Chunks of other stories before this story's next chunk."""
    look_ahead_s: float
    """Seconds of film that are generated beyond the slowest viewer's playback position."""
    first_chunk_s: float | None
    """Seconds from the start of the latest take to its first chunk; null: no chunk yet."""
    num_viewers: int
    """Viewers of this story."""


class Notice(Message):
    """A message for the user."""

    type: Literal["notice"] = "notice"
    code: Literal["weights_changed", "storage", "deleted", "closing"]
    message: str
    """One line of text for the user."""


class Done(Message):
    """A control was carried out. The `story` that shows the change was sent before."""

    type: Literal["done"] = "done"
    reply_to: ReplyId
    effect: Effect


class Error(Message):
    """A message was refused or failed. The story did not change."""

    type: Literal["error"] = "error"
    reply_to: ReplyId | None
    """The `id` of the message; null: it has no readable `id`."""
    code: ErrorCode
    message: str
    """One line of text for the user."""


FromServer = Annotated[
    Hello | Story | TakeStarted | Media | MediaDropped | TakeEnded | Telemetry | Notice | Done | Error,
    Field(discriminator="type"),
]
FROM_SERVER: TypeAdapter[
    Hello | Story | TakeStarted | Media | MediaDropped | TakeEnded | Telemetry | Notice | Done | Error
] = TypeAdapter(FromServer)
