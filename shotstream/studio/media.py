"""The files of takes: the recording, the lossless frames and the memory, each take a directory of its own.

    media/<story>/<take>/recording.mp4        header and fragments, exactly as they were sent
                         frames.mkv           the engine's frames, lossless
                         memory.safetensors   the latents that later shots look back at

A directory is written beside its place and renamed, so that a take is there whole or not at all. Ids are
the server's own, checked against their form before they become part of a path.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from shotstream.codec.video_io import FragmentWriter, H264Settings, read_frames, write_lossless
from shotstream.files import make_atomically, remove
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.saved_session import SavedSession, Take, read_session, write_session

_ID = re.compile(r"[0-9a-f]{16}")
_RECORDING, _FRAMES, _MEMORY = "recording.mp4", "frames.mkv", "memory.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """A take as it was sent."""

    header: bytes
    fragments: tuple[bytes, ...]
    """One for each chunk."""


class MediaFolder:
    """Where takes are kept.

    Args:
        root: a directory of this server alone; made if it is not there.
        pipeline: what takes are made with.
    """

    def __init__(self, root: Path, pipeline: StreamingPipeline) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._pipeline = pipeline

    def keep(
        self,
        story_id: str,
        take_id: str,
        recording: Recording,
        frames: UInt8[np.ndarray, "f h w 3"],
        memory: Take,
    ) -> int:
        """Writes a take; returns the bytes that its files take.

        Raises:
            OSError: a full disk, for example; nothing is left then.
        """
        target = self._take(story_id, take_id)
        target.parent.mkdir(exist_ok=True)
        engine = self._pipeline.engine

        def make(part: Path) -> None:
            part.mkdir()
            (part / _RECORDING).write_bytes(recording.header + b"".join(recording.fragments))
            write_lossless(part / _FRAMES, frames, self._pipeline.fps)
            write_session(
                part / _MEMORY,
                SavedSession(
                    model_id=engine.config.model_id,
                    weights_sha256=engine.weights_sha256,
                    context_policy=engine.config.context_policy,
                    global_caption="",
                    seed=0,
                    takes=(memory,),
                    pins=(),
                ),
            )

        try:
            make_atomically(target, make)
        except BaseException:
            remove(target.with_name(f".part.{target.name}"))
            raise
        return sum(file.stat().st_size for file in target.iterdir())

    def memory(self, story_id: str, take_id: str) -> Take:
        """What later shots may look at; SessionError when it is damaged."""
        return read_session(self._take(story_id, take_id) / _MEMORY).takes[0]

    def frames(self, story_id: str, take_id: str) -> UInt8[np.ndarray, "f h w 3"]:
        """The engine's frames; VideoError when they are damaged."""
        return read_frames(self._take(story_id, take_id) / _FRAMES)

    def frame(self, story_id: str, take_id: str, frame_index: int) -> UInt8[np.ndarray, "h w 3"]:
        """One of the engine's frames; VideoError when it is not there."""
        return read_frames(self._take(story_id, take_id) / _FRAMES, frame_index, frame_index + 1)[0]

    def recording_file(self, story_id: str, take_id: str) -> Path:
        """The recording."""
        return self._take(story_id, take_id) / _RECORDING

    def recording(
        self, story_id: str, take_id: str, header_bytes: int, chunk_bytes: Sequence[int]
    ) -> Recording:
        """The recording, in its parts."""
        data = self.recording_file(story_id, take_id).read_bytes()
        ends = np.cumsum([header_bytes, *chunk_bytes]).tolist()
        return Recording(
            header=data[:header_bytes],
            fragments=tuple(data[start:end] for start, end in pairwise(ends)),
        )

    def delete_story(self, story_id: str) -> None:
        """Deletes the files of a story."""
        remove(self._story(story_id))

    def sweep(self, known: set[tuple[str, str]]) -> int:
        """Deletes takes that the database does not know, left by a kill between the two; how many."""
        num_swept = 0
        for story in self._root.iterdir():
            for take in story.iterdir() if story.is_dir() else ():
                if (story.name, take.name) not in known:
                    remove(take)
                    num_swept += 1
            if story.is_dir() and not any(story.iterdir()):
                story.rmdir()
        return num_swept

    def _story(self, story_id: str) -> Path:
        assert _ID.fullmatch(story_id), "ids are the server's own"
        return self._root / story_id

    def _take(self, story_id: str, take_id: str) -> Path:
        assert _ID.fullmatch(take_id), "ids are the server's own"
        return self._story(story_id) / take_id


def fragment_writer(pipeline: StreamingPipeline, scale: int) -> FragmentWriter:
    """What makes a take's fragments."""
    return FragmentWriter(pipeline.fps, H264Settings(scale=scale, crf=16, preset="ultrafast"))


def mime_type(pipeline: StreamingPipeline, scale: int) -> str:
    """What the pictures are, for `addSourceBuffer`; read from a header that the encoder makes."""
    size = pipeline.pixel_size
    black = np.zeros((1, size.height, size.width, 3), np.uint8)
    header, _ = fragment_writer(pipeline, scale).write(black)
    # avcC: version, then the three bytes that RFC 6381 wants.
    start = header.index(b"avcC") + 5
    return f'video/mp4; codecs="avc1.{header[start : start + 3].hex()}"'
