"""What the studio allows, in one place; every limit is told to the page or answered with a typed error."""

from dataclasses import dataclass, fields

from shotstream.story import MAX_CAPTION_CHARS, MAX_CHUNKS_PER_SHOT, MAX_SHOTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds on what people, pages and stories may ask for.

    Raises:
        ValueError: A bound is not positive, or above what a story file may hold.
    """

    caption_chars: int = 2000
    """Of a caption."""
    shots: int = 200
    """Of a story."""
    chunks_per_shot: int = 30
    """Length of a shot."""
    branches: int = 50
    """Of a story."""
    stories: int = 500
    """Kept on disk."""
    open_stories: int = 16
    """With viewers, at the same time: they share the model."""
    viewers_per_story: int = 8
    """At the same time."""
    messages_per_s: float = 40.0
    """From one viewer, on average; bursts of two seconds' worth are let through."""
    upload_bytes: int = 64 * 2**10
    """Of one message, or of one request's body."""
    wrong_tokens: int = 60
    """From one address in a minute; who tries more is told to wait."""
    connections: int = 512
    """At the same time; fewer where the system gives fewer descriptors."""
    request_s: float = 10.0
    """In which a request's head has to be here, from the connection's start or the last answer's end."""
    body_s: float = 20.0
    """In which a request's body has to be here."""
    unread_s: float = 30.0
    """A connection that does not take what is sent for so long is closed."""
    look_ahead_s: float = 6.0
    """How far a film is made in front of its slowest viewer."""
    quota_bytes: int = 4 * 2**30
    """Of all stories' files and history."""
    undo_steps: int = 1000
    """Of a story's history that are kept; beyond them the oldest are forgotten."""
    history_bytes: int = 16 * 2**20
    """Of a story's history that are kept."""
    outbox_bytes: int = 8 * 2**20
    """Pictures waiting for one viewer."""
    outbox_messages: int = 400
    """Messages waiting for one viewer."""
    commands: int = 1000
    """Waiting for the worker."""
    silent_s: float = 15.0
    """A viewer who has not reported for so long is not waited for."""
    linger_s: float = 20.0
    """How long a story without viewers stays open, so that a page can be reloaded."""
    exports: int = 2
    """Made at the same time."""
    export_files: int = 16
    """Made, and not yet fetched to their end."""
    gif_frames: int = 1500
    """Of one GIF."""

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
                raise ValueError(f"{name} is {getattr(self, name)}; at most {most} fit in a story file")
