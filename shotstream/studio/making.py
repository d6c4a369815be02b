"""A take in the making: chunk by chunk, from an order to frames, fragments and hashes; then its files."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from shotstream.codec.codec import StreamDecoder
from shotstream.film.prepare import running_environment
from shotstream.film.replay import hash_frames
from shotstream.streaming.context_sampling import sample_context
from shotstream.streaming.keeping import Keeping
from shotstream.streaming.order import ShotOrder
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.saved_session import Pin, Take
from shotstream.streaming.shot import finish_shot, make_shot
from shotstream.studio.limits import Limits
from shotstream.studio.media import MediaFolder, Recording, fragment_writer, mime_type
from shotstream.studio.metrics import Metrics
from shotstream.studio.script import MemoryFrame, PinnedFrame, Script, TakeRecord
from shotstream.studio.store import Store, new_id, now


class StudioTools:
    """What every story is made with."""

    def __init__(
        self,
        pipeline: StreamingPipeline,
        store: Store,
        media: MediaFolder,
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
        self._num_bytes = store.num_bytes()
        metrics.bytes.set(self._num_bytes)

    def store_bytes(self) -> int:
        """Of all stories' files."""
        return self._num_bytes

    def count_bytes(self, num_bytes: int) -> None:
        """So many more, or fewer."""
        self._num_bytes += num_bytes
        self.metrics.bytes.set(self._num_bytes)

    def chunk_of(self, frame_index: int) -> int:
        """The chunk of a take that holds a frame."""
        geometry = self.pipeline.geometry
        first, later = geometry.chunk_num_frames(0), geometry.chunk_num_frames(1)
        return 0 if frame_index < first else 1 + (frame_index - first) // later

    def num_frames(self, num_chunks: int) -> int:
        """Frames of a take of so many chunks, 0 of none."""
        return self.pipeline.geometry.shot_num_frames(num_chunks) if num_chunks else 0


class Memories:
    """What later shots may look at of a story's takes, read from disk once."""

    def __init__(self, tools: StudioTools, story_id: str) -> None:
        self._tools = tools
        self._story_id = story_id
        self._takes: dict[str, Take] = {}
        self._pins: dict[tuple[str, int], Any] = {}

    def put(self, take_id: str, take: Take) -> None:
        """Keeps what was just made."""
        self._takes[take_id] = take

    def take(self, record: TakeRecord) -> Take:
        """A take's memory; encoded anew from its frames when it was made with other weights."""
        if record.take_id not in self._takes:
            engine = self._tools.pipeline.engine
            take = self._tools.media.memory(self._story_id, record.take_id)
            if record.weights_sha256 != engine.weights_sha256:
                frames = self._tools.media.frames(self._story_id, record.take_id)
                take = replace(take, latents=engine.encode_frames(frames[list(take.candidate_frames)]))
            self._takes[record.take_id] = take
        return self._takes[record.take_id]

    def pin(self, take_id: str, frame_index: int, shot_index: int) -> Pin:
        """A pinned frame, as a frame of the shot at `shot_index`."""
        key = (take_id, frame_index)
        if key not in self._pins:
            frame = self._tools.media.frame(self._story_id, take_id, frame_index)
            self._pins[key] = self._tools.pipeline.engine.encode_frames(frame[None])[0]
        return Pin(shot_index=shot_index, latent=self._pins[key])


