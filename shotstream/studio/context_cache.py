"""The context of the next shot: memories of earlier takes, and the choice of the frames that condition it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from shotstream.streaming.context_candidates import ContextCandidate, NextShot, frame_candidates
from shotstream.streaming.context_sampling import choose_context, kept_frames
from shotstream.streaming.saved_session import Pin, Take
from shotstream.studio.app_context import AppContext
from shotstream.studio.shot_list import PinnedFrame, ShotList
from shotstream.studio.take_record import ContextFrameRecord, TakeRecord


class ContextCache:
    """The memories and pinned latents of a story's takes, read from disk once and kept in RAM."""

    def __init__(self, app: AppContext, story_id: str) -> None:
        self._app = app
        self._story_id = story_id
        self._takes: dict[str, Take] = {}
        self._pins: dict[tuple[str, int], Any] = {}

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


def plan_context(
    app: AppContext,
    cache: ContextCache,
    shot_list: ShotList,
    index: int,
    takes: Mapping[str, TakeRecord],
    caption: str,
) -> tuple[ContextFrameRecord, ...]:
    """Returns the frames that condition a shot with `caption` at `index`, oldest shot first.

    Raises:
        CorruptTakeError: The context policy compares frames of a take that cannot be read.
    """
    film = shot_list.take_ids(index)
    if not film:
        return ()
    pipeline = app.pipeline
    told = [*(takes[take_id].caption for take_id in film), caption]
    match = partial(pipeline.matcher.match, shot_list.global_caption, told, takes[film[0]].seed)
    pins = shot_list.pins_before(index)
    pins_of = [[pin for pin in pins if pin.take_id == take_id] for take_id in film]
    plan = choose_context(
        [
            candidate
            for shot_index, take_id in enumerate(film)
            for candidate in _candidates(app, cache, takes[take_id], shot_index, pins_of[shot_index])
        ],
        NextShot(index=len(film), caption=caption, match=match),
        pipeline.context_budget,
        shot_list.context_policy or pipeline.context_policy,
    )
    frames: list[ContextFrameRecord] = []
    for slot in plan.slots:
        chosen = slot.candidate
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
    return pinned + frame_candidates(shot_index, record.num_frames, kept, latent_of, caption=record.caption)
