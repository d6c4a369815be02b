"""The context of the next shot: memories of earlier takes, and the choice of the frames that condition it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from shotstream.streaming.context_candidates import ContextCandidate, NextShot, frame_candidates
from shotstream.streaming.context_sampling import choose_context, kept_frames, max_pictures
from shotstream.streaming.references import EncodedReference
from shotstream.streaming.saved_session import Pin, Take
from shotstream.studio.app_context import AppContext
from shotstream.studio.cast import CastEntry, references_of
from shotstream.studio.shot_list import PinnedFrame, ShotList
from shotstream.studio.take_record import ContextFrameRecord, TakeRecord


class ContextCache:
    """The memories and pinned latents of a story's takes, read from disk once and kept in RAM."""

    def __init__(self, app: AppContext, story_id: str) -> None:
        self._app = app
        self._story_id = story_id
        self._takes: dict[str, Take] = {}
        self._pins: dict[tuple[str, int], Any] = {}
        self._references: dict[str, EncodedReference] = {}

    def add(self, take_id: str, take: Take) -> None:
        """Adds the memory of a take that was just generated."""
        self._takes[take_id] = take

    def drop(self, take_id: str) -> None:
        """Removes a take, so that it is read from disk again."""
        self._takes.pop(take_id, None)

    def takes_before(self, film: Sequence[str], takes: Mapping[str, TakeRecord]) -> tuple[Take, ...]:
        """Returns the memories of a film's takes, each with the frames that its place offers.

        Raises:
            CorruptTakeError: A take cannot be read.
        """
        return tuple(self.take(takes[take_id], shot_index) for shot_index, take_id in enumerate(film))

    def take(self, record: TakeRecord, shot_index: int) -> Take:
        """Returns a take's memory at `shot_index` in the film, with exactly the frames of `kept_frames`.

        Latents are encoded again from the lossless frames where the take was generated with other weights, or
        where its memory lacks a frame. The latter happens to a take that has moved towards the film's start:
        more of its frames are then candidates than when it was stored.
        """
        media, pipeline = self._app.media, self._app.pipeline
        if record.take_id not in self._takes:
            take = media.read_memory(self._story_id, record)
            if record.weights_sha256 != pipeline.weights_sha256:
                frames = media.read_frames(self._story_id, record)
                take = replace(take, latents=pipeline.encode_frames(frames[list(take.candidate_frames)]))
            self._takes[record.take_id] = take
        take = self._takes[record.take_id]
        offered = kept_frames(record.num_frames, shot_index, pipeline.context_budget)
        missing = sorted(set(offered) - set(take.candidate_frames))
        if missing:
            frames = media.read_frames(self._story_id, record)
            take = replace(
                take,
                candidate_frames=(*take.candidate_frames, *missing),
                latents=torch.cat([take.latents, pipeline.encode_frames(frames[missing])]),
            )
            self._takes[record.take_id] = take
        latents = torch.stack([take.latent_of(frame_index) for frame_index in offered])
        return replace(take, candidate_frames=offered, latents=latents)

    def pin(self, record: TakeRecord, frame_index: int, shot_index: int) -> Pin:
        """Returns the latent of a pinned frame, as a pin of the shot at `shot_index`.

        Raises:
            CorruptTakeError: The take cannot be read.
        """
        key = (record.take_id, frame_index)
        if key not in self._pins:
            frame = self._app.media.read_frame(self._story_id, record, frame_index)
            self._pins[key] = self._app.pipeline.encode_frames(frame[None])[0]
        return Pin(shot_index=shot_index, latent=self._pins[key])

    def references(
        self, cast: Sequence[CastEntry], seen: Sequence[CastEntry]
    ) -> tuple[EncodedReference, ...]:
        """Returns the references of a cast; those that the shot does not see have no latent.

        Raises:
            ValueError: The picture of one that it sees is missing.
        """
        return tuple(
            EncodedReference(
                reference=entry.as_reference(),
                latent=self.reference_latent(entry) if entry in seen else torch.empty(0, 0, 0),
            )
            for entry in cast
        )

    def reference_latent(self, entry: CastEntry) -> torch.Tensor:
        """Returns the latent of a reference's picture; raises ValueError if the picture is missing."""
        if entry.picture_id in self._references:
            return self._references[entry.picture_id].latent
        image = self._app.store.picture(self._story_id, entry.picture_id) if entry.picture_id else None
        if image is None:
            named = f" ({entry.file_name})" if entry.file_name else ""
            raise ValueError(
                f"the picture of @{entry.reference_id} is missing{named}; add it under Cast, and try again"
            )
        encoded = self._app.pipeline.encode_reference(entry.as_reference(image))
        self._references[entry.picture_id or ""] = encoded
        return encoded.latent


