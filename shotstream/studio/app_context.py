"""The application context: the objects that all stories share."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from shotstream.film.prepare import running_environment
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.studio.limits import Limits
from shotstream.studio.media_store import MediaStore, mime_type
from shotstream.studio.metrics import Metrics
from shotstream.studio.storage_errors import explain_failure
from shotstream.studio.story_store import StoryStore
from shotstream.vae.codec import StreamDecoder


class AppContext:
    """The pipeline, the stores, the limits and the metrics of one server, and the state of its storage."""

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
        """Decoder of the frames that viewers are sent; None: the model's own decoder."""
        self.store = store
        self.media = media
        most = pipeline.max_chunks
        self.limits = (
            limits if most is None else replace(limits, chunks_per_shot=min(limits.chunks_per_shot, most))
        )
        self.metrics = metrics
        self.scale = scale
        """Factor by which the frames that viewers are sent are enlarged."""
        self.mime = mime_type(pipeline, scale)
        self.environment: Mapping[str, Any] = asdict(running_environment(pipeline))
        self.storage_problems: dict[str, str] = {}
        """Reason why a finished take cannot be stored now, by story id."""
        self.unrecoverable_takes: dict[str, str] = {}
        """Reason why a corrupt take cannot be repaired, by take id."""
        self._num_bytes = store.num_bytes()
        metrics.bytes.set(self._num_bytes)

    def stored_bytes(self) -> int:
        """Returns the size of the files and the history of all stories."""
        return self._num_bytes

    def is_quota_reached(self) -> bool:
        """Returns whether the stories fill the quota."""
        return self._num_bytes >= self.limits.quota_bytes

    def storage_failures(self) -> tuple[str, ...]:
        """Returns why disk or database cannot be written now, for the user; empty: both can.

        Writes a little to both. May be called from any thread.
        """
        reasons = list(self.storage_problems.values())
        for check in (self.media.check_writable, self.store.check_writable):
            try:
                check()
            except (OSError, SQLAlchemyError) as error:
                reasons.append(explain_failure(error))
        return tuple(dict.fromkeys(reasons))

    def add_stored_bytes(self, num_bytes: int) -> None:
        """Adds to the counted size of all stories; a negative number subtracts."""
        self._num_bytes += num_bytes
        self.metrics.bytes.set(self._num_bytes)

    def chunk_index_of(self, frame_index: int) -> int:
        """Returns the index of the chunk that holds a frame of a take."""
        geometry = self.pipeline.geometry
        first, later = geometry.chunk_num_frames(0), geometry.chunk_num_frames(1)
        return 0 if frame_index < first else 1 + (frame_index - first) // later

    def num_frames(self, num_chunks: int) -> int:
        """Returns the number of frames of a take of `num_chunks` chunks; 0 for 0 chunks."""
        return self.pipeline.geometry.shot_num_frames(num_chunks) if num_chunks else 0
