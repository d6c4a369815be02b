"""All open stories, and whose turn it is: they share the model chunk by chunk, each in its turn.

The worker's alone; see worker.py for how others talk to it.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy.exc import SQLAlchemyError

from shotstream.studio import controls
from shotstream.studio.events import (
    AnyControl,
    CutShown,
    Done,
    Error,
    Hello,
    LimitsState,
    ModelState,
    NewShot,
    Notice,
    Playhead,
    StoryState,
)
from shotstream.studio.exports import FilmView
from shotstream.studio.making import StudioTools
from shotstream.studio.refusal import Refusal
from shotstream.studio.room import Room
from shotstream.studio.script import Script, start_frames
from shotstream.studio.seat import GONE, NOT_FOUND, Outbox, Seat
from shotstream.studio.store import new_id
from shotstream.studio.trouble import explain, is_full_disk, is_trouble, refusal_of
from shotstream.studio.views import story_state

_TELEMETRY_S = 1.0
_log = logging.getLogger(__name__)


class Studio:
    """The open stories."""

    def __init__(self, tools: StudioTools) -> None:
        self.tools = tools
        self.model = _model_state(tools)
        told = asdict(tools.limits)
        self.limits = LimitsState(**{name: told[name] for name in LimitsState.model_fields})
        # In the order of their turns.
        self._rooms: dict[str, Room] = {}
        self._told_s = 0.0

    # Stories.

    def create(
        self, title: str, global_caption: str, shots: Sequence[NewShot], *, seed: int, autoplay: bool
    ) -> StoryState:
        """A new story; Refusal beyond a limit."""
        limits = self.tools.limits
        controls.check_text(global_caption, limits)
        if len(shots) > limits.shots:
            raise Refusal("limit", f"{len(shots)} shots; a story has at most {limits.shots} here")
        if self.tools.store.num_stories() >= limits.stories:
            raise Refusal(
                "limit", f"there are {limits.stories} stories; this server keeps no more: delete some"
            )
        cards = tuple(controls.new_card(shot, limits) for shot in shots)
        story_id = new_id()
        script = Script(title=title, global_caption=global_caption, cards=cards)
        try:
            num_bytes = self.tools.store.create(story_id, script, seed=seed, autoplay=autoplay)
        except SQLAlchemyError as error:
            raise refusal_of(error) from error
        self.tools.count_bytes(num_bytes)
        return self.show(story_id)

    def show(self, story_id: str) -> StoryState:
        """A story as it is; Refusal when there is none."""
        return story_state(self._peek(story_id))

    def film(self, story_id: str) -> FilmView:
        """What an export is made from; Refusal when there is no such story."""
        room = self._peek(story_id)
        return FilmView(
            story_id=story_id, seed=room.history.seed, script=room.script, takes=dict(room.history.takes)
        )

    def delete(self, story_id: str) -> None:
        """Deletes a story and its files; Refusal when there is none, or when the disk keeps it.

        The files are marked first: an end at any moment leaves the story whole, or lets the next start finish
        its deletion. On a full disk they make the room that the database needs to forget the story.
        """
        room = self._peek(story_id)
        media, store = self.tools.media, self.tools.store
        try:
            media.condemn(story_id)
            try:
                store.delete(story_id)
            except SQLAlchemyError as error:
                if not is_full_disk(error):
                    media.pardon(story_id)
                    raise
                media.empty(story_id)
                store.delete(story_id)
        except (OSError, SQLAlchemyError) as error:
            _log.error("story %s cannot be deleted: %s", story_id, explain(error))
            raise refusal_of(error) from error
        for seat in room.seats.values():
            seat.send(Notice(code="deleted", message="this story was deleted"))
            seat.outbox.close(NOT_FOUND)
        room.seats.clear()
        room.close()
        self._rooms.pop(story_id, None)
        num_bytes = sum(take.num_bytes for take in room.history.takes.values())
        self.tools.count_bytes(-num_bytes - room.history.num_bytes)
        try:
            media.delete_story(story_id)
        except OSError as error:
            _log.error("files of story %s are deleted at the next start: %s", story_id, explain(error))

    def mend(self, story_id: str, take_id: str) -> None:
        """Makes a take anew whose files are damaged; Refusal when it was tried in vain."""
        if take_id in self.tools.lost:
            raise Refusal("failed", self.tools.lost[take_id])
        room = self._rooms.get(story_id)
        if room is None:
            self._evict(self.tools.limits.open_stories - 1)
            room = self._rooms[story_id] = self._load(story_id)
        room.mend(take_id)

    # Viewers.

    def attach(self, story_id: str, viewer_id: str, outbox: Outbox) -> Seat:
        """A viewer comes; Refusal when there is no such story, or too much is open."""
        limits = self.tools.limits
        room = self._rooms.get(story_id)
        if room is None:
            room = self._load(story_id)
            busy = [key for key, other in self._rooms.items() if other.seats]
            if len(busy) >= limits.open_stories:
                raise Refusal(
                    "busy", f"{len(busy)} stories are open, as many as this server takes; try again"
                )
            self._evict(limits.open_stories - 1)
            self._rooms[story_id] = room
        if len(room.seats) >= limits.viewers_per_story:
            raise Refusal("busy", f"{len(room.seats)} viewers are here, as many as a story takes; try again")
        seat = Seat(
            viewer_id=viewer_id,
            outbox=outbox,
            film_frame=start_frames(room.script, room.history.takes)[-1],
            reported_s=time.monotonic(),
        )
        seat.send(Hello(viewer_id=seat.viewer_id, model=self.model, limits=self.limits))
        if any(t.weights_sha256 != self.tools.pipeline.weights_sha256 for t in room.history.takes.values()):
            seat.send(
                Notice(
                    code="weights_changed",
                    message="the model has changed since some of these takes were made; new shots look back "
                    "at their pictures, but will not come out as they would have",
                )
            )
        room.flush()
        room.sit(seat)
        self._count()
        return seat

    def detach(self, story_id: str, viewer_id: str) -> None:
        """A viewer goes, if it was there."""
        room = self._rooms.get(story_id)
        if room is not None and viewer_id in room.seats:
            room.leave(viewer_id)
            room.flush()
        self._count()

    def control(self, story_id: str, seat: Seat, control: AnyControl) -> None:
        """Carries out what a viewer asks for, and answers."""
        room = self._rooms.get(story_id)
        if room is None or seat.viewer_id not in room.seats:
            return  # The story was deleted, or the viewer is gone: nobody waits for an answer.
        try:
            effect = controls.apply(control, room)
        except Refusal as refusal:
            room.flush()
            self._answer(seat, Error(reply_to=control.id, code=refusal.code, message=str(refusal)))
        except (ValueError, RuntimeError, OSError, SQLAlchemyError) as error:
            if is_trouble(error):
                _log.error("control %s of story %s: %s", control.type, story_id, explain(error))
                room.flush()
                refusal = refusal_of(error)
                self._answer(seat, Error(reply_to=control.id, code=refusal.code, message=str(refusal)))
                return
            _log.exception("control %s of story %s failed", control.type, story_id)
            self._reload(story_id)
            message = "a fault of the server, which its log tells; the story is as it was before"
            self._answer(seat, Error(reply_to=control.id, code="failed", message=message))
        else:
            room.flush()
            self._answer(seat, Done(reply_to=control.id, effect=effect))

    def report(self, story_id: str, seat: Seat, report: Playhead | CutShown) -> None:
        """A viewer tells how it fares."""
        room = self._rooms.get(story_id)
        if isinstance(report, CutShown):
            self.tools.metrics.cut_s.observe(report.cut_s)
        elif room is not None and seat.viewer_id in room.seats:
            room.report(seat, report)

    # The worker's round.

    def turn(self) -> bool:
        """Makes one chunk of the story whose turn it is; False: nothing may be made now."""
        now_s = time.monotonic()
        for story_id, room in list(self._rooms.items()):
            if room.state(now_s) != "generating":
                continue
            # Last again in the order of turns.
            self._rooms[story_id] = self._rooms.pop(story_id)
            try:
                room.advance()
                room.flush()
            except (ValueError, RuntimeError, OSError, SQLAlchemyError) as error:
                if is_trouble(error):
                    self._rooms[story_id].hold(error)
                    continue
                _log.exception("story %s failed", story_id)
                self._reload(story_id)
            return True
        return False

    def tidy(self) -> None:
        """Tells how it goes, and lets go of stories that nobody has watched for a while."""
        now_s = time.monotonic()
        if now_s - self._told_s < _TELEMETRY_S:
            return
        self._told_s = now_s
        running = [story_id for story_id, room in self._rooms.items() if room.state(now_s) == "generating"]
        for story_id, room in self._rooms.items():
            position = running.index(story_id) if story_id in running else len(running)
            room.telemetry(now_s, len(running), position)
        for story_id, room in list(self._rooms.items()):
            empty_s = room.empty_since_s
            is_busy = room.is_mending or room.is_holding
            if not (is_busy or empty_s is None or now_s - empty_s <= self.tools.limits.linger_s):
                self._let_go(story_id)
        try:
            self.tools.store.shrink()
        except SQLAlchemyError as error:
            _log.debug("the database does not shrink now: %s", explain(error))

    def farewell(self) -> str:
        """What is safe when the server ends, which is not all while disk or database keep nothing."""
        num_held = sum(room.is_holding for room in self._rooms.values())
        reasons = self.tools.health()
        if not reasons:
            return "every finished shot is safe"
        held = f"{num_held} shots that waited to be kept have to be made again: " if num_held else ""
        return f"{held}nothing could be kept at the end: {reasons[0]}"

    def close(self) -> None:
        """The server ends."""
        if not self._rooms:
            return
        message = f"the server ends; {self.farewell()}"
        for story_id, room in list(self._rooms.items()):
            for seat in room.seats.values():
                seat.send(Notice(code="closing", message=message))
                seat.outbox.close(GONE)
            room.seats.clear()
            self._let_go(story_id)

    def _answer(self, seat: Seat, answer: Done | Error) -> None:
        self.tools.metrics.controls.labels(answer.type).inc()
        seat.send(answer)

    def _peek(self, story_id: str) -> Room:
        return self._rooms.get(story_id) or self._load(story_id)

    def _load(self, story_id: str) -> Room:
        try:
            stored = self.tools.store.load(story_id)
        except SQLAlchemyError as error:
            raise Refusal("storage", explain(error)) from error
        if stored is None:
            raise Refusal("not_found", "there is no such story")
        return Room(self.tools, stored)

    def _reload(self, story_id: str) -> None:
        """After a fault: the story as the database has it, for the same viewers; nothing is asked for."""
        room = self._rooms[story_id]
        room.discard("failed")
        try:
            stored = self.tools.store.load(story_id)
            assert stored is not None, "an open story is in the database"
            fresh = Room(self.tools, stored)
            fresh.history.set_going(autoplay=False, wanted={})
        except SQLAlchemyError as error:
            room.hold(error)
            return
        fresh.seats, fresh.revision, fresh.seen = room.seats, room.revision, room.seen
        fresh.replaced_takes = room.replaced_takes
        fresh.empty_since_s = room.empty_since_s
        self._rooms[story_id] = fresh
        fresh.flush()

    def _evict(self, most: int) -> None:
        """Lets go of stories without viewers, the longest empty first, until there are few enough."""
        empty = [
            (room.empty_since_s or 0.0, story_id)
            for story_id, room in self._rooms.items()
            if not room.seats and not room.is_mending
        ]
        for _, story_id in sorted(empty)[: max(0, len(self._rooms) - most)]:
            self._let_go(story_id)

    def _let_go(self, story_id: str) -> None:
        self._rooms.pop(story_id).close()
        self._count()

    def _count(self) -> None:
        self.tools.metrics.stories.set(sum(bool(room.seats) for room in self._rooms.values()))
        self.tools.metrics.viewers.set(sum(len(room.seats) for room in self._rooms.values()))


def _model_state(tools: StudioTools) -> ModelState:
    pipeline = tools.pipeline
    return ModelState(
        model_id=pipeline.model_id,
        family=pipeline.family,
        weights_sha256=pipeline.weights_sha256,
        fps=pipeline.fps,
        width_px=pipeline.pixel_size.width,
        height_px=pipeline.pixel_size.height,
        scale=tools.scale,
        mime=tools.mime,
        num_chunks=pipeline.num_chunks,
        first_chunk_frames=pipeline.geometry.chunk_num_frames(0),
        chunk_frames=pipeline.geometry.chunk_num_frames(1),
        context_frames=pipeline.engine.context_budget,
    )
