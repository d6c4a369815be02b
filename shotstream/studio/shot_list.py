"""The shot list: the immutable document of a story, and functions of it.

Every edit makes a new shot list. It refers to takes by id, and takes never change. Undo, branches and the
choice of a take are therefore only a change from one shot list to another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from shotstream.story import Steer
from shotstream.studio.cast import CastEntry, cast_from, look, seen_by
from shotstream.studio.schemas.state import StaleReason
from shotstream.studio.take_record import TakeRecord, steers_from, steers_until


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotEntry:
    """One shot of a shot list: its caption, length, seed and chosen take."""

    shot_id: str
    caption: str
    num_chunks: int | None = None
    """Length in chunks; None: the model's default length."""
    seed: int | None = None
    """Seed of the noise; None: derived from the story's seed when the shot is first generated."""
    take_id: str | None = None
    """The chosen take; None: no take yet."""
    then: tuple[Steer, ...] = ()
    """Captions that the shot gets while it runs, in order; those beyond a take's length are not made."""

    @property
    def captions(self) -> tuple[str, ...]:
        """All its captions, in order."""
        return (self.caption, *(steer.caption for steer in self.then))

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "ShotEntry":
        """Returns the entry that `ShotList.to_document` wrote; earlier versions had no `then`."""
        values = dict(document)
        return cls(then=steers_from(values.pop("then", ())), **values)


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedFrame:
    """A frame that is pinned: it conditions every later shot."""

    pin_id: str
    take_id: str
    frame_index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotList:
    """A version of a story: its title, global caption, shots, pinned frames, cast and policy."""

    title: str
    global_caption: str
    shots: tuple[ShotEntry, ...] = ()
    pins: tuple[PinnedFrame, ...] = ()
    cast: tuple[CastEntry, ...] = ()
    context_policy: str | None = None
    """Name of the policy that chooses the context of its shots; None: the model's, in stories of earlier
    versions."""

    def to_document(self) -> dict[str, Any]:
        """Returns the shot list as plain values, as the database stores them; `from_document` reads them."""
        # Databases have always called the shots "cards".
        document = {
            "title": self.title,
            "global_caption": self.global_caption,
            "cards": tuple(_without_empty(asdict(shot), "then") for shot in self.shots),
            "pins": tuple(asdict(pin) for pin in self.pins),
            "cast": tuple(asdict(entry) for entry in self.cast),
            "context_policy": self.context_policy,
        }
        return _without_empty(document, "cast", "context_policy")

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "ShotList":
        """Returns the shot list that `to_document` wrote."""
        return cls(
            title=document["title"],
            global_caption=document["global_caption"],
            shots=tuple(map(ShotEntry.from_document, document["cards"])),
            pins=tuple(PinnedFrame(**pin) for pin in document["pins"]),
            cast=cast_from(document.get("cast", ())),
            context_policy=document.get("context_policy"),
        )

    def index_of(self, shot_id: str) -> int | None:
        """Returns the index of a shot; None if the list does not hold it."""
        return next((index for index, shot in enumerate(self.shots) if shot.shot_id == shot_id), None)

    def with_shot(self, shot: ShotEntry) -> "ShotList":
        """Returns the shot list with the entry of the same id replaced."""
        return replace(
            self, shots=tuple(shot if other.shot_id == shot.shot_id else other for other in self.shots)
        )

    def take_ids(self, before: int | None = None) -> tuple[str, ...]:
        """Returns the ids of the chosen takes, in order: of all shots, or of those before index `before`."""
        return tuple(shot.take_id for shot in self.shots[:before] if shot.take_id is not None)

    def seen_at(self, index: int) -> tuple[CastEntry, ...]:
        """Returns the references that the next take of the shot at `index` sees; past the end, a new shot."""
        told = [caption for shot in self.shots[index : index + 1] for caption in shot.captions]
        return seen_by(self.cast, len(self.take_ids(index)), self.global_caption, *told)

    def pins_before(self, index: int) -> tuple[PinnedFrame, ...]:
        """Returns the pins that condition a shot at `index`, in the order of pinning."""
        film = self.take_ids(index)
        return tuple(pin for pin in self.pins if pin.take_id in film)


def _without_empty(document: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns a document without values of these names that are empty, as earlier versions wrote it."""
    return {key: value for key, value in document.items() if key not in names or value}


def stale_reasons(
    shot_list: ShotList, index: int, takes: Mapping[str, TakeRecord]
) -> tuple[StaleReason, ...]:
    """Returns which inputs of a shot's chosen take have changed; empty if none has, or there is no take."""
    shot = shot_list.shots[index]
    if shot.take_id is None:
        return ()
    take = takes[shot.take_id]
    reasons: list[StaleReason] = []
    if take.before != shot_list.take_ids(index) or (
        take.before and take.context_policy != shot_list.context_policy
    ):
        reasons.append("context")
    if take.caption != shot.caption or take.then != steers_until(shot.then, take.num_chunks):
        reasons.append("caption")
    if take.global_caption != shot_list.global_caption:
        reasons.append("global_caption")
    if shot.seed is not None and shot.seed != take.seed:
        reasons.append("seed")
    told = (take.global_caption, *take.captions)
    now = seen_by(shot_list.cast, len(shot_list.take_ids(index)), *told)
    if look(now) != look(seen_by(take.cast, len(take.before), *told)):
        reasons.append("cast")
    return tuple(reasons)


def first_difference(old: ShotList, new: ShotList) -> int:
    """Returns the index of the first shot at which two films differ."""
    pairs = zip(old.shots, new.shots, strict=False)
    shorter = min(len(old.shots), len(new.shots))
    if old.global_caption != new.global_caption:
        return 0
    if old.context_policy != new.context_policy:
        return min(1, shorter)  # the first shot has no context
    return next(
        (
            index
            for index, (mine, other) in enumerate(pairs)
            if mine != other or look(old.seen_at(index)) != look(new.seen_at(index))
        ),
        shorter,
    )


def start_frames(shot_list: ShotList, takes: Mapping[str, TakeRecord]) -> Sequence[int]:
    """Returns the first frame of each shot in the film, then the film's length.

    A shot without a take has no frames.
    """
    starts, frame = [0], 0
    for shot in shot_list.shots:
        frame += takes[shot.take_id].num_frames if shot.take_id is not None else 0
        starts.append(frame)
    return starts
