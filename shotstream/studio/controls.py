"""What people ask for: each control applied to an open story, and the chunk at which it takes effect."""

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch

from shotstream.streaming.context_sampling import max_pins
from shotstream.streaming.noise import derive_seed
from shotstream.studio import events
from shotstream.studio.events import AnyControl, Effect, NewShot, Place
from shotstream.studio.history import Wanted
from shotstream.studio.limits import Limits
from shotstream.studio.making import shorten_take
from shotstream.studio.media import TakeDamaged
from shotstream.studio.refusal import Refusal
from shotstream.studio.room import Room
from shotstream.studio.script import Card, PinnedFrame, Script, TakeRecord, first_difference, stale_reasons
from shotstream.studio.script import start_frames as starts_of
from shotstream.studio.store import new_id

_LABEL_CHARS = 40


@singledispatch
def apply(control: AnyControl, room: Room) -> Effect:  # noqa: ARG001 (each control has its own)
    """Carries out a control; says where it takes effect.

    What is kept of it is one transaction; what follows from it in memory comes after.

    Raises:
        Refusal: It cannot be carried out; the story is as it was.
        OSError, SQLAlchemyError: It could not be kept; the story is as it was.
    """
    raise AssertionError(f"no such control: {control}")


def new_card(shot: NewShot, limits: Limits) -> Card:
    """The card of a shot that was asked for; Refusal beyond a limit."""
    check_text(shot.caption, limits)
    check_length(shot.num_chunks, limits)
    return Card(
        shot_id=new_id(),
        caption=shot.caption,
        num_chunks=shot.num_chunks,
        seed=None if shot.seed is None else int(shot.seed),
    )


def check_text(text: str, limits: Limits) -> None:
    """Refusal when a caption is too long."""
    if len(text) > limits.caption_chars:
        raise Refusal("limit", f"{len(text)} characters; a caption has at most {limits.caption_chars} here")


def check_length(num_chunks: int | None, limits: Limits) -> None:
    """Refusal when a shot is too long."""
    if num_chunks is not None and num_chunks > limits.chunks_per_shot:
        raise Refusal("limit", f"{num_chunks} chunks; a shot has at most {limits.chunks_per_shot} here")


@apply.register
def _(control: events.AddShot, room: Room) -> Effect:
    card = new_card(control.shot, room.tools.limits)
    script = _inserted(room, room.script, card, control.index)
    room.commit(script, f"Add {_shorten(card.caption)}")
    return _at_shot(room, card.shot_id)


@apply.register
def _(control: events.EditShot, room: Room) -> Effect:
    index, card = _card(room, control.shot_id)
    if control.caption is not None:
        check_text(control.caption, room.tools.limits)
        card = replace(card, caption=control.caption)
    if control.num_chunks is not None:
        check_length(control.num_chunks, room.tools.limits)
        card = replace(card, num_chunks=control.num_chunks)
    if control.seed is not None:
        card = replace(card, seed=int(control.seed))
    room.commit(room.script.with_card(card), f"Edit shot {index + 1}")
    _try_again(room, card.shot_id)
    return _at_shot(room, card.shot_id)


@apply.register
def _(control: events.RemoveShot, room: Room) -> Effect:
    index, card = _card(room, control.shot_id)
    cards = tuple(c for c in room.script.cards if c.shot_id != card.shot_id)
    room.commit(replace(room.script, cards=cards), f"Remove shot {index + 1}")
    _try_again(room, card.shot_id)
    return _at(room, index)


@apply.register
def _(control: events.MoveShot, room: Room) -> Effect:
    index, card = _card(room, control.shot_id)
    cards = [c for c in room.script.cards if c.shot_id != card.shot_id]
    cards.insert(control.index, card)
    room.commit(replace(room.script, cards=tuple(cards)), f"Move shot {index + 1}")
    return _at(room, min(index, control.index))


@apply.register
def _(control: events.MakeShot, room: Room) -> Effect:
    index, card = _card(room, control.shot_id)
    if card.take_id is not None and not stale_reasons(room.script, index, room.history.takes):
        raise Refusal("refused", f"shot {index + 1} is made; take it again for another take")
    before = [c for c in room.script.cards[:index] if c.take_id is None]
    _want(room, *(Wanted(shot_id=c.shot_id) for c in (*before, card)))
    return _at_shot(room, card.shot_id)


