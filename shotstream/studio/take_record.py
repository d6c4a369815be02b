"""The database record of a finished take: how it was generated, and the lengths and hashes of its files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shotstream.story import ShotCaptions, Steer
from shotstream.studio.cast import CastEntry, cast_from, seen_by


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextFrameRecord:
    """The address of one frame that conditioned a take."""

    take_id: str
    frame_index: int
    pin_id: str | None
    shot_phase: int
    score: float | None = None
    """How well it matches the take, by a policy that compares; None: it was chosen without, or earlier."""
    shared: tuple[str, ...] = ()
    """What it shows that the take shows as well, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeRecord:
    """A finished take: its inputs, its environment, and the hashes of its frames and files."""

    take_id: str
    shot_id: str
    created_at: str
    caption: str
    global_caption: str
    seed: int
    num_steps: int
    num_chunks: int
    num_frames: int
    was_cut: bool
    """Whether fewer chunks were kept than were requested."""
    before: tuple[str, ...]
    """Ids of the takes before it in the film, in order."""
    context: tuple[ContextFrameRecord, ...]
    """The frames that conditioned it."""
    weights_sha256: str
    environment: Mapping[str, Any]
    """The fields of `film.replay.Environment` where it was generated."""
    header_bytes: int
    """Length of the recording's MP4 header in bytes."""
    chunk_bytes: tuple[int, ...]
    """Length of each MP4 fragment of the recording in bytes."""
    num_bytes: int
    """Size of all its files in bytes."""
    frame_sha256: tuple[str, ...]
    """SHA-256 of each lossless frame."""
    file_sha256: Mapping[str, str] = field(default_factory=dict[str, str])
    """SHA-256 of each file, by file name; empty for takes of an earlier version."""
    then: tuple[Steer, ...] = ()
    """Captions that it got while it was generated, in order."""
    cast: tuple[CastEntry, ...] = ()
    """The cast of the story when it was generated; `seen` is the part of it that conditioned the take."""
    context_policy: str | None = None
    """Name of the policy of the story, which chose its context; None: the model's, in stories of earlier
    versions. A model that cannot use it has taken its own.
    """

    @property
    def captions(self) -> tuple[str, ...]:
        """All its captions, in order."""
        return (self.caption, *(steer.caption for steer in self.then))

    @property
    def told(self) -> ShotCaptions:
        """Its caption, or all of them if it was steered."""
        return self.captions if self.then else self.caption

    @property
    def seen(self) -> tuple[CastEntry, ...]:
        """The references that conditioned it."""
        return seen_by(self.cast, len(self.before), self.global_caption, *self.captions)

    def to_document(self) -> dict[str, Any]:
        """Returns the record as plain values; `from_document` reads them."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "TakeRecord":
        """Returns the record that `to_document` wrote."""
        values = dict(document)
        for name in ("before", "chunk_bytes", "frame_sha256"):
            values[name] = tuple(values[name])
        values["context"] = tuple(map(_frame, values["context"]))
        values["then"] = steers_from(values.get("then", ()))
        values["cast"] = cast_from(values.get("cast", ()))
        return cls(**values)


def steers_from(documents: Iterable[Mapping[str, Any]]) -> tuple[Steer, ...]:
    """Returns switches from plain values, as the database stores them."""
    return tuple(Steer(**document) for document in documents)


def steers_until(steers: Sequence[Steer], num_chunks: int) -> tuple[Steer, ...]:
    """Returns the switches that a take of `num_chunks` chunks makes."""
    return tuple(steer for steer in steers if steer.chunk_index < num_chunks)


def _frame(document: Mapping[str, Any]) -> ContextFrameRecord:
    values = dict(document)
    values["shared"] = tuple(values.get("shared", ()))
    return ContextFrameRecord(**values)