def plan_context(
    app: AppContext,
    cache: ContextCache,
    shot_list: ShotList,
    index: int,
    takes: Mapping[str, TakeRecord],
    caption: str,
    seen: Sequence[CastEntry],
) -> tuple[ContextFrameRecord, ...]:
    """Returns the frames that condition a shot with `caption` at `index`, oldest shot first.

    References that it sees (`seen`) take places before them. If more pictures are mandatory than the model
    has places for, none is planned, and the shot fails with the engine's reason.

    Raises:
        CorruptTakeError: The context policy compares frames of a take that cannot be read.
    """
    film = shot_list.take_ids(index)
    pipeline = app.pipeline
    pins = shot_list.pins_before(index)
    if not film or len(seen) + len(pins) > max_pictures(pipeline.context_budget):
        return ()
    told = [*(takes[take_id].told for take_id in film), caption]
    match = pipeline.matcher.match_function(
        shot_list.global_caption, told, references_of(shot_list.cast), takes[film[0]].seed
    )
    pins_of = [[pin for pin in pins if pin.take_id == take_id] for take_id in film]
    plan = choose_context(
        [
            *_reference_candidates(cache, seen),
            *(
                candidate
                for shot_index, take_id in enumerate(film)
                for candidate in _candidates(app, cache, takes[take_id], shot_index, pins_of[shot_index])
            ),
        ],
        NextShot(index=len(film), caption=caption, match=match),
        pipeline.context_budget,
        pipeline.usable_policy(shot_list.context_policy),
    )
    frames: list[ContextFrameRecord] = []
    for slot in plan.slots:
        chosen = slot.candidate
        if chosen.shot_index < 0:
            continue  # A reference, whose phase is its place among those that are seen.
        pin = None if chosen.pin_index is None else pins_of[chosen.shot_index][chosen.pin_index]
        frame_index = chosen.frame_index if pin is None else pin.frame_index
        assert frame_index is not None
        frames.append(
            ContextFrameRecord(
                take_id=film[chosen.shot_index],
                frame_index=frame_index,
                pin_id=None if pin is None else pin.pin_id,
                shot_phase=slot.shot_phase,
                score=None if chosen.match is None else chosen.match.score,
                shared=() if chosen.match is None else chosen.match.shared,
            )
        )
    return tuple(frames)


def _reference_candidates(cache: ContextCache, seen: Sequence[CastEntry]) -> list[ContextCandidate]:
    return [
        ContextCandidate(
            shot_index=shot_index,
            frame_index=None,
            pin_index=0,
            shot_num_frames=1,
            caption=entry.caption,
            latent=partial(cache.reference_latent, entry),
        )
        for shot_index, entry in enumerate(seen, start=-len(seen))
    ]


def _candidates(
    app: AppContext,
    cache: ContextCache,
    record: TakeRecord,
    shot_index: int,
    pins: Sequence[PinnedFrame],
) -> list[ContextCandidate]:
    """Returns the context candidates of a take at `shot_index`; a latent is read only if a policy asks."""

    def latent_of(frame_index: int) -> torch.Tensor:
        return cache.take(record, shot_index).latent_of(frame_index)

    def pinned_latent(pin: PinnedFrame) -> torch.Tensor:
        return cache.pin(record, pin.frame_index, shot_index).latent

    pinned = [
        ContextCandidate(
            shot_index=shot_index,
            frame_index=None,
            pin_index=pin_index,
            shot_num_frames=record.num_frames,
            caption=record.caption,
            latent=partial(pinned_latent, pin),
        )
        for pin_index, pin in enumerate(pins)
    ]
    kept = kept_frames(record.num_frames, shot_index, app.pipeline.context_budget)
    frames = frame_candidates(shot_index, record.num_frames, kept, latent_of, caption=record.caption)
    return pinned + [_as_told(app, record, frame) for frame in frames]


def _as_told(app: AppContext, record: TakeRecord, frame: ContextCandidate) -> ContextCandidate:
    """Returns a frame of a take with the caption that it was generated under."""
    assert frame.frame_index is not None
    chunk_index = app.chunk_index_of(frame.frame_index)
    num_later = sum(steer.chunk_index <= chunk_index for steer in record.then)
    return replace(frame, caption=record.captions[num_later], caption_index=num_later)
