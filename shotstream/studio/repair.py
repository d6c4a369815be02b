"""Repair of corrupt takes: files are written again from the lossless frames, or the frames generated again.

Regenerated frames are compared with the hashes in the take's record. If they differ, the take stays corrupt.
"""

from collections.abc import Generator, Mapping

import numpy as np

from shotstream.film.replay import hash_frames
from shotstream.streaming.shot import make_shot
from shotstream.streaming.shot_request import ShotRequest
from shotstream.studio.app_context import AppContext
from shotstream.studio.context_cache import ContextCache
from shotstream.studio.media_store import CorruptTakeError, Frames, TakeFiles, encode_recording
from shotstream.studio.take_job import encode_take_memory
from shotstream.studio.take_record import TakeRecord


class UnrecoverableTakeError(ValueError):
    """A corrupt take that cannot be repaired; the message is one line for the user."""


def repair_take(
    app: AppContext,
    story_id: str,
    take_id: str,
    cache: ContextCache,
    takes: Mapping[str, TakeRecord],
) -> Generator[None, None, dict[str, TakeRecord]]:
    """Repairs a take, and takes that it needs; yields after each chunk and returns the new records.

    Raises:
        UnrecoverableTakeError: The take cannot be repaired.
        OSError: A file cannot be written.
        SQLAlchemyError: A record cannot be written.
    """
    record = takes[take_id]
    repaired: dict[str, TakeRecord] = {}
    try:
        frames = app.media.read_frames(story_id, record)
    except CorruptTakeError as error:
        frames = None
        if record.weights_sha256 != app.pipeline.weights_sha256:
            raise UnrecoverableTakeError(
                "its frames are damaged, and the model that made them is not loaded"
            ) from error
    if frames is None:
        # The takes that conditioned it may be corrupt as well.
        while isinstance(needed := _shot_request(app, record, cache, takes), str):
            if needed in repaired:
                raise UnrecoverableTakeError("its frames are damaged, and so are frames that conditioned it")
            repaired |= yield from repair_take(app, story_id, needed, cache, takes)
            takes = {**takes, **repaired}
            cache.drop(needed)
        frames = yield from _regenerate_frames(app, needed)
        if hash_frames(frames) != record.frame_sha256:
            raise UnrecoverableTakeError(
                "its frames are damaged, and do not come out the same on this machine"
            )
    ends = [app.num_frames(count) for count in range(1, record.num_chunks + 1)]
    files = TakeFiles(
        recording=encode_recording(app.pipeline, app.scale, frames, ends),
        frames=frames,
        memory=encode_take_memory(app, record, frames),
    )
    record = app.media.rewrite_corrupt_files(story_id, record, files)
    app.store.replace_take(record)
    app.add_stored_bytes(record.num_bytes - takes[take_id].num_bytes)
    cache.drop(take_id)
    return {**repaired, take_id: record}


def _shot_request(
    app: AppContext, record: TakeRecord, cache: ContextCache, takes: Mapping[str, TakeRecord]
) -> ShotRequest | str:
    """Returns the inputs that a take was generated from, or the id of a take among them that is corrupt."""
    try:
        return ShotRequest(
            global_caption=record.global_caption,
            caption=record.caption,
            seed=record.seed,
            num_steps=record.num_steps,
            num_chunks=record.num_chunks,
            takes=cache.takes_before(record.before, takes),
            pins=tuple(
                cache.pin(takes[frame.take_id], frame.frame_index, record.before.index(frame.take_id))
                for frame in record.context
                if frame.pin_id is not None
            ),
            then=record.then,
            references=cache.references(record.cast, record.seen),
            policy=app.pipeline.usable_policy(record.context_policy),
        )
    except CorruptTakeError as error:
        return error.take_id


def _regenerate_frames(app: AppContext, request: ShotRequest) -> Generator[None, None, Frames]:
    chunks: list[Frames] = []
    stream = make_shot(app.pipeline, request)
    try:
        for chunk in stream:
            chunks.append(chunk.frames)
            yield
    finally:
        stream.close()
    return np.concatenate(chunks)