@apply.register
def _(control: events.Retake, room: Room) -> Effect:
    index, card = _card(room, control.shot_id)
    if card.take_id is None:
        raise Refusal("refused", f"shot {index + 1} has no take yet; make it first")
    if control.caption is not None:
        check_text(control.caption, room.tools.limits)
    check_length(control.num_chunks, room.tools.limits)
    used = {take.seed for take in room.history.takes.values() if take.shot_id == card.shot_id}
    seed = room.history.takes[card.take_id].seed if control.seed is None else int(control.seed)
    while control.seed is None and seed in used:
        seed = derive_seed(seed, "retake")
    _want(
        room,
        Wanted(shot_id=card.shot_id, caption=control.caption, num_chunks=control.num_chunks, seed=seed),
    )
    if room.making is not None and room.making.order.shot_id == card.shot_id:
        room.discard()
    return _at_shot(room, card.shot_id)


@apply.register
def _(control: events.RemakeStale, room: Room) -> Effect:
    del control
    script, takes = room.script, room.history.takes
    stale = [i for i in range(len(script.cards)) if stale_reasons(script, i, takes)]
    if not stale:
        raise Refusal("refused", "no shot is stale")
    # Making one changes what comes after it, which is then stale in its turn and has to be made as well.
    later = [card for card in script.cards[stale[0] :] if card.take_id is not None]
    _want(room, *(Wanted(shot_id=card.shot_id) for card in later))
    return _at(room, stale[0])


@apply.register
def _(control: events.ChooseTake, room: Room) -> Effect:
    index, card = _card(room, control.shot_id)
    take = room.history.takes.get(control.take_id)
    if take is None or take.shot_id != card.shot_id:
        raise Refusal("not_found", f"shot {index + 1} has no such take")
    chosen = replace(
        card, take_id=take.take_id, caption=take.caption, seed=take.seed, num_chunks=take.num_chunks
    )
    wanted = {key: want for key, want in room.history.wanted.items() if key != card.shot_id}
    room.commit(room.script.with_card(chosen), f"Choose a take of shot {index + 1}", wanted=wanted)
    if room.making is not None and room.making.order.shot_id == card.shot_id:
        room.discard()
    _try_again(room, card.shot_id)
    return _at_shot(room, card.shot_id)


@apply.register
def _(control: events.Cut, room: Room) -> Effect:
    added = None if control.shot is None else new_card(control.shot, room.tools.limits)
    if added is not None:
        _check_room_for_shots(room, room.script)
    index, keep = _playing(room, control.playing)
    script, ended, record = room.script, None, None
    card = script.cards[index]
    old = None if card.take_id is None else room.history.takes[card.take_id]
    if room.making is not None and room.making.order.index == index:
        ended = room.making
        record = room.finish(ended, keep)
        script = room.with_take(script, record)
    elif old is not None and keep < old.num_chunks:
        record = _shortened(room, old, keep)
        script = script.with_card(replace(card, take_id=record.take_id, num_chunks=keep))
    seen = room.seen if record is None else room.seen | {record.take_id}
    if added is not None:
        script = _inserted(room, script, added, index + 1)
    if record is not None or added is not None:
        unseen = [
            replace(c, take_id=None) if c.take_id is not None and c.take_id not in seen else c
            for c in script.cards[index + 1 :]
        ]
        script = replace(script, cards=(*script.cards[: index + 1], *unseen))
    wanted = {key: want for key, want in room.history.wanted.items() if ended is None or key != card.shot_id}
    following = script.cards[index + 1 : index + 2]
    if following and following[0].take_id is None:
        wanted[following[0].shot_id] = Wanted(shot_id=following[0].shot_id)
        _try_again(room, following[0].shot_id)
    if script == room.script:
        room.history.set_going(wanted=wanted)
        room.changed()
        return _at(room, index + 1)
    records = [] if record is None else [record]
    room.commit(script, f"Cut shot {index + 1}", records, ended=ended, wanted=wanted)
    room.seen = seen
    if record is not None and ended is None and old is not None:
        room.replaced_takes[old.take_id] = record.take_id
        room.discard()
    return _at(room, index + 1)


