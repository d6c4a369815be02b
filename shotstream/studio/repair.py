"""Damaged takes made anew: from their frames, or from what they were made from, every frame as it was.

What comes out is compared with the hashes in the take's record; if it is not the same the take stays damaged.
"""

from collections.abc import Generator, Mapping

import numpy as np

from shotstream.film.replay import hash_frames
from shotstream.streaming.shot import make_shot
from shotstream.streaming.shot_request import ShotRequest
from shotstream.studio.media_store import CorruptTakeError, Frames, encode_recording
from shotstream.studio.take_job import AppContext, ContextCache, encode_take_memory
from shotstream.studio.take_record import TakeRecord


class UnrecoverableTakeError(ValueError):
    """A damaged take that cannot be made anew; one line."""


def repair_take(
    app: AppContext,
    story_id: str,
    take_id: str,
    cache: ContextCache,
    takes: Mapping[str, TakeRecord],
) -> Generator[None, None, dict[str, TakeRecord]]:
    """The takes that were made anew, with their new records; pauses after every chunk.

    Raises:
        TakeLost: It cannot be made anew.
        OSError, SQLAlchemyError: It could not be kept.
    """
    record = takes[take_id]
    mended: dict[str, TakeRecord] = {}
    try:
        frames = app.media.read_frames(story_id, record)
    except CorruptTakeError as error:
        frames = None
        if record.weights_sha256 != app.pipeline.weights_sha256:
            raise UnrecoverableTakeError(
                "its frames are damaged, and the model that made them is not loaded"
            ) from error
    if frames is None:
        # What it looked at may be damaged as well.
        while isinstance(needed := _shot_request(record, cache, takes), str):
            if needed in mended:
                raise UnrecoverableTakeError("its frames are damaged, and so are those that it looked at")
            mended |= yield from repair_take(app, story_id, needed, cache, takes)
            takes = {**takes, **mended}
            cache.drop(needed)
        frames = yield from _regenerate_frames(app, needed)
        if hash_frames(frames) != record.frame_sha256:
            raise UnrecoverableTakeError(
                "its frames are damaged, and do not come out the same on this machine"
            )
    ends = [app.num_frames(count) for count in range(1, record.num_chunks + 1)]
    record = app.media.rewrite_corrupt_files(
        story_id,
        record,
        encode_recording(app.pipeline, app.scale, frames, ends),
        frames,
        encode_take_memory(app, record, frames),
    )
    app.store.replace_take(record)
    app.add_stored_bytes(record.num_bytes - takes[take_id].num_bytes)
    cache.drop(take_id)
    return {**mended, take_id: record}


def _shot_request(
    record: TakeRecord, cache: ContextCache, takes: Mapping[str, TakeRecord]
) -> ShotRequest | str:
    """What a take was made from; or the take of it that is damaged."""
    try:
        return ShotRequest(
            global_caption=record.global_caption,
            caption=record.caption,
            seed=record.seed,
            num_steps=record.num_steps,
            num_chunks=record.num_chunks,
            takes=cache.takes_before(record.before, record.context, takes),
            pins=tuple(
                cache.pin(takes[frame.take_id], frame.frame_index, record.before.index(frame.take_id))
                for frame in record.context
                if frame.pin_id is not None
            ),
        )
    except CorruptTakeError as error:
        return error.take_id


def _regenerate_frames(app: AppContext, request: ShotRequest) -> Generator[None, None, Frames]:
    chunks: list[Frames] = []
    stream = make_shot(app.pipeline.engine, request)
    try:
        for chunk in stream:
            chunks.append(chunk.frames)
            yield
    finally:
        stream.close()
    return np.concatenate(chunks)
