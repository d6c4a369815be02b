"""An open story: its viewers, the take that is being made, and how far it may be made.

The worker's alone. What people ask for is in controls.py, what they are shown in views.py; this is what
goes on by itself. A take in the making that no longer fits the story is dropped and, where it is still
wanted, made anew. A take is told finished when it is committed, not before; while disk or database take
nothing it is held, and tried again. A take whose files are damaged is made anew before it is looked at.
"""

import logging
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from shotstream.streaming.noise import shot_seed
from shotstream.studio.events import (
    Media,
    Message,
    Notice,
    Place,
    Playhead,
    Story,
    TakeEnded,
    TakeStarted,
    Telemetry,
)
from shotstream.studio.history import History, Wanted
from shotstream.studio.making import MadeChunk, Memories, StudioTools, TakeInMaking, TakeOrder, plan_context
from shotstream.studio.media import TakeDamaged
from shotstream.studio.mending import TakeLost, mend
from shotstream.studio.script import Script, TakeRecord, start_frames
from shotstream.studio.seat import Seat
from shotstream.studio.store import StoredStory
from shotstream.studio.trouble import explain, in_one_line, is_trouble
from shotstream.studio.views import making_state, story_state

_FPS_WINDOW_S = 5.0
_TRY_AGAIN_S = 5.0
_log = logging.getLogger(__name__)

RoomState = Literal["generating", "ahead", "idle", "paused", "full"]