@apply.register
def _(control: events.Stop, room: Room) -> Effect:
    del control
    making = room.making
    if making is None or making.num_made == 0:
        index = room.next_index()
        room.history.set_going(autoplay=False, wanted={})
        room.discard()
        room.changed()
        return _at(room, len(room.script.cards) if index is None else index)
    num_made = making.num_made
    record = room.finish(making, num_made)
    script = room.with_take(room.script, record)
    label = f"Stop in shot {making.order.index + 1}"
    room.commit(script, label, [record], ended=making, autoplay=False, wanted={})
    return _at(room, making.order.index, num_made)


@apply.register
def _(control: events.SetAutoplay, room: Room) -> Effect:
    room.history.set_going(autoplay=control.on)
    room.changed()
    return _at_next(room)


@apply.register
def _(control: events.EditStory, room: Room) -> Effect:
    old = room.script
    script = old
    if control.title is not None:
        script = replace(script, title=control.title)
    if control.global_caption is not None:
        check_text(control.global_caption, room.tools.limits)
        script = replace(script, global_caption=control.global_caption)
    if script == old:
        return _at(room, len(old.cards))
    room.commit(script, "Edit the story")
    return _at(room, first_difference(old, script))


@apply.register
def _(control: events.Undo, room: Room) -> Effect:
    del control
    if room.making is not None:
        index = room.making.order.index
        room.history.set_going(autoplay=False, wanted={})
        room.discard()
        return _at(room, index)
    return _travelled(room, room.history.undo)


@apply.register
def _(control: events.Redo, room: Room) -> Effect:
    del control
    return _travelled(room, room.history.redo)


@apply.register
def _(control: events.Branch, room: Room) -> Effect:
    script = room.script
    if control.shot_id is not None:
        index, _ = _card(room, control.shot_id)
        script = replace(script, cards=script.cards[: index + 1])
    if len(room.history.branches) >= room.tools.limits.branches:
        raise Refusal("limit", f"a story has at most {room.tools.limits.branches} branches here")
    _check_quota(room)
    name = control.name or f"Branch {len(room.history.branches) + 1}"
    return _travelled(room, lambda: room.history.begin_branch(script, name))


@apply.register
def _(control: events.SwitchBranch, room: Room) -> Effect:
    if control.branch_id not in room.history.branches:
        raise Refusal("not_found", "this story has no such branch")
    return _travelled(room, lambda: room.history.switch(control.branch_id))


@apply.register
def _(control: events.Pin, room: Room) -> Effect:
    engine, script, frame = room.tools.pipeline.engine, room.script, control.frame
    most = max_pins(engine.config.context_policy, engine.context_budget)
    if len(script.pins) >= most:
        raise Refusal("limit", f"the memory takes {most} pinned frames; unpin one first")
    if frame.take_id not in script.film():
        raise Refusal("not_found", "the film has no such take")
    if frame.frame_index >= room.history.takes[frame.take_id].num_frames:
        raise Refusal("not_found", "that take has no such frame")
    if any((p.take_id, p.frame_index) == (frame.take_id, frame.frame_index) for p in script.pins):
        raise Refusal("refused", "that frame is pinned already")
    pin = PinnedFrame(pin_id=new_id(), take_id=frame.take_id, frame_index=frame.frame_index)
    room.commit(replace(script, pins=(*script.pins, pin)), "Pin a frame")
    return _at_next(room)


@apply.register
def _(control: events.Unpin, room: Room) -> Effect:
    pins = tuple(pin for pin in room.script.pins if pin.pin_id != control.pin_id)
    if len(pins) == len(room.script.pins):
        raise Refusal("not_found", "this story has no such pin")
    room.commit(replace(room.script, pins=pins), "Unpin a frame")
    return _at_next(room)


def _travelled(room: Room, travel: Callable[[], None]) -> Effect:
    """Another script is shown: where it first differs from the one before."""
    before, num_bytes = room.script, room.history.num_bytes
    travel()
    room.discard()
    room.tools.count_bytes(room.history.num_bytes - num_bytes)
    room.failures.clear()
    room.recheck()
    return _at(room, first_difference(before, room.script))


