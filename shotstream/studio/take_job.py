"""A take in the making: chunk by chunk, from an order to frames, fragments and hashes; then its files."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from sqlalchemy.exc import SQLAlchemyError

from shotstream.codec.codec import StreamDecoder
from shotstream.film.prepare import running_environment
from shotstream.film.replay import hash_frames
from shotstream.streaming.context_sampling import (
    ContextCandidate,
    NextShot,
    choose_context,
    frame_candidates,
    kept_frames,
)
from shotstream.streaming.keeping import Keeping
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.saved_session import Pin, Take
from shotstream.streaming.shot import make_shot
from shotstream.streaming.shot_request import ShotRequest
from shotstream.studio.limits import Limits
from shotstream.studio.media_store import Frames, MediaStore, Recording, fragment_writer, mime_type
from shotstream.studio.metrics import Metrics
from shotstream.studio.shot_list import PinnedFrame, ShotList
from shotstream.studio.storage_errors import explain_failure
from shotstream.studio.story_store import StoryStore, new_id, utc_now
from shotstream.studio.take_record import ContextFrameRecord, TakeRecord


class AppContext:
    """What every story is made with."""

    def __init__(
        self,
        pipeline: StreamingPipeline,
        store: StoryStore,
        media: MediaStore,
        limits: Limits,
        metrics: Metrics,
        scale: int,
        preview: StreamDecoder | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.preview = preview
        """What makes the pictures that are sent, if not the model's own codec."""
        self.store = store
        self.media = media
        self.limits = limits
        self.metrics = metrics
        self.scale = scale
        """Enlargement of the pictures that are sent."""
        self.mime = mime_type(pipeline, scale)
        self.environment: Mapping[str, Any] = asdict(running_environment(pipeline))
        self.storage_problems: dict[str, str] = {}
        """Why a story's finished take cannot be kept now."""
        self.unrecoverable_takes: dict[str, str] = {}
        """Damaged takes that cannot be made anew, and why."""
        self._num_bytes = store.num_bytes()
        metrics.bytes.set(self._num_bytes)

    def stored_bytes(self) -> int:
        """Of all stories' files and history."""
        return self._num_bytes

    def is_quota_reached(self) -> bool:
        """Whether they take as much as they may."""
        return self._num_bytes >= self.limits.quota_bytes

    def storage_failures(self) -> tuple[str, ...]:
        """Why nothing can be kept now, for a person; empty: all is well. Writes a little; from any thread."""
        reasons = list(self.storage_problems.values())
        for check in (self.media.check_writable, self.store.check_writable):
            try:
                check()
            except (OSError, SQLAlchemyError) as error:
                reasons.append(explain_failure(error))
        return tuple(dict.fromkeys(reasons))

    def add_stored_bytes(self, num_bytes: int) -> None:
        """So many more, or fewer."""
        self._num_bytes += num_bytes
        self.metrics.bytes.set(self._num_bytes)

    def chunk_index_of(self, frame_index: int) -> int:
        """The chunk of a take that holds a frame."""
        geometry = self.pipeline.geometry
        first, later = geometry.chunk_num_frames(0), geometry.chunk_num_frames(1)
        return 0 if frame_index < first else 1 + (frame_index - first) // later

    def num_frames(self, num_chunks: int) -> int:
        """Frames of a take of so many chunks, 0 of none."""
        return self.pipeline.geometry.shot_num_frames(num_chunks) if num_chunks else 0


