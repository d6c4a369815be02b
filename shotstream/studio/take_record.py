"""The database record of a finished take: how it was generated, and the lengths and hashes of its files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


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
    context_policy: str | None = None
    """Name of the policy that chose its context; None: the model's, in stories of earlier versions."""

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
        return cls(**values)


def _frame(document: Mapping[str, Any]) -> ContextFrameRecord:
    values = dict(document)
    values["shared"] = tuple(values.get("shared", ()))
    return ContextFrameRecord(**values)