def _playing(room: Room, place: Place | None) -> tuple[int, int]:
    """(The shot that is playing, its chunks up to and with the one that is playing)."""
    making, cards = room.making, room.script.cards
    take_id = None if place is None else room.shown(place.take_id)
    if place is not None and making is not None and take_id == making.take_id and making.num_made:
        room.seen.add(making.take_id)
        return making.order.index, min(room.tools.chunk_of(place.frame_index) + 1, making.num_made)
    if place is not None:
        for index, card in enumerate(cards):
            if card.take_id is not None and card.take_id == take_id:
                room.seen.add(card.take_id)
                most = room.history.takes[card.take_id].num_chunks
                return index, min(room.tools.chunk_of(place.frame_index) + 1, most)
        if take_id in room.history.takes:
            raise Refusal("refused", "what was playing is not in the film any more; look at it anew, and cut")
        if making is None or take_id != making.take_id:
            raise Refusal("not_found", "this story has no such take")
    if making is not None and making.num_made:
        return making.order.index, making.num_made
    made = [i for i, card in enumerate(cards[: making.order.index if making else None]) if card.take_id]
    if not made:
        raise Refusal("refused", "nothing is made yet that could be cut")
    last = cards[made[-1]].take_id
    assert last is not None
    return made[-1], room.history.takes[last].num_chunks


def _shortened(room: Room, old: TakeRecord, num_chunks: int) -> TakeRecord:
    _check_quota(room)
    try:
        return shorten_take(room.tools, room.story_id, room.memories, old, num_chunks)
    except TakeDamaged as error:
        room.mend(old.take_id)
        raise Refusal(
            "busy", "that shot's files are damaged and are made anew now; try again soon"
        ) from error


def _check_quota(room: Room) -> None:
    if room.tools.is_full():
        raise Refusal("quota", "all stories together take as much room as they may here; delete one first")


def _try_again(room: Room, shot_id: str) -> None:
    """What had failed may be made again."""
    room.failures.pop(shot_id, None)


def _inserted(room: Room, script: Script, card: Card, index: int | None) -> Script:
    _check_room_for_shots(room, script)
    cards = list(script.cards)
    cards.insert(len(cards) if index is None else index, card)
    return replace(script, cards=tuple(cards))


def _check_room_for_shots(room: Room, script: Script) -> None:
    if len(script.cards) >= room.tools.limits.shots:
        raise Refusal("limit", f"a story has at most {room.tools.limits.shots} shots here")


def _want(room: Room, *wants: Wanted) -> None:
    room.history.set_going(wanted={**room.history.wanted, **{want.shot_id: want for want in wants}})
    for want in wants:
        _try_again(room, want.shot_id)
    room.changed()


def _card(room: Room, shot_id: str) -> tuple[int, Card]:
    index = room.script.index_of(shot_id)
    if index is None:
        raise Refusal("not_found", "the film has no such shot")
    return index, room.script.cards[index]


def _at_shot(room: Room, shot_id: str) -> Effect:
    index = room.script.index_of(shot_id)
    assert index is not None
    return _at(room, index)


def _at_next(room: Room) -> Effect:
    index = room.index_after_this()
    return _at(room, len(room.script.cards) if index is None else index)


def _at(room: Room, index: int, chunk_index: int = 0) -> Effect:
    """The effect at a chunk of the shot at `index`, which may be one past the last."""
    cards, making = room.script.cards, room.making
    index = min(index, len(cards))
    film_frame = starts_of(room.script, room.history.takes)[index] + room.tools.num_frames(chunk_index)
    if making is not None and making.order.index < index and cards[making.order.index].take_id is None:
        film_frame += room.tools.num_frames(making.order.num_chunks)
    return Effect(
        shot_id=cards[index].shot_id if index < len(cards) else None,
        shot_index=index,
        chunk_index=chunk_index,
        film_frame=film_frame,
    )


def _shorten(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _LABEL_CHARS else words[: _LABEL_CHARS - 1].rstrip() + "…"
