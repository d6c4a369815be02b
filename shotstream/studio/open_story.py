"""An open story: its viewers, the take that is being generated, its commits and repairs.

Used by the worker's thread alone. control_handlers.py carries out controls, schedule.py chooses the next
shot, and story_state.py builds the state that viewers are sent. A job whose inputs have changed is discarded
and, if its shot is still wanted, started again. Viewers are told that a take is finished only after it is
committed. While disk or database cannot be written, a complete take waits, and storing it is tried again. A
corrupt take is repaired before it conditions a shot.
"""

import logging
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from shotstream.studio import schedule
from shotstream.studio.app_context import AppContext
from shotstream.studio.context_cache import ContextCache
from shotstream.studio.history import History, QueuedTake
from shotstream.studio.media_store import CorruptTakeError
from shotstream.studio.repair import UnrecoverableTakeError, repair_take
from shotstream.studio.schemas.base import Message
from shotstream.studio.schemas.server_messages import Media, Notice, Story, TakeEnded, TakeStarted, Telemetry
from shotstream.studio.schemas.state import Place
from shotstream.studio.schemas.viewer_messages import Playhead
from shotstream.studio.shot_list import ShotList, start_frames
from shotstream.studio.storage_errors import explain_failure, is_storage_failure, one_line_reason
from shotstream.studio.story_state import job_state, story_state
from shotstream.studio.story_store import StoredStory
from shotstream.studio.take_job import EncodedChunk, TakeJob
from shotstream.studio.take_record import TakeRecord
from shotstream.studio.viewer import Viewer

_FPS_WINDOW_S = 5.0
_RETRY_S = 5.0
_log = logging.getLogger(__name__)

GenerationState = Literal["generating", "ahead", "idle", "paused", "full"]


