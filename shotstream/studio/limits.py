"""The limits of a server. Exceeding one is answered with a typed error."""

from dataclasses import dataclass, fields

from shotstream.story import MAX_CAPTION_CHARS, MAX_CHUNKS_PER_SHOT, MAX_SHOTS, MAX_STORY_BYTES
from shotstream.video.pictures import MAX_PICTURE_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of stories, viewers, connections, storage and exports.

    Raises:
        ValueError: A limit is not positive, or higher than a story file allows.
    """

    caption_chars: int = 2000
    """Characters of a caption."""
    shots: int = 200
    """Shots of a story."""
    chunks_per_shot: int = 30
    """Chunks of a shot."""
    references: int = 50
    """References of a story, of which a shot sees as many as the model's context has places for."""
    branches: int = 50
    """Branches of a story."""
    stories: int = 500
    """Stories on the server."""
    open_stories: int = 16
    """Stories with viewers at the same time; they share the model."""
    viewers_per_story: int = 8
    """Viewers of one story at the same time."""
    messages_per_s: float = 40.0
    """Average rate of a viewer's messages; a burst may hold those of two seconds."""
    upload_bytes: int = 64 * 2**10
    """Bytes of one message, or of the body of one request, except a picture or a story file."""
    picture_bytes: int = MAX_PICTURE_BYTES
    """Bytes of a picture's file."""
    story_bytes: int = MAX_STORY_BYTES
    """Bytes of a story file."""
    uploads: int = 2
    """Pictures and story files that are received at the same time."""
    upload_s: float = 120.0
    """Seconds for a picture or a story file to arrive."""
    wrong_tokens: int = 60
    """Wrong tokens per minute from one address; more are answered with 429."""
    connections: int = 512
    """Connections at the same time; fewer if the system has fewer file descriptors."""
    request_s: float = 10.0
    """Seconds for the headers of a request, from the connection's start or the last answer's end."""
    body_s: float = 20.0
    """Seconds for the body of any other request."""
    unread_s: float = 30.0
    """Seconds after which a connection is closed if the peer does not read."""
    look_ahead_s: float = 6.0
    """Seconds of film that are generated beyond the slowest viewer's playback position."""
    quota_bytes: int = 4 * 2**30
    """Bytes of the files and the history of all stories."""
    undo_steps: int = 1000
    """Steps of a story's history; beyond them the oldest are deleted."""
    history_bytes: int = 16 * 2**20
    """Bytes of a story's history; beyond them the oldest steps are deleted."""
    outbox_bytes: int = 8 * 2**20
    """Bytes of video queued for one viewer."""
    outbox_messages: int = 400
    """Messages queued for one viewer."""
    commands: int = 1000
    """Calls queued for the worker."""
    silent_s: float = 15.0
    """Seconds without a report after which a viewer's position is ignored."""
    linger_s: float = 20.0
    """Seconds that a story without viewers stays open, for example while a page is reloaded."""
    exports: int = 2
    """Exports written at the same time."""
    export_files: int = 16
    """Exports written and not yet downloaded completely."""
    gif_frames: int = 1500
    """Frames of one GIF."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; it must be positive")
        for name, most in (
            ("caption_chars", MAX_CAPTION_CHARS),
            ("shots", MAX_SHOTS),
            ("chunks_per_shot", MAX_CHUNKS_PER_SHOT),
        ):
            if getattr(self, name) > most:
                raise ValueError(f"{name} is {getattr(self, name)}; a story file allows at most {most}")