class ContextCache:
    """What later shots may look at of a story's takes, read from disk once."""

    def __init__(self, app: AppContext, story_id: str) -> None:
        self._app = app
        self._story_id = story_id
        self._takes: dict[str, Take] = {}
        self._pins: dict[tuple[str, int], Any] = {}

    def add(self, take_id: str, take: Take) -> None:
        """Keeps what was just made."""
        self._takes[take_id] = take

    def drop(self, take_id: str) -> None:
        """Reads a take anew when it is asked for."""
        self._takes.pop(take_id, None)

    def takes_before(
        self, film: Sequence[str], context: Sequence[ContextFrameRecord], takes: Mapping[str, TakeRecord]
    ) -> tuple[Take, ...]:
        """The takes of a film, as a shot after them looks at them; TakeDamaged when one cannot be read."""
        wanted: dict[str, list[int]] = {take_id: [] for take_id in film}
        for frame in context:
            if frame.pin_id is None:
                wanted[frame.take_id].append(frame.frame_index)
        return tuple(self.take(takes[take_id], wanted[take_id]) for take_id in film)

    def take(self, record: TakeRecord, frame_indices: Sequence[int] = ()) -> Take:
        """A take's memory, with these frames in it; encoded anew when it was made with other weights.

        A take holds what a shot may ask for that stands as far back as the take was made; one that has moved
        to the front since, because an earlier shot was removed, is asked for more, which is encoded from its
        frames.
        """
        media, engine = self._app.media, self._app.pipeline.engine
        if record.take_id not in self._takes:
            take = media.read_memory(self._story_id, record)
            if record.weights_sha256 != engine.weights_sha256:
                frames = media.read_frames(self._story_id, record)
                take = replace(take, latents=engine.encode_frames(frames[list(take.candidate_frames)]))
            self._takes[record.take_id] = take
        take = self._takes[record.take_id]
        more = sorted(set(frame_indices) - set(take.candidate_frames))
        if more:
            frames = media.read_frames(self._story_id, record)
            take = replace(
                take,
                candidate_frames=(*take.candidate_frames, *more),
                latents=torch.cat([take.latents, engine.encode_frames(frames[more])]),
            )
            self._takes[record.take_id] = take
        return take

    def pin(self, record: TakeRecord, frame_index: int, shot_index: int) -> Pin:
        """A pinned frame, as a frame of the shot at `shot_index`; TakeDamaged when it cannot be read."""
        key = (record.take_id, frame_index)
        if key not in self._pins:
            frame = self._app.media.read_frame(self._story_id, record, frame_index)
            self._pins[key] = self._app.pipeline.engine.encode_frames(frame[None])[0]
        return Pin(shot_index=shot_index, latent=self._pins[key])


