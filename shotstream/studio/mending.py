"""Damaged takes made anew: from their frames, or from what they were made from, every frame as it was.

What comes out is compared with the hashes in the take's record; if it is not the same the take stays damaged.
"""

from collections.abc import Generator, Mapping

import numpy as np

from shotstream.film.replay import hash_frames
from shotstream.streaming.order import ShotOrder
from shotstream.streaming.shot import make_shot
from shotstream.studio.making import Memories, StudioTools, remember
from shotstream.studio.media import Frames, TakeDamaged, recorded
from shotstream.studio.script import TakeRecord


class TakeLost(ValueError):
    """A damaged take that cannot be made anew; one line."""


def mend(
    tools: StudioTools,
    story_id: str,
    take_id: str,
    memories: Memories,
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
        frames = tools.media.frames(story_id, record)
    except TakeDamaged as error:
        frames = None
        if record.weights_sha256 != tools.pipeline.weights_sha256:
            raise TakeLost("its frames are damaged, and the model that made them is not loaded") from error
    if frames is None:
        # What it looked at may be damaged as well.
        while isinstance(needed := _order(record, memories, takes), str):
            if needed in mended:
                raise TakeLost("its frames are damaged, and so are those that it looked at")
            mended |= yield from mend(tools, story_id, needed, memories, takes)
            takes = {**takes, **mended}
            memories.forget(needed)
        frames = yield from _film_again(tools, needed)
        if hash_frames(frames) != record.frame_sha256:
            raise TakeLost("its frames are damaged, and do not come out the same on this machine")
    ends = [tools.num_frames(count) for count in range(1, record.num_chunks + 1)]
    record = tools.media.restore(
        story_id,
        record,
        recorded(tools.pipeline, tools.scale, frames, ends),
        frames,
        remember(tools, record, frames),
    )
    tools.store.replace_take(record)
    tools.count_bytes(record.num_bytes - takes[take_id].num_bytes)
    memories.forget(take_id)
    return {**mended, take_id: record}


def _order(record: TakeRecord, memories: Memories, takes: Mapping[str, TakeRecord]) -> ShotOrder | str:
    """What a take was made from; or the take of it that is damaged."""
    try:
        return ShotOrder(
            global_caption=record.global_caption,
            caption=record.caption,
            seed=record.seed,
            num_steps=record.num_steps,
            num_chunks=record.num_chunks,
            takes=memories.before(record.before, record.context, takes),
            pins=tuple(
                memories.pin(takes[frame.take_id], frame.frame_index, record.before.index(frame.take_id))
                for frame in record.context
                if frame.pin_id is not None
            ),
        )
    except TakeDamaged as error:
        return error.take_id


def _film_again(tools: StudioTools, order: ShotOrder) -> Generator[None, None, Frames]:
    chunks: list[Frames] = []
    stream = make_shot(tools.pipeline.engine, order)
    try:
        for chunk in stream:
            chunks.append(chunk.frames)
            yield
    finally:
        stream.close()
    return np.concatenate(chunks)
