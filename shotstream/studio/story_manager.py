"""The manager of all stories: opens and closes them, and generates chunks for them in turn.

Used by the worker's thread alone; see worker.py for calls from other threads.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlalchemy.exc import SQLAlchemyError

from shotstream.studio.api_error import ApiError
from shotstream.studio.app_context import AppContext
from shotstream.studio.cast import CastEntry, StoredPicture, judged_picture
from shotstream.studio.checks import check_caption_length, check_cast, check_policy, new_shot_entry
from shotstream.studio.control_handlers import apply_control
from shotstream.studio.exporter import FilmSnapshot
from shotstream.studio.ids import new_id
from shotstream.studio.open_story import OpenStory
from shotstream.studio.schemas.server_messages import Done, Error, Hello, Notice
from shotstream.studio.schemas.state import LimitsState, NewShot, StoryState
from shotstream.studio.schemas.viewer_messages import AnyControl, CutShown, Playhead
from shotstream.studio.shot_list import ShotList, start_frames
from shotstream.studio.storage_errors import (
    explain_failure,
    is_full_disk,
    is_storage_failure,
    storage_api_error,
)
from shotstream.studio.story_state import model_state, story_state
from shotstream.studio.viewer import CLOSE_GOING_AWAY, CLOSE_NOT_FOUND, Outbox, Viewer

_TELEMETRY_S = 1.0
_log = logging.getLogger(__name__)


class StoryManager:
    """Creates, opens, deletes and closes stories; the open ones share the model, chunk by chunk."""

    def __init__(self, app: AppContext) -> None:
        self.app = app
        self.model = model_state(app)
        limits = asdict(app.limits)
        self.limits = LimitsState(**{name: limits[name] for name in LimitsState.model_fields})
        # In the order in which they generate next.
        self._stories: dict[str, OpenStory] = {}
        self._telemetry_s = 0.0

    # Stories.

    def create_story(
        self,
        title: str,
        global_caption: str,
        shots: Sequence[NewShot],
        *,
        seed: int,
        autoplay: bool,
        cast: Sequence[CastEntry] = (),
        images: Mapping[str, str] | None = None,
        context_policy: str | None = None,
    ) -> StoryState:
        """Creates a story and returns its state.

        Args:
            title: Its title.
            global_caption: Caption of all shots.
            shots: Its shots.
            seed: Seed of the story.
            autoplay: Whether it is generated without a request.
            cast: Its references.
            images: Their pictures, as data URIs by their ids.
            context_policy: Name of the policy that chooses the context of its shots; None: the model's.

        Raises:
            ApiError: A limit is exceeded, a caption cites what is no reference, or the model cannot use the
                policy.
        """
        limits = self.app.limits
        policy = context_policy or self.app.pipeline.context_policy
        check_policy(policy, self.app.pipeline)
        check_caption_length(global_caption, limits)
        if len(shots) > limits.shots:
            raise ApiError("limit", f"{len(shots)} shots; a story has at most {limits.shots} here")
        if self.app.store.num_stories() >= limits.stories:
            raise ApiError(
                "limit", f"there are {limits.stories} stories, as many as this server keeps; delete some"
            )
        entries = tuple(new_shot_entry(shot, limits) for shot in shots)
        story_id = new_id()
        shot_list = ShotList(
            title=title,
            global_caption=global_caption,
            shots=entries,
            cast=tuple(cast),
            context_policy=policy,
        )
        check_cast(shot_list, {}, self.app.pipeline.context_budget)
        if len(cast) > limits.references:
            raise ApiError("limit", f"{len(cast)} references; a story has at most {limits.references} here")
        pictures = {image: judged_picture(image, self.app.pipeline) for image in (images or {}).values()}
        try:
            num_bytes = self.app.store.create_story(
                story_id, shot_list, seed=seed, autoplay=autoplay, pictures=pictures
            )
        except SQLAlchemyError as error:
            raise storage_api_error(error) from error
        self.app.add_stored_bytes(num_bytes)
        return self.story_state(story_id)

    def story_state(self, story_id: str) -> StoryState:
        """Returns the complete state of a story; raises ApiError if there is none."""
        return story_state(self._get(story_id))

    def film_snapshot(self, story_id: str) -> FilmSnapshot:
        """Returns the film of a story for an export; raises ApiError if there is none."""
        story = self._get(story_id)
        return FilmSnapshot(
            story_id=story_id,
            seed=story.history.seed,
            shot_list=story.shot_list,
            takes=dict(story.history.takes),
        )

    def delete_story(self, story_id: str) -> None:
        """Deletes a story and its files.

        The files are marked first: a crash at any moment leaves the story intact, or the next start completes
        the deletion. On a full disk the files are deleted before the database is written, which needs free
        space.

        Raises:
            ApiError: There is no such story, or disk or database cannot be written.
        """
        story = self._get(story_id)
        media, store = self.app.media, self.app.store
        try:
            media.mark_deleted(story_id)
            try:
                store.delete_story(story_id)
            except SQLAlchemyError as error:
                if not is_full_disk(error):
                    media.unmark_deleted(story_id)
                    raise
                media.delete_marked_takes(story_id)
                store.delete_story(story_id)
        except (OSError, SQLAlchemyError) as error:
            _log.error("story %s cannot be deleted: %s", story_id, explain_failure(error))
            raise storage_api_error(error) from error
        for viewer in story.viewers.values():
            viewer.send(Notice(code="deleted", message="this story was deleted"))
            viewer.outbox.close(CLOSE_NOT_FOUND)
        story.viewers.clear()
        story.close()
        self._stories.pop(story_id, None)
        stored = (*story.history.takes.values(), *story.history.pictures.values())
        self.app.add_stored_bytes(-sum(one.num_bytes for one in stored) - story.history.num_bytes)
        try:
            media.delete_marked_story(story_id)
        except OSError as error:
            _log.error(
                "the files of story %s will be deleted at the next start: %s",
                story_id,
                explain_failure(error),
            )

    def add_picture(self, story_id: str, image: str) -> StoredPicture:
        """Stores a picture of a story, a data URI at the model's size, for its references.

        Raises:
            ApiError: There is no such story, or no space for it.
        """
        story, picture = self._get(story_id), judged_picture(image, self.app.pipeline)
        if picture.picture_id in story.history.pictures:
            return picture
        if self.app.is_quota_reached():
            raise ApiError("quota", "the storage quota is used up; delete a story first")
        try:
            story.history.add_picture(picture, image)
        except SQLAlchemyError as error:
            raise storage_api_error(error) from error
        self.app.add_stored_bytes(picture.num_bytes)
        return picture

    def repair_take(self, story_id: str, take_id: str) -> None:
        """Starts the repair of a corrupt take; raises ApiError if a repair has failed before."""
        if take_id in self.app.unrecoverable_takes:
            raise ApiError("failed", self.app.unrecoverable_takes[take_id])
        story = self._stories.get(story_id)
        if story is None:
            self._close_unwatched(self.app.limits.open_stories - 1)
            story = self._stories[story_id] = self._load(story_id)
        story.repair_take(take_id)

    # Viewers.

    def add_viewer(self, story_id: str, viewer_id: str, outbox: Outbox) -> Viewer:
        """Adds a viewer to a story; raises ApiError if there is no such story, or a limit is reached."""
        limits = self.app.limits
        story = self._stories.get(story_id)
        if story is None:
            story = self._load(story_id)
            busy = [key for key, other in self._stories.items() if other.viewers]
            if len(busy) >= limits.open_stories:
                raise ApiError(
                    "busy", f"{len(busy)} stories are open, as many as this server allows; try again later"
                )
            self._close_unwatched(limits.open_stories - 1)
            self._stories[story_id] = story
        if len(story.viewers) >= limits.viewers_per_story:
            raise ApiError(
                "busy",
                f"{len(story.viewers)} viewers watch this story, as many as it allows; try again later",
            )
        viewer = Viewer(
            viewer_id=viewer_id,
            outbox=outbox,
            playhead_frame=start_frames(story.shot_list, story.history.takes)[-1],
            reported_s=time.monotonic(),
        )
        viewer.send(Hello(viewer_id=viewer.viewer_id, model=self.model, limits=self.limits))
        if any(t.weights_sha256 != self.app.pipeline.weights_sha256 for t in story.history.takes.values()):
            viewer.send(
                Notice(
                    code="weights_changed",
                    message="some takes were generated by another model; new shots remember their "
                    "frames, but may look different",
                )
            )
        story.send_changes()
        story.add_viewer(viewer)
        self._update_gauges()
        return viewer

    def remove_viewer(self, story_id: str, viewer_id: str) -> None:
        """Removes a viewer, if the story has it."""
        story = self._stories.get(story_id)
        if story is not None and viewer_id in story.viewers:
            story.remove_viewer(viewer_id)
            story.send_changes()
        self._update_gauges()

    def handle_control(self, story_id: str, viewer: Viewer, control: AnyControl) -> None:
        """Carries out a viewer's control, and sends it `done` or `error`."""
        story = self._stories.get(story_id)
        if story is None or viewer.viewer_id not in story.viewers:
            return  # The story was deleted or the viewer has gone: nobody waits for an answer.
        try:
            effect = apply_control(control, story)
        except ApiError as refusal:
            story.send_changes()
            self._answer(viewer, Error(reply_to=control.id, code=refusal.code, message=str(refusal)))
        except (ValueError, RuntimeError, OSError, SQLAlchemyError) as error:
            if is_storage_failure(error):
                _log.error("control %s of story %s: %s", control.type, story_id, explain_failure(error))
                story.send_changes()
                refusal = storage_api_error(error)
                self._answer(viewer, Error(reply_to=control.id, code=refusal.code, message=str(refusal)))
                return
            _log.exception("control %s of story %s failed", control.type, story_id)
            self._reload(story_id)
            message = "internal server error; see the server's log; the story did not change"
            self._answer(viewer, Error(reply_to=control.id, code="failed", message=message))
        else:
            story.send_changes()
            self._answer(viewer, Done(reply_to=control.id, effect=effect))

    def handle_report(self, story_id: str, viewer: Viewer, report: Playhead | CutShown) -> None:
        """Stores a viewer's report."""
        story = self._stories.get(story_id)
        if isinstance(report, CutShown):
            self.app.metrics.cut_s.observe(report.cut_s)
        elif story is not None and viewer.viewer_id in story.viewers:
            story.update_playhead(viewer, report)

    # The worker's loop.

    def make_next_chunk(self) -> bool:
        """Generates one chunk of the next story in turn; returns False if no story generates now."""
        now_s = time.monotonic()
        for story_id, story in list(self._stories.items()):
            if story.state(now_s) != "generating":
                continue
            # Its next turn comes after those of all others.
            self._stories[story_id] = self._stories.pop(story_id)
            try:
                story.make_chunk()
                story.send_changes()
            except (ValueError, RuntimeError, OSError, SQLAlchemyError) as error:
                if is_storage_failure(error):
                    self._stories[story_id].wait_for_storage(error)
                    continue
                _log.exception("story %s failed", story_id)
                self._reload(story_id)
            return True
        return False

    def do_housekeeping(self) -> None:
        """Sends telemetry, closes stories that nobody watches any more, and shrinks the database."""
        now_s = time.monotonic()
        if now_s - self._telemetry_s < _TELEMETRY_S:
            return
        self._telemetry_s = now_s
        running = [
            story_id for story_id, story in self._stories.items() if story.state(now_s) == "generating"
        ]
        for story_id, story in self._stories.items():
            position = running.index(story_id) if story_id in running else len(running)
            story.send_telemetry(now_s, len(running), position)
        for story_id, story in list(self._stories.items()):
            empty_s = story.empty_since_s
            is_busy = story.is_repairing or story.is_waiting_for_storage
            if not (is_busy or empty_s is None or now_s - empty_s <= self.app.limits.linger_s):
                self._close_story(story_id)
        try:
            self.app.store.shrink()
        except SQLAlchemyError as error:
            _log.debug("the database cannot be shrunk now: %s", explain_failure(error))

    def shutdown_summary(self) -> str:
        """Returns one line for the user about what is stored at shutdown."""
        num_held = sum(story.is_waiting_for_storage for story in self._stories.values())
        reasons = self.app.storage_failures()
        if not reasons:
            return "every finished shot is safe"
        held = (
            f"{num_held} finished shots could not be stored and have to be made again: " if num_held else ""
        )
        return f"{held}storage failed at the end: {reasons[0]}"

    def close(self) -> None:
        """Tells all viewers that the server shuts down, and closes all stories."""
        if not self._stories:
            return
        message = f"the server shuts down; {self.shutdown_summary()}"
        for story_id, story in list(self._stories.items()):
            for viewer in story.viewers.values():
                viewer.send(Notice(code="closing", message=message))
                viewer.outbox.close(CLOSE_GOING_AWAY)
            story.viewers.clear()
            self._close_story(story_id)

    def _answer(self, viewer: Viewer, answer: Done | Error) -> None:
        self.app.metrics.controls.labels(answer.type).inc()
        viewer.send(answer)

    def _get(self, story_id: str) -> OpenStory:
        return self._stories.get(story_id) or self._load(story_id)

    def _load(self, story_id: str) -> OpenStory:
        try:
            stored = self.app.store.load_story(story_id)
        except SQLAlchemyError as error:
            raise ApiError("storage", explain_failure(error)) from error
        if stored is None:
            raise ApiError("not_found", "there is no such story")
        return OpenStory(self.app, stored)

    def _reload(self, story_id: str) -> None:
        """Loads a story again after an internal error, for the same viewers, with an empty queue."""
        story = self._stories[story_id]
        story.discard_job("failed")
        try:
            stored = self.app.store.load_story(story_id)
            assert stored is not None, "an open story is in the database"
            fresh = OpenStory(self.app, stored)
            fresh.history.set_queue(autoplay=False, queue={})
        except SQLAlchemyError as error:
            story.wait_for_storage(error)
            return
        fresh.viewers, fresh.revision, fresh.seen = story.viewers, story.revision, story.seen
        fresh.replaced_takes = story.replaced_takes
        fresh.empty_since_s = story.empty_since_s
        self._stories[story_id] = fresh
        fresh.send_changes()

    def _close_unwatched(self, most: int) -> None:
        """Closes stories without viewers, the longest unwatched first, until at most `most` are open."""
        empty = [
            (story.empty_since_s or 0.0, story_id)
            for story_id, story in self._stories.items()
            if not story.viewers and not story.is_repairing
        ]
        for _, story_id in sorted(empty)[: max(0, len(self._stories) - most)]:
            self._close_story(story_id)

    def _close_story(self, story_id: str) -> None:
        self._stories.pop(story_id).close()
        self._update_gauges()

    def _update_gauges(self) -> None:
        self.app.metrics.stories.set(sum(bool(story.viewers) for story in self._stories.values()))
        self.app.metrics.viewers.set(sum(len(story.viewers) for story in self._stories.values()))