class OpenStory:
    """A story that is loaded: it has viewers, generates takes, or was used a moment ago."""

    def __init__(self, app: AppContext, stored: StoredStory) -> None:
        self.app = app
        self.history = History(app.store, stored, app.limits)
        self.cache = ContextCache(app, stored.story_id)
        self.viewers: dict[str, Viewer] = {}
        self.job: TakeJob | None = None
        self.failures: dict[str, str] = {}
        self.replaced_takes: dict[str, str] = {}
        """Id of the new take, by id of a take that a cut shortened. Viewers may still name the old one."""
        self.steered_at: dict[str, QueuedTake] = {}
        """The take that a `steer` changed, as it was asked for before, by the id of the history's step."""
        self.seen = set(self.history.takes)
        """Ids of takes that a viewer has watched, and of all takes of earlier runs of the server."""
        self.revision = 0
        self.empty_since_s: float | None = time.monotonic()
        self._has_changed = True
        self._recent_chunks: deque[tuple[float, int]] = deque()
        self._first_chunk_s: float | None = None
        self._last_telemetry: dict[str, Telemetry] = {}
        self._retry_storage_s = 0.0
        self._repair_queue: deque[str] = deque()
        self._repair: Generator[None, None, dict[str, TakeRecord]] | None = None

    @property
    def story_id(self) -> str:
        """The id of the story."""
        return self.history.story_id

    @property
    def shot_list(self) -> ShotList:
        """The current shot list."""
        return self.history.shot_list

    @property
    def unsteered(self) -> QueuedTake | None:
        """The take in the making, or the next one, as it was before the last change, if that steered it."""
        before = self.steered_at.get(self.history.step_id)
        if before is None:
            return None
        is_making = self.job is not None and self.job.request.shot_id == before.shot_id
        return before if is_making or before.shot_id in self.history.queue else None

    # Viewers.

    def add_viewer(self, viewer: Viewer) -> None:
        """Adds a viewer, and sends it the story and the chunks of the running job."""
        self.viewers[viewer.viewer_id] = viewer
        self.empty_since_s = None
        viewer.send(Story(story=story_state(self)))
        if self.job is not None:
            viewer.send(TakeStarted(making=job_state(self, self.job)))
            for chunk in self.job.chunks:
                self._send_chunk(self.job, chunk, [viewer])

    def remove_viewer(self, viewer_id: str) -> None:
        """Removes a viewer."""
        self.viewers.pop(viewer_id, None)
        self._last_telemetry.pop(viewer_id, None)
        if not self.viewers:
            self.empty_since_s = time.monotonic()

    def update_playhead(self, viewer: Viewer, playhead: Playhead) -> None:
        """Stores the playback position that a viewer reported."""
        viewer.reported_s = time.monotonic()
        viewer.is_playing = playhead.playing
        self.app.metrics.stalls.inc(max(0, playhead.stalls - viewer.num_stalls))
        viewer.num_stalls = max(viewer.num_stalls, playhead.stalls)
        if playhead.at is None:
            return
        viewer.playhead = playhead.at
        self.seen.add(playhead.at.take_id)
        film_frame = self.film_frame(playhead.at)
        if film_frame is not None:
            viewer.playhead_frame = film_frame

    def film_frame(self, place: Place) -> int | None:
        """Returns the film frame of a frame of a take; None if the take is not in the film."""
        starts = start_frames(self.shot_list, self.history.takes)
        job = self.job
        take_id = self.current_take_id(place.take_id)
        if job is not None and take_id == job.take_id:
            return starts[job.request.index] + min(place.frame_index, job.num_frames)
        for index, shot in enumerate(self.shot_list.shots):
            if shot.take_id == take_id:
                return min(starts[index] + place.frame_index, starts[index + 1])
        return None

    def current_take_id(self, take_id: str) -> str:
        """Returns the id of the take that replaced a take after cuts; `take_id` itself if none did."""
        film = self.shot_list.take_ids()
        while take_id not in film and take_id in self.replaced_takes:
            take_id = self.replaced_takes[take_id]
        return take_id

    def send(self, message: Message) -> None:
        """Sends a message to all viewers."""
        text = message.model_dump_json()
        for viewer in self.viewers.values():
            viewer.outbox.put(text)

    def send_changes(self) -> None:
        """Sends the story to all viewers if it has changed."""
        if self._has_changed:
            self._has_changed = False
            self.revision += 1
            self.send(Story(story=story_state(self)))

    def mark_changed(self) -> None:
        """Marks the story as changed, for the next `send_changes`."""
        self._has_changed = True

    # Generation.

    def state(self, now_s: float) -> GenerationState:
        """Returns whether the story generates, or why it does not; see `Telemetry.state`."""
        if self.app.storage_problems.get(self.story_id) and now_s < self._retry_storage_s:
            return "full"
        if self._repair_queue or self.is_waiting_for_storage:
            return "generating"
        if not self.viewers:
            return "paused"
        index = schedule.next_index(self)
        if index is None:
            return "idle"
        if self.job is None and self.app.is_quota_reached():
            return "full"
        return "ahead" if schedule.is_far_ahead(self, index, now_s) else "generating"

    def make_chunk(self) -> None:
        """Generates one chunk; starts a job if none is running, and finishes it with its last chunk."""
        if self._repair_queue:
            self._continue_repair()
            return
        job = self.job or self._start_job()
        if job is None:
            return
        if job.is_complete:  # Storing it failed before.
            self.finish_take(job, job.num_made)
            return
        began_s = time.monotonic()
        try:
            chunk = job.make_chunk()
        except (ValueError, RuntimeError, OSError) as error:
            self.fail_job(job, error)
            return
        metrics = self.app.metrics
        metrics.chunk_s.observe(time.monotonic() - began_s)
        metrics.chunks.inc()
        metrics.frames.inc(chunk.num_frames)
        self._recent_chunks.append((time.monotonic(), chunk.num_frames))
        if chunk.chunk_index == 0:
            self._first_chunk_s = time.monotonic() - job.started_s
            metrics.first_chunk_s.observe(self._first_chunk_s)
        self._send_chunk(job, chunk, list(self.viewers.values()))
        if job.is_complete:
            self.finish_take(job, job.num_made)

    def finish_take(self, job: TakeJob, num_chunks: int) -> None:
        """Stores the take of a job and chooses it for its shot, as one step of the history."""
        again = any(take.shot_id == job.request.shot_id for take in self.history.takes.values())
        label = f"{'Another take' if again else 'Take'} of shot {job.request.index + 1}"
        try:
            record = self.save_take(job, num_chunks)
            self.commit(self.history.with_take(self.shot_list, record), label, [record], ended_job=job)
        except (ValueError, RuntimeError, OSError, SQLAlchemyError) as error:
            if not is_storage_failure(error):
                self.fail_job(job, error)
                return
            self.wait_for_storage(error)
        else:
            self.app.storage_problems.pop(self.story_id, None)

    def save_take(self, job: TakeJob, num_chunks: int) -> TakeRecord:
        """Writes the files of a job's take, and returns its record, which the caller commits.

        Raises:
            OSError: A file cannot be written. An incomplete job is discarded then, because its generation has
                ended; the same seed gives the same frames again.
        """
        try:
            return job.save(self.story_id, self.cache, num_chunks)
        except OSError:
            if not job.is_complete:
                self.discard_job()
            raise

    def repair_take(self, take_id: str) -> None:
        """Queues a repair of a corrupt take. Repairs come before generation."""
        is_known = take_id in self.history.takes and take_id not in self.app.unrecoverable_takes
        if is_known and take_id not in self._repair_queue:
            self._repair_queue.append(take_id)
            self.mark_changed()

    @property
    def is_repairing(self) -> bool:
        """Whether corrupt takes are being repaired."""
        return bool(self._repair_queue)

    @property
    def is_waiting_for_storage(self) -> bool:
        """Whether a complete take waits to be stored."""
        return self.job is not None and self.job.is_complete

    def wait_for_storage(self, error: BaseException) -> None:
        """Pauses the story until storing is tried again; nothing is lost meanwhile."""
        reason = explain_failure(error)
        self._retry_storage_s = time.monotonic() + _RETRY_S
        if self.app.storage_problems.get(self.story_id) != reason:
            _log.error("story %s waits: %s", self.story_id, reason)
            self.app.storage_problems[self.story_id] = reason
            self.send(
                Notice(code="storage", message=f"{reason}; the finished take waits until it can be stored")
            )
        self.mark_changed()

    def discard_job(self, outcome: Literal["discarded", "failed"] = "discarded") -> None:
        """Discards the running job, if there is one."""
        if self.job is not None:
            job, self.job = self.job, None
            self.app.storage_problems.pop(self.story_id, None)
            job.close()
            self._send_take_ended(job, outcome, 0)
            self.mark_changed()

    def fail_job(self, job: TakeJob, error: Exception) -> None:
        """Discards a job that failed, and shows the reason at its shot."""
        _log.error("shot %s of story %s failed", job.request.shot_id, self.story_id, exc_info=error)
        self.job = job
        self.discard_job("failed")
        self._fail_shot(job.request.shot_id, one_line_reason(error))

    def commit(
        self,
        shot_list: ShotList,
        label: str,
        takes: Sequence[TakeRecord] = (),
        *,
        ended_job: TakeJob | None = None,
        autoplay: bool | None = None,
        queue: dict[str, QueuedTake] | None = None,
    ) -> None:
        """Commits a change as a step of the history, and discards a job whose inputs have changed.

        Args:
            shot_list: The new shot list.
            label: The change, for the user.
            takes: New takes, whose files are on disk.
            ended_job: The running job, if its take is among `takes`. Viewers are told that it has ended.
            autoplay: The new value; None: unchanged.
            queue: The new queue; None: unchanged, without the shot of `ended_job`.
        """
        if ended_job is not None and queue is None:
            queue = self._queue_without(ended_job.request.shot_id)
        before = self.history.num_bytes
        try:
            self.history.commit(
                shot_list,
                label,
                takes,
                autoplay=autoplay,
                queue=queue,
                may_grow=not self.app.is_quota_reached(),
            )
        except SQLAlchemyError:
            self._delete_uncommitted(takes)
            if ended_job is not None and not ended_job.is_complete:
                self.discard_job()  # Its generation has ended; see `save_take`.
            raise
        self.app.add_stored_bytes(self.history.num_bytes - before + sum(take.num_bytes for take in takes))
        if ended_job is not None:
            self.job = None
            record = next(take for take in takes if take.take_id == ended_job.take_id)
            self._send_take_ended(ended_job, "cut" if record.was_cut else "finished", record.num_chunks)
        self.discard_outdated_job()

    def discard_outdated_job(self) -> None:
        """Marks the story as changed, and discards the running job if its inputs have changed."""
        self.mark_changed()
        if self.job is not None and schedule.is_outdated(self, self.job.request):
            self.discard_job()

    def close(self) -> None:
        """Discards the running job and ends a running repair."""
        self.discard_job()
        self.app.storage_problems.pop(self.story_id, None)
        if self._repair is not None:
            self._repair.close()

    def send_telemetry(self, now_s: float, num_generating: int, queue_position: int) -> None:
        """Sends each viewer the telemetry, if it has changed."""
        while self._recent_chunks and self._recent_chunks[0][0] < now_s - _FPS_WINDOW_S:
            self._recent_chunks.popleft()
        fps = self.app.pipeline.fps
        message = Telemetry(
            state=self.state(now_s),
            fps=round(sum(frames for _, frames in self._recent_chunks) / _FPS_WINDOW_S, 1),
            num_generating=num_generating,
            queue_position=queue_position,
            look_ahead_s=round(schedule.look_ahead(self, now_s) / fps, 1),
            first_chunk_s=None if self._first_chunk_s is None else round(self._first_chunk_s, 3),
            num_viewers=len(self.viewers),
        )
        for viewer_id, viewer in self.viewers.items():
            if self._last_telemetry.get(viewer_id) != message:
                self._last_telemetry[viewer_id] = message
                viewer.send(message)

    def _start_job(self) -> TakeJob | None:
        """Starts the next job; None if it cannot start now, for example while a take needs a repair."""
        index = schedule.next_index(self)
        assert index is not None, "called only while there is something to generate"
        shot_id = self.shot_list.shots[index].shot_id
        self.failures.pop(shot_id, None)
        try:
            request = schedule.take_request(self, index)
            job = TakeJob(self.app, request, self.cache, self.history.takes)
        except CorruptTakeError as error:
            _log.warning("story %s, take %s: %s", self.story_id, error.take_id, error)
            if error.take_id in self.app.unrecoverable_takes:
                self._fail_shot(shot_id, self.app.unrecoverable_takes[error.take_id])
            self.repair_take(error.take_id)
            return None
        except OSError as error:
            self.wait_for_storage(error)
            return None
        except (ValueError, RuntimeError) as error:
            _log.error("shot %s of story %s failed", shot_id, self.story_id, exc_info=error)
            self._fail_shot(shot_id, one_line_reason(error))
            return None
        self.job = job
        self.mark_changed()
        self.send_changes()
        self.send(TakeStarted(making=job_state(self, self.job)))
        return self.job

    def _continue_repair(self) -> None:
        take_id = self._repair_queue[0]
        name = self._take_name(take_id)
        if self._repair is None:
            self._repair = repair_take(self.app, self.story_id, take_id, self.cache, self.history.takes)
        try:
            next(self._repair)
            return
        except StopIteration as done:
            self.history.takes |= done.value
            self.send(
                Notice(
                    code="storage",
                    message=f"the files of {name} were damaged and have been repaired; no frame has changed",
                )
            )
        except UnrecoverableTakeError as error:
            message = f"the files of {name} are damaged: {error}; generate the shot again"
            _log.error("story %s, take %s: %s", self.story_id, take_id, error)
            self.app.unrecoverable_takes[take_id] = message
            self.send(Notice(code="storage", message=message))
            index = schedule.next_index(self)
            if index is not None and take_id in self.shot_list.take_ids(index):
                self._fail_shot(self.shot_list.shots[index].shot_id, message)
        except (OSError, SQLAlchemyError) as error:
            self._repair = None
            self.wait_for_storage(error)
            return
        self.app.storage_problems.pop(self.story_id, None)
        self._repair_queue.popleft()
        self._repair = None
        self.mark_changed()

    def _take_name(self, take_id: str) -> str:
        index = self.shot_list.index_of(self.history.takes[take_id].shot_id)
        return "a take of a shot that was removed" if index is None else f"a take of shot {index + 1}"

    def _fail_shot(self, shot_id: str, message: str) -> None:
        """Marks a shot as failed, and removes it from the queue."""
        self.failures[shot_id] = message[:300]
        try:
            self.history.set_queue(queue=self._queue_without(shot_id))
        except SQLAlchemyError as error:
            self.wait_for_storage(error)
        self.mark_changed()

    def _delete_uncommitted(self, takes: Sequence[TakeRecord]) -> None:
        """Deletes the files of takes that are not in the database; keeps them if it does not answer."""
        with suppress(SQLAlchemyError, OSError):
            for take in takes:
                if self.app.store.get_take(self.story_id, take.take_id) is None:
                    self.app.media.delete_take(self.story_id, take.take_id)

    def _queue_without(self, shot_id: str) -> dict[str, QueuedTake]:
        return {key: queued for key, queued in self.history.queue.items() if key != shot_id}

    def _send_chunk(self, job: TakeJob, chunk: EncodedChunk, viewers: Sequence[Viewer]) -> None:
        media = Media(
            take_id=job.take_id,
            shot_id=job.request.shot_id,
            chunk_index=chunk.chunk_index,
            has_header=chunk.chunk_index == 0,
            num_bytes=len(chunk.data),
            frame_index=chunk.frame_index,
            num_frames=chunk.num_frames,
            film_frame=start_frames(self.shot_list, self.history.takes)[job.request.index],
            is_last=chunk.chunk_index + 1 == job.request.num_chunks,
            frame_sha256=chunk.frame_sha256,
        )
        text = media.model_dump_json()
        for viewer in viewers:
            if not viewer.outbox.put(text, chunk.data):
                self.app.metrics.dropped.inc()
                viewer.send_dropped(media)

    def _send_take_ended(
        self, job: TakeJob, outcome: Literal["finished", "cut", "discarded", "failed"], num: int
    ) -> None:
        self.app.metrics.takes.labels(outcome).inc()
        self.send(
            TakeEnded(take_id=job.take_id, shot_id=job.request.shot_id, outcome=outcome, num_chunks=num)
        )
