"""What a story is at one moment of its history: pure values, and what follows from them.

A script is immutable; every change makes a new one. Takes are referred to by id and never change, so that
undo, branches and the choice of a take are nothing but another script.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from shotstream.studio.events import StaleReason


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A shot of the strip."""

    shot_id: str
    caption: str
    num_chunks: int | None = None
    """None: the model's usual length."""
    seed: int | None = None
    """None: derived when it is first made."""
    take_id: str | None = None
    """The chosen take; None: none yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedFrame:
    """A frame of a take that stays in the memory."""

    pin_id: str
    take_id: str
    frame_index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """A story at one moment."""

    title: str
    global_caption: str
    cards: tuple[Card, ...] = ()
    pins: tuple[PinnedFrame, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Plain values; `from_document` inverts it."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Script":
        """The script that was written."""
        return cls(
            title=document["title"],
            global_caption=document["global_caption"],
            cards=tuple(Card(**card) for card in document["cards"]),
            pins=tuple(PinnedFrame(**pin) for pin in document["pins"]),
        )

    def index_of(self, shot_id: str) -> int | None:
        """The place of a shot; None: it is not in this script."""
        return next((index for index, card in enumerate(self.cards) if card.shot_id == shot_id), None)

    def with_card(self, card: Card) -> "Script":
        """The script with a changed card in the place of the old one."""
        return replace(self, cards=tuple(card if c.shot_id == card.shot_id else c for c in self.cards))

    def film(self, before: int | None = None) -> tuple[str, ...]:
        """The chosen takes, in order; of the shots before `before`, or of all."""
        return tuple(card.take_id for card in self.cards[:before] if card.take_id is not None)

    def pins_before(self, index: int) -> tuple[PinnedFrame, ...]:
        """The pins that a shot at `index` would be made with, in the order of pinning."""
        film = self.film(index)
        return tuple(pin for pin in self.pins if pin.take_id in film)


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryFrame:
    """A frame that conditioned a take."""

    take_id: str
    frame_index: int
    pin_id: str | None
    shot_phase: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeRecord:
    """All that is known of a finished take beside its files."""

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
    """Whether fewer chunks were kept than were ordered."""
    before: tuple[str, ...]
    """The takes that the film held before it."""
    context: tuple[MemoryFrame, ...]
    """The frames that conditioned it."""
    weights_sha256: str
    environment: Mapping[str, Any]
    """Where it was made; see `film.replay.Environment`."""
    header_bytes: int
    """Length of the recording's MP4 header."""
    chunk_bytes: tuple[int, ...]
    """Length of each of its fragments."""
    num_bytes: int
    """Of all its files."""
    frame_sha256: tuple[str, ...]
    """Of the engine's frames."""
    file_sha256: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of each of its files, by name; empty for takes of an earlier version."""

    def to_document(self) -> dict[str, Any]:
        """Plain values; `from_document` inverts it."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "TakeRecord":
        """The record that was written."""
        values = dict(document)
        for name in ("before", "chunk_bytes", "frame_sha256"):
            values[name] = tuple(values[name])
        values["context"] = tuple(MemoryFrame(**frame) for frame in values["context"])
        return cls(**values)


def stale_reasons(script: Script, index: int, takes: Mapping[str, TakeRecord]) -> tuple[StaleReason, ...]:
    """What has changed since a shot's chosen take was made; empty when nothing has, or there is no take."""
    card = script.cards[index]
    if card.take_id is None:
        return ()
    take = takes[card.take_id]
    reasons: list[StaleReason] = []
    if take.before != script.film(index):
        reasons.append("context")
    if take.caption != card.caption:
        reasons.append("caption")
    if take.global_caption != script.global_caption:
        reasons.append("global_caption")
    if card.seed is not None and card.seed != take.seed:
        reasons.append("seed")
    return tuple(reasons)


def first_difference(old: Script, new: Script) -> int:
    """The place of the first shot at which two films differ."""
    pairs = zip(old.cards, new.cards, strict=False)
    shorter = min(len(old.cards), len(new.cards))
    if old.global_caption != new.global_caption:
        return 0
    return next((index for index, (mine, other) in enumerate(pairs) if mine != other), shorter)


def start_frames(script: Script, takes: Mapping[str, TakeRecord]) -> Sequence[int]:
    """Where each shot begins in the film, then the film's length; a shot without a take takes no time."""
    starts, frame = [0], 0
    for card in script.cards:
        frame += takes[card.take_id].num_frames if card.take_id is not None else 0
        starts.append(frame)
    return starts