def plan_context(
    app: AppContext,
    cache: ContextCache,
    shot_list: ShotList,
    index: int,
    takes: Mapping[str, TakeRecord],
    caption: str,
) -> tuple[ContextFrameRecord, ...]:
    """Frames that condition a shot with `caption` at `index`, oldest shot first; none for a first shot."""
    film = shot_list.film(index)
    if not film:
        return ()
    engine = app.pipeline.engine
    pins = shot_list.pins_before(index)
    pins_of = [[pin for pin in pins if pin.take_id == take_id] for take_id in film]
    plan = choose_context(
        [
            candidate
            for shot_index, take_id in enumerate(film)
            for candidate in _candidates(app, cache, takes[take_id], shot_index, pins_of[shot_index])
        ],
        NextShot(index=len(film), caption=caption),
        engine.context_budget,
        engine.config.context_policy,
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
    """What a take offers at a place of the film; a latent is read when a policy asks for it."""

    def latent_of(frame_index: int) -> torch.Tensor:
        return cache.take(record, [frame_index]).latent_of(frame_index)

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
    kept = kept_frames(record.num_frames, shot_index, app.pipeline.engine.context_budget)
    return pinned + frame_candidates(shot_index, record.num_frames, kept, latent_of, caption=record.caption)


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeRequest:
    """A take to be made."""

    shot_id: str
    index: int
    """Its shot's place in the film."""
    caption: str
    global_caption: str
    seed: int
    num_chunks: int
    before: tuple[str, ...]
    """The takes that the film holds before it."""
    pins: tuple[PinnedFrame, ...]
    context: tuple[ContextFrameRecord, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedChunk:
    """A chunk of a take in the making."""

    chunk_index: int
    frame_index: int
    num_frames: int
    data: bytes
    """The fragment, with the header before it in the first chunk."""
    frame_sha256: tuple[str, ...]
    """None where a light decoder made the picture: the frames are not known before the take is finished."""


class TakeJob:
    """A take while it is being made; nothing is computed before the first chunk is asked for."""

    def __init__(
        self, app: AppContext, request: TakeRequest, cache: ContextCache, takes: Mapping[str, TakeRecord]
    ) -> None:
        self._app = app
        self.request = request
        self.take_id = new_id()
        self.chunks: list[EncodedChunk] = []
        self.started_s = time.monotonic()
        self._shot = ShotRequest(
            global_caption=request.global_caption,
            caption=request.caption,
            seed=request.seed,
            num_steps=app.pipeline.num_steps,
            num_chunks=request.num_chunks,
            takes=cache.takes_before(request.before, request.context, takes),
            pins=tuple(
                cache.pin(takes[pin.take_id], pin.frame_index, request.before.index(pin.take_id))
                for pin in request.pins
            ),
        )
        engine, preview = app.pipeline.engine, app.preview
        self._keeping = Keeping(engine, self._shot, is_seen_lightly=preview is not None, whole=True)
        self._stream = make_shot(engine, self._shot, preview, self._keeping)
        self._writer = fragment_writer(app.pipeline, app.scale)
        self._header = b""
        self._fragments: list[bytes] = []

    @property
    def num_made(self) -> int:
        """Chunks so far."""
        return len(self.chunks)

    @property
    def num_frames(self) -> int:
        """Frames so far."""
        return sum(chunk.num_frames for chunk in self.chunks)

    @property
    def is_complete(self) -> bool:
        """Whether all chunks that were ordered are made."""
        return self.num_made == self.request.num_chunks

    def make_chunk(self) -> EncodedChunk:
        """The next chunk, computed now."""
        chunk = next(self._stream)
        header, fragment = self._writer.write(chunk.frames)
        self._header = self._header or header
        made = EncodedChunk(
            chunk_index=chunk.chunk_index,
            frame_index=self.num_frames,
            num_frames=len(chunk.frames),
            data=header + fragment,
            frame_sha256=hash_frames(chunk.frames) if self._app.preview is None else (),
        )
        self._fragments.append(fragment)
        self.chunks.append(made)
        return made

    def close(self) -> None:
        """Gives back what it computes with."""
        self._stream.close()

    def save(self, story_id: str, cache: ContextCache, num_chunks: int) -> TakeRecord:
        """The take of the first `num_chunks` chunks, its files on disk."""
        self._stream.close()
        return save_take(
            self._app,
            story_id,
            self.take_id,
            self.request,
            self._shot,
            cache,
            frames=self._keeping.frames(num_chunks),
            memory=self._keeping.take(num_chunks),
            recording=Recording(header=self._header, fragments=tuple(self._fragments[:num_chunks])),
        )


def shorten_take(
    app: AppContext, story_id: str, cache: ContextCache, old: TakeRecord, num_chunks: int
) -> TakeRecord:
    """A new take: the first chunks of a finished one, with the same frames, fragments and hashes.

    Raises:
        TakeDamaged: The finished one is not what was written.
        OSError: It cannot be written.
    """
    recording = app.media.read_recording(story_id, old)
    frames = app.media.read_frames(story_id, old)[: app.num_frames(num_chunks)]
    fragments = recording.fragments[:num_chunks]
    record = replace(
        old,
        take_id=new_id(),
        created_at=utc_now(),
        num_chunks=num_chunks,
        num_frames=len(frames),
        was_cut=True,
        chunk_bytes=tuple(map(len, fragments)),
        frame_sha256=old.frame_sha256[: len(frames)],
    )
    memory = encode_take_memory(app, record, frames)
    return _write_take(
        app,
        story_id,
        cache,
        record,
        Recording(header=recording.header, fragments=fragments),
        frames,
        memory,
    )


def save_take(
    app: AppContext,
    story_id: str,
    take_id: str,
    request: TakeRequest,
    shot: ShotRequest,
    cache: ContextCache,
    *,
    frames: Frames,
    memory: Take,
    recording: Recording,
) -> TakeRecord:
    """A finished take, its files on disk; `memory` is what later shots may look at of it.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    engine = app.pipeline.engine
    num_chunks = len(recording.fragments)
    record = TakeRecord(
        take_id=take_id,
        shot_id=request.shot_id,
        created_at=utc_now(),
        caption=request.caption,
        global_caption=request.global_caption,
        seed=request.seed,
        num_steps=shot.num_steps,
        num_chunks=num_chunks,
        num_frames=len(frames),
        was_cut=num_chunks < request.num_chunks,
        before=request.before,
        context=request.context,
        weights_sha256=engine.weights_sha256,
        environment=app.environment,
        header_bytes=len(recording.header),
        chunk_bytes=tuple(map(len, recording.fragments)),
        num_bytes=0,
        frame_sha256=hash_frames(frames),
    )
    return _write_take(app, story_id, cache, record, recording, frames, memory)


def encode_take_memory(app: AppContext, record: TakeRecord, frames: Frames) -> Take:
    """What later shots may look at of a take, encoded from its frames."""
    engine = app.pipeline.engine
    chosen = kept_frames(len(frames), len(record.before), engine.context_budget)
    return Take(
        caption=record.caption,
        seed=record.seed,
        num_steps=record.num_steps,
        num_chunks=record.num_chunks,
        num_frames=len(frames),
        candidate_frames=chosen,
        latents=engine.encode_frames(frames[list(chosen)]),
    )


def _write_take(
    app: AppContext,
    story_id: str,
    cache: ContextCache,
    record: TakeRecord,
    recording: Recording,
    frames: Frames,
    memory: Take,
) -> TakeRecord:
    kept = app.media.save_take(story_id, record.take_id, recording, frames, memory)
    cache.add(record.take_id, memory)
    return replace(record, num_bytes=kept.num_bytes, file_sha256=kept.file_sha256)