class Room:
    """An open story."""

    def __init__(self, tools: StudioTools, stored: StoredStory) -> None:
        self.tools = tools
        self.history = History(tools.store, stored, tools.limits)
        self.memories = Memories(tools, stored.story_id)
        self.seats: dict[str, Seat] = {}
        self.making: TakeInMaking | None = None
        self.failures: dict[str, str] = {}
        self.replaced_takes: dict[str, str] = {}
        """Takes that a cut has shortened, and what they became: a page may still name the old one."""
        self.seen = set(self.history.takes)
        """Takes that a viewer has looked at; of an earlier run of the server, all."""
        self.revision = 0
        self.empty_since_s: float | None = time.monotonic()
        self._is_changed = True
        self._made: deque[tuple[float, int]] = deque()
        self._first_chunk_s: float | None = None
        self._told: dict[str, Telemetry] = {}
        self._held_until_s = 0.0
        self._to_mend: deque[str] = deque()
        self._mending: Generator[None, None, dict[str, TakeRecord]] | None = None

    @property
    def story_id(self) -> str:
        """Its story."""
        return self.history.story_id

    @property
    def script(self) -> Script:
        """The story now."""
        return self.history.script

    # Viewers.

    def sit(self, seat: Seat) -> None:
        """A viewer comes: it is told the story, and what has been made of the open take."""
        self.seats[seat.viewer_id] = seat
        self.empty_since_s = None
        seat.send(Story(story=story_state(self)))
        if self.making is not None:
            seat.send(TakeStarted(making=making_state(self, self.making)))
            for chunk in self.making.chunks:
                self._send_chunk(self.making, chunk, [seat])

    def leave(self, viewer_id: str) -> None:
        """A viewer goes."""
        self.seats.pop(viewer_id, None)
        self._told.pop(viewer_id, None)
        if not self.seats:
            self.empty_since_s = time.monotonic()

    def report(self, seat: Seat, playhead: Playhead) -> None:
        """A viewer tells where it is."""
        seat.reported_s = time.monotonic()
        seat.is_playing = playhead.playing
        self.tools.metrics.stalls.inc(max(0, playhead.stalls - seat.num_stalls))
        seat.num_stalls = max(seat.num_stalls, playhead.stalls)
        if playhead.at is None:
            return
        seat.place = playhead.at
        self.seen.add(playhead.at.take_id)
        film_frame = self.film_frame(playhead.at)
        if film_frame is not None:
            seat.film_frame = film_frame

    def film_frame(self, place: Place) -> int | None:
        """A place of the film; None: that take is not in it."""
        starts = start_frames(self.script, self.history.takes)
        making = self.making
        take_id = self.shown(place.take_id)
        if making is not None and take_id == making.take_id:
            return starts[making.order.index] + min(place.frame_index, making.num_frames)
        for index, card in enumerate(self.script.cards):
            if card.take_id == take_id:
                return min(starts[index] + place.frame_index, starts[index + 1])
        return None

    def shown(self, take_id: str) -> str:
        """What a take has become in the film, where a page may still name it as it was before it was cut."""
        film = self.script.film()
        while take_id not in film and take_id in self.replaced_takes:
            take_id = self.replaced_takes[take_id]
        return take_id

    def send(self, message: Message) -> None:
        """A message for every viewer."""
        text = message.model_dump_json()
        for seat in self.seats.values():
            seat.outbox.put(text)

    def flush(self) -> None:
        """Tells every viewer the story, if it has changed."""
        if self._is_changed:
            self._is_changed = False
            self.revision += 1
            self.send(Story(story=story_state(self)))

    def changed(self) -> None:
        """The story has changed; `flush` will tell."""
        self._is_changed = True

    # Making.

    def state(self, now_s: float) -> RoomState:
        """What goes on, and why nothing does."""
        if self.tools.troubles.get(self.story_id) and now_s < self._held_until_s:
            return "full"
        if self._to_mend or self.is_holding:
            return "generating"
        if not self.seats:
            return "paused"
        index = self.next_index()
        if index is None:
            return "idle"
        if self.making is None and self.tools.is_full():
            return "full"
        return "generating" if self._look_ahead(index, now_s) < self._most_ahead() else "ahead"

    def next_index(self) -> int | None:
        """The place of the shot that is made now, or next; None: nothing is asked for."""
        return self.index_after_this() if self.making is None else self.making.order.index

    def index_after_this(self) -> int | None:
        """The place of the shot that is made when the take in the making has ended; None: none is.

        Where one has failed, what comes after it is made only when it was asked for by name.
        """
        own = None if self.making is None else self.making.order.shot_id
        plays_on = self.history.autoplay
        for index, card in enumerate(self.script.cards):
            if card.shot_id == own:
                continue
            if card.shot_id in self.history.wanted:
                return index
            if plays_on and card.take_id is None:
                if card.shot_id not in self.failures:
                    return index
                plays_on = False
        return None

    def look_ahead(self, now_s: float) -> int:
        """Frames that are made in front of the slowest viewer."""
        starts = start_frames(self.script, self.history.takes)
        made = starts[-1]
        if self.making is not None:
            made = starts[self.making.order.index] + self.making.num_frames
        return max(0, made - self._slowest(now_s)) if self.seats else 0

    def advance(self) -> None:
        """Makes one chunk; the take's first one begins it, its last one ends it."""
        if self._to_mend:
            self._mend_on()
            return
        making = self.making or self._begin()
        if making is None:
            return
        if making.is_complete:  # It could not be kept before.
            self.end_take(making, making.num_made)
            return
        began_s = time.monotonic()
        try:
            chunk = making.make_chunk()
        except (ValueError, RuntimeError, OSError) as error:
            self.fail(making, error)
            return
        metrics = self.tools.metrics
        metrics.chunk_s.observe(time.monotonic() - began_s)
        metrics.chunks.inc()
        metrics.frames.inc(chunk.num_frames)
        self._made.append((time.monotonic(), chunk.num_frames))
        if chunk.chunk_index == 0:
            self._first_chunk_s = time.monotonic() - making.begun_s
            metrics.first_chunk_s.observe(self._first_chunk_s)
        self._send_chunk(making, chunk, list(self.seats.values()))
        if making.is_complete:
            self.end_take(making, making.num_made)

    def end_take(self, making: TakeInMaking, num_chunks: int) -> None:
        """Keeps the take in the making, as its shot's chosen one: a step of the story."""
        again = any(take.shot_id == making.order.shot_id for take in self.history.takes.values())
        label = f"{'Another take' if again else 'Take'} of shot {making.order.index + 1}"
        try:
            record = self.finish(making, num_chunks)
            self.commit(self.with_take(self.script, record), label, [record], ended=making)
        except (ValueError, RuntimeError, OSError, SQLAlchemyError) as error:
            if not is_trouble(error):
                self.fail(making, error)
                return
            self.hold(error)
        else:
            self.tools.troubles.pop(self.story_id, None)

    def finish(self, making: TakeInMaking, num_chunks: int) -> TakeRecord:
        """The record of the take in the making, whose files are then on disk; the caller commits it.

        Raises:
            OSError: They cannot be written. A take that is not complete is dropped then: its stream has
                ended, and it comes out the same when it is made again.
        """
        try:
            return making.finish(self.story_id, self.memories, num_chunks)
        except OSError:
            if not making.is_complete:
                self.discard()
            raise

    def with_take(self, script: Script, record: TakeRecord) -> Script:
        """The script with a take chosen, its card as the take was ordered."""
        index = script.index_of(record.shot_id)
        assert index is not None
        want = self.history.wanted.get(record.shot_id)
        card = replace(script.cards[index], take_id=record.take_id, caption=record.caption)
        if want is not None and want.num_chunks is not None:
            card = replace(card, num_chunks=want.num_chunks)
        if want is not None and want.seed is not None:
            card = replace(card, seed=want.seed)
        if record.was_cut:
            card = replace(card, num_chunks=record.num_chunks)
        return script.with_card(card)

    def mend(self, take_id: str) -> None:
        """Makes a take anew whose files are damaged, before anything else."""
        is_known = take_id in self.history.takes and take_id not in self.tools.lost
        if is_known and take_id not in self._to_mend:
            self._to_mend.append(take_id)
            self.changed()

    @property
    def is_mending(self) -> bool:
        """Whether damaged takes are being made anew."""
        return bool(self._to_mend)

    @property
    def is_holding(self) -> bool:
        """Whether a take is made, and waits until it can be kept."""
        return self.making is not None and self.making.is_complete

    def hold(self, error: BaseException) -> None:
        """Waits until disk and database take something again; nothing is lost meanwhile."""
        reason = explain(error)
        self._held_until_s = time.monotonic() + _TRY_AGAIN_S
        if self.tools.troubles.get(self.story_id) != reason:
            _log.error("story %s waits: %s", self.story_id, reason)
            self.tools.troubles[self.story_id] = reason
            self.send(Notice(code="storage", message=f"{reason}; what was made waits until it can be kept"))
        self.changed()

    def discard(self, outcome: Literal["discarded", "failed"] = "discarded") -> None:
        """Drops the take in the making."""
        if self.making is not None:
            making, self.making = self.making, None
            self.tools.troubles.pop(self.story_id, None)
            making.discard()
            self._tell_end(making, outcome, 0)
            self.changed()

    def fail(self, making: TakeInMaking, error: Exception) -> None:
        """Drops a take that could not be made; its shot says why, and waits."""
        _log.error("shot %s of story %s failed", making.order.shot_id, self.story_id, exc_info=error)
        self.making = making
        self.discard("failed")
        self._give_up(making.order.shot_id, in_one_line(error))

    def commit(
        self,
        script: Script,
        label: str,
        takes: Sequence[TakeRecord] = (),
        *,
        ended: TakeInMaking | None = None,
        autoplay: bool | None = None,
        wanted: dict[str, Wanted] | None = None,
    ) -> None:
        """A step of the story; a take in the making that no longer fits is dropped.

        Args:
            script: The story from now on.
            label: What was done, for the person.
            takes: What was finished with it; their files are on disk.
            ended: The take in the making, if it is one of them: its request is fulfilled, and it is told
                ended when it is committed.
            autoplay: As from now on; None: as it is.
            wanted: The shots that are asked for from now on; None: as they are.
        """
        if ended is not None and wanted is None:
            wanted = self._wanted_without(ended.order.shot_id)
        before = self.history.num_bytes
        try:
            self.history.commit(
                script, label, takes, autoplay=autoplay, wanted=wanted, may_grow=not self.tools.is_full()
            )
        except SQLAlchemyError:
            self._withdraw(takes)
            if ended is not None and not ended.is_complete:
                self.discard()  # See `finish`.
            raise
        self.tools.count_bytes(self.history.num_bytes - before + sum(take.num_bytes for take in takes))
        if ended is not None:
            self.making = None
            record = next(take for take in takes if take.take_id == ended.take_id)
            self._tell_end(ended, "cut" if record.was_cut else "finished", record.num_chunks)
        self.recheck()

    def recheck(self) -> None:
        """After a change of the story: drops a take in the making that no longer fits."""
        self.changed()
        if self.making is None:
            return
        index = self.script.index_of(self.making.order.shot_id)
        order = self.making.order
        if index is None or replace(self._order(index), pins=order.pins, context=order.context) != order:
            self.discard()

    def close(self) -> None:
        """Lets go of the take in the making; it comes out the same when it is made again."""
        self.discard()
        self.tools.troubles.pop(self.story_id, None)
        if self._mending is not None:
            self._mending.close()

    def telemetry(self, now_s: float, num_generating: int, queue_position: int) -> None:
        """Tells the viewers how it goes, where that has changed."""
        while self._made and self._made[0][0] < now_s - _FPS_WINDOW_S:
            self._made.popleft()
        fps = self.tools.pipeline.fps
        message = Telemetry(
            state=self.state(now_s),
            fps=round(sum(frames for _, frames in self._made) / _FPS_WINDOW_S, 1),
            num_generating=num_generating,
            queue_position=queue_position,
            look_ahead_s=round(self.look_ahead(now_s) / fps, 1),
            first_chunk_s=None if self._first_chunk_s is None else round(self._first_chunk_s, 3),
            num_viewers=len(self.seats),
        )
        for viewer_id, seat in self.seats.items():
            if self._told.get(viewer_id) != message:
                self._told[viewer_id] = message
                seat.send(message)

    def _begin(self) -> TakeInMaking | None:
        """The next take; None: what it looks at is damaged, and is made anew first."""
        index = self.next_index()
        assert index is not None, "advanced only while there is something to make"
        order = self._order(index)
        self.failures.pop(order.shot_id, None)
        try:
            making = TakeInMaking(self.tools, order, self.memories, self.history.takes)
        except TakeDamaged as error:
            _log.warning("story %s, take %s: %s", self.story_id, error.take_id, error)
            if error.take_id in self.tools.lost:
                self._give_up(order.shot_id, self.tools.lost[error.take_id])
            self.mend(error.take_id)
            return None
        except OSError as error:
            self.hold(error)
            return None
        except (ValueError, RuntimeError) as error:
            _log.error("shot %s of story %s failed", order.shot_id, self.story_id, exc_info=error)
            self._give_up(order.shot_id, in_one_line(error))
            return None
        self.making = making
        self.changed()
        self.flush()
        self.send(TakeStarted(making=making_state(self, self.making)))
        return self.making

    def _mend_on(self) -> None:
        take_id = self._to_mend[0]
        name = self._name_of(take_id)
        if self._mending is None:
            self._mending = mend(self.tools, self.story_id, take_id, self.memories, self.history.takes)
        try:
            next(self._mending)
            return
        except StopIteration as done:
            self.history.takes |= done.value
            self.send(
                Notice(
                    code="storage",
                    message=f"the files of {name} were damaged; they were made anew, as before",
                )
            )
        except TakeLost as error:
            message = f"the files of {name} are damaged: {error}; take that shot again"
            _log.error("story %s, take %s: %s", self.story_id, take_id, error)
            self.tools.lost[take_id] = message
            self.send(Notice(code="storage", message=message))
            index = self.next_index()
            if index is not None and take_id in self.script.film(index):
                self._give_up(self.script.cards[index].shot_id, message)
        except (OSError, SQLAlchemyError) as error:
            self._mending = None
            self.hold(error)
            return
        self.tools.troubles.pop(self.story_id, None)
        self._to_mend.popleft()
        self._mending = None
        self.changed()

    def _name_of(self, take_id: str) -> str:
        index = self.script.index_of(self.history.takes[take_id].shot_id)
        return "a take of a shot that was removed" if index is None else f"a take of shot {index + 1}"

    def _give_up(self, shot_id: str, message: str) -> None:
        """A shot waits for the person, and says why."""
        self.failures[shot_id] = message[:300]
        try:
            self.history.set_going(wanted=self._wanted_without(shot_id))
        except SQLAlchemyError as error:
            self.hold(error)
        self.changed()

    def _withdraw(self, takes: Sequence[TakeRecord]) -> None:
        """Deletes the files of takes that were not committed; where that is in doubt they stay."""
        with suppress(SQLAlchemyError, OSError):
            for take in takes:
                if self.tools.store.take(self.story_id, take.take_id) is None:
                    self.tools.media.delete_take(self.story_id, take.take_id)

    def _order(self, index: int) -> TakeOrder:
        card = self.script.cards[index]
        want = self.history.wanted.get(card.shot_id) or Wanted(shot_id=card.shot_id)
        seed = card.seed if want.seed is None else want.seed
        if seed is None and card.take_id is not None:
            seed = self.history.takes[card.take_id].seed
        return TakeOrder(
            shot_id=card.shot_id,
            index=index,
            caption=want.caption or card.caption,
            global_caption=self.script.global_caption,
            seed=shot_seed(self.history.seed, index) if seed is None else seed,
            num_chunks=want.num_chunks or card.num_chunks or self.tools.pipeline.num_chunks,
            before=self.script.film(index),
            pins=self.script.pins_before(index),
            context=plan_context(self.tools, self.script, index, self.history.takes),
        )

    def _wanted_without(self, shot_id: str) -> dict[str, Wanted]:
        return {key: want for key, want in self.history.wanted.items() if key != shot_id}

    def _most_ahead(self) -> int:
        return round(self.tools.limits.look_ahead_s * self.tools.pipeline.fps)

    def _look_ahead(self, index: int, now_s: float) -> int:
        """What counts against the limit: of a shot that was asked for by name, at most its own frames."""
        ahead = self.look_ahead(now_s)
        card = self.script.cards[index]
        if card.shot_id in self.history.wanted:
            return min(ahead, self.making.num_frames if self.making is not None else 0)
        return ahead

    def _slowest(self, now_s: float) -> int:
        silent_s = self.tools.limits.silent_s
        seats = [s for s in self.seats.values() if s.reported_s > now_s - silent_s]
        seats = seats or list(self.seats.values())
        return min(seat.film_frame for seat in [s for s in seats if s.is_playing] or seats)

    def _send_chunk(self, making: TakeInMaking, chunk: MadeChunk, seats: Sequence[Seat]) -> None:
        media = Media(
            take_id=making.take_id,
            shot_id=making.order.shot_id,
            chunk_index=chunk.chunk_index,
            has_header=chunk.chunk_index == 0,
            num_bytes=len(chunk.picture),
            frame_index=chunk.frame_index,
            num_frames=chunk.num_frames,
            film_frame=start_frames(self.script, self.history.takes)[making.order.index],
            is_last=chunk.chunk_index + 1 == making.order.num_chunks,
            frame_sha256=chunk.frame_sha256,
        )
        text = media.model_dump_json()
        for seat in seats:
            if not seat.outbox.put(text, chunk.picture):
                self.tools.metrics.dropped.inc()
                seat.send_dropped(media)

    def _tell_end(
        self, making: TakeInMaking, outcome: Literal["finished", "cut", "discarded", "failed"], num: int
    ) -> None:
        self.tools.metrics.takes.labels(outcome).inc()
        self.send(
            TakeEnded(take_id=making.take_id, shot_id=making.order.shot_id, outcome=outcome, num_chunks=num)
        )
