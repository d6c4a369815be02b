"""What a page is shown of an open story."""

from typing import TYPE_CHECKING

from shotstream.streaming.context_sampling import max_pins
from shotstream.studio.events import (
    BranchState,
    ContextFrame,
    Making,
    PinState,
    ShotState,
    ShotStatus,
    StoryState,
    TakeState,
)
from shotstream.studio.making import TakeInMaking, plan_context
from shotstream.studio.script import MemoryFrame, TakeRecord, stale_reasons, start_frames

if TYPE_CHECKING:
    from shotstream.studio.room import Room


def story_state(room: "Room") -> StoryState:
    """The story, whole."""
    history, script = room.history, room.script
    engine = room.tools.pipeline.engine
    film = script.film()
    return StoryState(
        story_id=room.story_id,
        revision=room.revision,
        title=script.title,
        global_caption=script.global_caption,
        seed=str(history.seed),
        autoplay=history.autoplay,
        branch_id=history.branch.branch_id,
        branches=tuple(
            BranchState(
                branch_id=branch_id,
                name=history.branches[branch_id].name,
                num_shots=len(branch_script.cards),
            )
            for branch_id, branch_script in history.scripts().items()
        ),
        shots=shot_states(room),
        pins=tuple(
            PinState(
                pin_id=pin.pin_id,
                take_id=pin.take_id,
                frame_index=pin.frame_index,
                is_used=pin.take_id in film,
            )
            for pin in script.pins
        ),
        max_pins=max_pins(engine.config.context_policy, engine.context_budget),
        making=None if room.making is None else making_state(room, room.making),
        memory=_memory(room),
        undo=f"Take of shot {room.making.order.index + 1} in the making"
        if room.making is not None
        else history.undo_label,
        redo=history.redo_label,
        num_frames=start_frames(script, history.takes)[-1],
        num_bytes=sum(take.num_bytes for take in history.takes.values()),
    )


def shot_states(room: "Room") -> tuple[ShotState, ...]:
    """The strip."""
    script, takes = room.script, room.history.takes
    starts = start_frames(script, takes)
    takes_of: dict[str, list[TakeRecord]] = {}
    for take in takes.values():
        takes_of.setdefault(take.shot_id, []).append(take)
    states: list[ShotState] = []
    for index, card in enumerate(script.cards):
        reasons = stale_reasons(script, index, takes)
        states.append(
            ShotState(
                shot_id=card.shot_id,
                caption=card.caption,
                num_chunks=card.num_chunks,
                seed=None if card.seed is None else str(card.seed),
                status=_status(room, index, bool(reasons)),
                stale_reasons=reasons,
                failure=room.failures.get(card.shot_id),
                take_id=card.take_id,
                film_frame=None if card.take_id is None else starts[index],
                takes=tuple(take_state(room, take) for take in takes_of.get(card.shot_id, ())),
            )
        )
    return tuple(states)


def take_state(room: "Room", take: TakeRecord) -> TakeState:
    """A finished take."""
    return TakeState(
        take_id=take.take_id,
        caption=take.caption,
        seed=str(take.seed),
        num_chunks=take.num_chunks,
        num_frames=take.num_frames,
        was_cut=take.was_cut,
        weights_match=take.weights_sha256 == room.tools.pipeline.weights_sha256,
        created_at=take.created_at,
        context=_frames(room, take.context),
    )


def making_state(room: "Room", making: TakeInMaking) -> Making:
    """The take in the making."""
    order = making.order
    return Making(
        take_id=making.take_id,
        shot_id=order.shot_id,
        shot_index=order.index,
        num_chunks=order.num_chunks,
        num_made=making.num_made,
        film_frame=start_frames(room.script, room.history.takes)[order.index],
        context=_frames(room, order.context),
    )


def _memory(room: "Room") -> tuple[ContextFrame, ...]:
    if room.making is not None:
        return _frames(room, room.making.order.context)
    index = room.next_index()
    index = len(room.script.cards) if index is None else index
    return _frames(room, plan_context(room.tools, room.script, index, room.history.takes))


def _frames(room: "Room", frames: tuple[MemoryFrame, ...]) -> tuple[ContextFrame, ...]:
    return tuple(
        ContextFrame(
            take_id=frame.take_id,
            shot_id=room.history.takes[frame.take_id].shot_id,
            frame_index=frame.frame_index,
            pin_id=frame.pin_id,
            shot_phase=frame.shot_phase,
        )
        for frame in frames
    )


def _status(room: "Room", index: int, is_stale: bool) -> ShotStatus:
    card = room.script.cards[index]
    if room.making is not None and room.making.order.shot_id == card.shot_id:
        return "generating"
    if card.shot_id in room.failures:
        return "failed"
    if card.shot_id in room.history.wanted or (card.take_id is None and room.history.autoplay):
        return "queued"
    if card.take_id is None:
        return "waiting"
    return "stale" if is_stale else "done"
