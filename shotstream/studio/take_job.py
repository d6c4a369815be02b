"""The generation of one take: from a request, chunk by chunk, to stored files and a record."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from shotstream.film.replay import hash_frames
from shotstream.story import Steer, SteerMode
from shotstream.streaming.context_encoder import ContextEncoder
from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.saved_session import Take
from shotstream.streaming.shot import make_shot
from shotstream.streaming.shot_request import ShotRequest
from shotstream.studio.app_context import AppContext
from shotstream.studio.cast import CastEntry, seen_by
from shotstream.studio.context_cache import ContextCache
from shotstream.studio.ids import new_id, utc_now
from shotstream.studio.media_store import Frames, Recording, TakeFiles, fragment_writer
from shotstream.studio.shot_list import PinnedFrame
from shotstream.studio.take_record import ContextFrameRecord, TakeRecord, steers_until


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeRequest:
    """The inputs of a take: its shot, captions, seed, length and context."""

    shot_id: str
    index: int
    """Index of the shot in the film."""
    caption: str
    global_caption: str
    seed: int
    num_chunks: int
    then: tuple[Steer, ...]
    """Captions that it gets while it is generated."""
    before: tuple[str, ...]
    """Ids of the takes before it in the film."""
    pins: tuple[PinnedFrame, ...]
    context: tuple[ContextFrameRecord, ...]
    """The frames that condition it."""
    cast: tuple[CastEntry, ...]
    """The cast of the story."""
    context_policy: str | None
    """Name of the policy of the story, which chose them; None: the model's."""

    @property
    def seen(self) -> tuple[CastEntry, ...]:
        """The references that condition it."""
        told = (self.caption, *(steer.caption for steer in self.then))
        return seen_by(self.cast, len(self.before), self.global_caption, *told)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedChunk:
    """A generated chunk, encoded as a fragment of MP4."""

    chunk_index: int
    frame_index: int
    """Index of its first frame in the take."""
    num_frames: int
    data: bytes
    """The fragment; in the first chunk the MP4 header, then the fragment."""
    frame_sha256: tuple[str, ...]
    """SHA-256 of each lossless frame; empty with a preview decoder: the lossless frames come later."""


class TakeJob:
    """A take that is being generated. Nothing is computed before the first `make_chunk`.

    Raises:
        CorruptTakeError: A take that conditions it cannot be read.
        ValueError: A picture that conditions it is missing.
    """

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
            takes=cache.takes_before(request.before, takes),
            pins=tuple(
                cache.pin(takes[pin.take_id], pin.frame_index, request.before.index(pin.take_id))
                for pin in request.pins
            ),
            then=request.then,
            references=cache.references(request.cast, request.seen),
            policy=app.pipeline.usable_policy(request.context_policy),
        )
        pipeline, preview = app.pipeline, app.preview
        self._context_encoder = ContextEncoder(
            pipeline, self._shot, has_preview=preview is not None, keep_all=True
        )
        self._stream = make_shot(pipeline, self._shot, preview, self._context_encoder)
        self._writer = fragment_writer(app.pipeline, app.scale)
        self._header = b""
        self._fragments: list[bytes] = []

    @property
    def num_made(self) -> int:
        """The number of chunks generated so far."""
        return len(self.chunks)

    @property
    def num_frames(self) -> int:
        """The number of frames generated so far."""
        return sum(chunk.num_frames for chunk in self.chunks)

    @property
    def is_complete(self) -> bool:
        """Whether all requested chunks are generated."""
        return self.num_made == self.request.num_chunks

    def make_chunk(self) -> EncodedChunk:
        """Generates and encodes the next chunk."""
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

    def steer(self, caption: str, mode: SteerMode) -> Steer:
        """Gives the take another caption from its next chunk on, and returns the switch.

        Raises:
            ValueError: It has no chunk yet, its last one is being made, or the caption is empty.
        """
        if self._app.pipeline.group is not None:
            raise ValueError("a film that several processes make together cannot be steered; cut to a shot")
        steer = self._shot.steering.steer(caption, mode)
        then = self._shot.steering.until(self.request.num_chunks)
        self.request = replace(self.request, then=then)
        return steer

    def close(self) -> None:
        """Frees the memory of the generation."""
        self._stream.close()

    def save(self, story_id: str, cache: ContextCache, num_chunks: int) -> TakeRecord:
        """Writes the files of the take's first `num_chunks` chunks, and returns its record.

        Raises:
            OSError: A file cannot be written; no file is left.
        """
        self._stream.close()
        app, request = self._app, self.request
        files = TakeFiles(
            recording=Recording(header=self._header, fragments=tuple(self._fragments[:num_chunks])),
            frames=self._context_encoder.frames(num_chunks),
            memory=self._context_encoder.take(num_chunks),
        )
        record = TakeRecord(
            take_id=self.take_id,
            shot_id=request.shot_id,
            created_at=utc_now(),
            caption=request.caption,
            global_caption=request.global_caption,
            seed=request.seed,
            num_steps=self._shot.num_steps,
            num_chunks=num_chunks,
            num_frames=len(files.frames),
            was_cut=num_chunks < request.num_chunks,
            before=request.before,
            context=request.context,
            context_policy=request.context_policy,
            weights_sha256=app.pipeline.weights_sha256,
            environment=app.environment,
            header_bytes=len(files.recording.header),
            chunk_bytes=tuple(map(len, files.recording.fragments)),
            num_bytes=0,
            frame_sha256=hash_frames(files.frames),
            then=self._shot.steering.until(num_chunks),
            cast=request.cast,
        )
        return _write_files(app, story_id, cache, record, files)


def shorten_take(
    app: AppContext, story_id: str, cache: ContextCache, old: TakeRecord, num_chunks: int
) -> TakeRecord:
    """Stores the first chunks of a finished take as a new take, with the same frames, fragments and hashes.

    Raises:
        CorruptTakeError: The finished take cannot be read.
        OSError: A file cannot be written; no file is left.
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
        then=steers_until(old.then, num_chunks),
    )
    files = TakeFiles(
        recording=Recording(header=recording.header, fragments=fragments),
        frames=frames,
        memory=encode_take_memory(app, record, frames),
    )
    return _write_files(app, story_id, cache, record, files)


def encode_take_memory(app: AppContext, record: TakeRecord, frames: Frames) -> Take:
    """Returns the memory of a take: the latents of the frames that later shots may be conditioned on."""
    pipeline = app.pipeline
    chosen = kept_frames(len(frames), len(record.before), pipeline.context_budget)
    return Take(
        caption=record.caption,
        seed=record.seed,
        num_steps=record.num_steps,
        num_chunks=record.num_chunks,
        num_frames=len(frames),
        candidate_frames=chosen,
        later_captions=tuple((app.num_frames(steer.chunk_index), steer.caption) for steer in record.then),
        latents=pipeline.encode_frames(frames[list(chosen)]),
        then=record.then,
    )


def _write_files(
    app: AppContext, story_id: str, cache: ContextCache, record: TakeRecord, files: TakeFiles
) -> TakeRecord:
    saved = app.media.save_take(story_id, record.take_id, files)
    cache.add(record.take_id, files.memory)
    return replace(record, num_bytes=saved.num_bytes, file_sha256=saved.file_sha256)