def plan_context(
    tools: StudioTools, script: Script, index: int, takes: Mapping[str, TakeRecord]
) -> tuple[MemoryFrame, ...]:
    """The frames that condition a shot at `index`, oldest shot first; none for a first shot."""
    film = script.film(index)
    if not film:
        return ()
    engine = tools.pipeline.engine
    pins = script.pins_before(index)
    plan = sample_context(
        [takes[take_id].num_frames for take_id in film],
        engine.context_budget,
        engine.config.context_policy,
        pins=[film.index(pin.take_id) for pin in pins],
    )
    frames: list[MemoryFrame] = []
    for slot in plan.slots:
        pin = None if slot.pin_index is None else pins[slot.pin_index]
        frame_index = slot.frame_index if pin is None else pin.frame_index
        assert frame_index is not None
        frames.append(
            MemoryFrame(
                take_id=film[slot.shot_index],
                frame_index=frame_index,
                pin_id=None if pin is None else pin.pin_id,
                shot_phase=slot.shot_phase,
            )
        )
    return tuple(frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeOrder:
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
    context: tuple[MemoryFrame, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeChunk:
    """A chunk of a take in the making."""

    chunk_index: int
    frame_index: int
    num_frames: int
    picture: bytes
    """The fragment, with the header before it in the first chunk."""
    frame_sha256: tuple[str, ...]
    """None where a light decoder made the picture: the frames are not known before the take is finished."""


class TakeInMaking:
    """A take while it is being made; nothing is computed before the first chunk is asked for."""

    def __init__(
        self, tools: StudioTools, order: TakeOrder, memories: Memories, takes: Mapping[str, TakeRecord]
    ) -> None:
        self._tools = tools
        self.order = order
        self.take_id = new_id()
        self.chunks: list[MadeChunk] = []
        self.asked_s = time.monotonic()
        self._shot = ShotOrder(
            global_caption=order.global_caption,
            caption=order.caption,
            seed=order.seed,
            num_steps=tools.pipeline.num_steps,
            num_chunks=order.num_chunks,
            takes=tuple(memories.take(takes[take_id]) for take_id in order.before),
            pins=tuple(
                memories.pin(pin.take_id, pin.frame_index, order.before.index(pin.take_id))
                for pin in order.pins
            ),
        )
        engine, preview = tools.pipeline.engine, tools.preview
        self._keeping = Keeping(engine, self._shot, is_seen_lightly=preview is not None, whole=True)
        self._stream = make_shot(engine, self._shot, preview, self._keeping)
        self._writer = fragment_writer(tools.pipeline, tools.scale)
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
        return self.num_made == self.order.num_chunks

    def make_chunk(self) -> MadeChunk:
        """The next chunk, computed now."""
        chunk = next(self._stream)
        header, fragment = self._writer.write(chunk.frames)
        self._header = self._header or header
        made = MadeChunk(
            chunk_index=chunk.chunk_index,
            frame_index=self.num_frames,
            num_frames=len(chunk.frames),
            picture=header + fragment,
            frame_sha256=hash_frames(chunk.frames) if self._tools.preview is None else (),
        )
        self._fragments.append(fragment)
        self.chunks.append(made)
        return made

    def discard(self) -> None:
        """Gives back what it computes with."""
        self._stream.close()

    def finish(self, story_id: str, memories: Memories, num_chunks: int) -> TakeRecord:
        """The take of the first `num_chunks` chunks, its files on disk."""
        self._stream.close()
        return keep_take(
            self._tools,
            story_id,
            self.take_id,
            self.order,
            self._shot,
            memories,
            frames=self._keeping.frames(num_chunks),
            memory=self._keeping.take(num_chunks),
            recording=Recording(header=self._header, fragments=tuple(self._fragments[:num_chunks])),
        )


def shorten_take(
    tools: StudioTools,
    story_id: str,
    memories: Memories,
    takes: Mapping[str, TakeRecord],
    old: TakeRecord,
    num_chunks: int,
) -> TakeRecord:
    """A new take: the first chunks of a finished one, with the same frames, fragments and hashes."""
    order = TakeOrder(
        shot_id=old.shot_id,
        index=len(old.before),
        caption=old.caption,
        global_caption=old.global_caption,
        seed=old.seed,
        num_chunks=old.num_chunks,
        before=old.before,
        pins=(),
        context=old.context,
    )
    shot = ShotOrder(
        global_caption=old.global_caption,
        caption=old.caption,
        seed=old.seed,
        num_steps=old.num_steps,
        num_chunks=old.num_chunks,
        takes=tuple(memories.take(takes[take_id]) for take_id in old.before),
        pins=(),
    )
    recording = tools.media.recording(story_id, old.take_id, old.header_bytes, old.chunk_bytes)
    frames = tools.media.frames(story_id, old.take_id)[: tools.num_frames(num_chunks)]
    return keep_take(
        tools,
        story_id,
        new_id(),
        order,
        shot,
        memories,
        frames=frames,
        memory=finish_shot(tools.pipeline.engine, shot, frames, num_chunks),
        recording=Recording(header=recording.header, fragments=recording.fragments[:num_chunks]),
        origin=old,
    )


def keep_take(
    tools: StudioTools,
    story_id: str,
    take_id: str,
    order: TakeOrder,
    shot: ShotOrder,
    memories: Memories,
    *,
    frames: UInt8[np.ndarray, "f h w 3"],
    memory: Take,
    recording: Recording,
    origin: TakeRecord | None = None,
) -> TakeRecord:
    """A finished take, its files on disk; of a shortened one, `origin` tells where its frames were made.

    `memory` is what later shots may look at of it.
    """
    engine = tools.pipeline.engine
    num_chunks = len(recording.fragments)
    num_bytes = tools.media.keep(story_id, take_id, recording, frames, memory)
    memories.put(take_id, memory)
    return TakeRecord(
        take_id=take_id,
        shot_id=order.shot_id,
        created_at=now(),
        caption=order.caption,
        global_caption=order.global_caption,
        seed=order.seed,
        num_steps=shot.num_steps,
        num_chunks=num_chunks,
        num_frames=len(frames),
        was_cut=num_chunks < order.num_chunks,
        before=order.before,
        context=order.context,
        weights_sha256=origin.weights_sha256 if origin else engine.weights_sha256,
        environment=origin.environment if origin else tools.environment,
        header_bytes=len(recording.header),
        chunk_bytes=tuple(map(len, recording.fragments)),
        num_bytes=num_bytes,
        frame_sha256=hash_frames(frames),
    )
