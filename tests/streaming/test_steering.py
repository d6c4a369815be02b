"""Steering: another caption for a running shot, and what each mode makes of the chunks before it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shotstream.diffusion.schedule import FlowSchedule
from shotstream.model.dual_cache import KeysValues
from shotstream.model.positions import context_positions
from shotstream.story import Steer, StoryError
from shotstream.streaming.conditioning import Conditioning
from shotstream.streaming.noise import KeyedNoise
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.rollout import Rollout
from shotstream.streaming.session import StorySession
from shotstream.streaming.steering import (
    BLEND_CHUNKS,
    CaptionSwitch,
    SteeredCaptions,
    Steering,
    SwitchFunction,
)
from tests.params import first
from tests.streaming.tiny import (
    LATENT_SIZE,
    tiny_cache,
    tiny_conditioning,
    tiny_config,
    tiny_dit,
    tiny_pipeline,
    tiny_text,
)

SIGMAS = FlowSchedule().student_sigmas()
NOISE = KeyedNoise(
    seeds=(5,), shape=(4, 3, *(LATENT_SIZE.height, LATENT_SIZE.width)), device=torch.device("cpu")
)


def switching(at: int, text: Tensor, *, recache: bool) -> SwitchFunction:
    """Another caption from one chunk on."""
    cache = DIT.text_cache(text)
    return lambda chunk: CaptionSwitch(cache, recache) if chunk == at else None


DIT = tiny_dit(tiny_config(window_chunks=3))
NEW = tiny_text(DIT.config, num_captions=1, seed=9)


def roll(num_chunks: int, switches: SwitchFunction | None = None) -> tuple[Rollout, list[Tensor]]:
    rollout = Rollout(
        DIT,
        tiny_conditioning(DIT.config),
        tiny_text(DIT.config),
        tiny_cache(DIT),
        NOISE,
        SIGMAS,
        switches=switches,
    )
    with torch.no_grad():
        return rollout, list(rollout.chunks(num_chunks))


def stored(rollout: Rollout) -> list[Tensor]:
    """All keys and values of a rollout's cache, of the context and of the window."""
    layers = rollout._cache.layers  # pyright: ignore[reportPrivateUsage]
    return [part for layer in layers if isinstance(layer, KeysValues) for part in layer]


@torch.no_grad()
def by_hand(chunks: list[Tensor], at: int) -> Tensor:
    """Chunk `at` after its window was committed under the new caption, one chunk after the other."""
    conditioning, cache = tiny_conditioning(DIT.config), tiny_cache(DIT)
    context = conditioning.context
    level = torch.zeros(1, 3)
    DIT(context, level, tiny_text(DIT.config), conditioning.positions, cache=cache, write="global")
    window = range(max(0, at - (DIT.config.window_chunks - 1)), at)
    cache.reset_local(window.start)
    for index in window:
        place = conditioning.chunk(index, DIT.config)
        DIT(chunks[index], level, NEW, place, cache=cache, write="local")
    place = conditioning.chunk(at, DIT.config)
    x = NOISE(at, 0)
    for step, sigma in enumerate(SIGMAS):
        velocity = DIT(x, sigma.expand(1, 3), NEW, place, cache=cache)
        x0 = (x.double() - sigma.double() * velocity.double()).float()
        if step + 1 < len(SIGMAS):
            x = (1 - SIGMAS[step + 1]) * x0 + SIGMAS[step + 1] * NOISE(at, step + 1)
    return x0


@pytest.mark.parametrize("at", [1, 2, 3, 4, 6])
def test_recache_commits_the_window_again_under_the_new_caption(at: int) -> None:
    """Within the window of 3 chunks, at its edge, and beyond it."""
    _, plain = roll(at + 1)
    _, steered = roll(at + 1, switching(at, NEW, recache=True))
    assert all(torch.equal(a, b) for a, b in zip(plain[:at], steered[:at], strict=True))
    assert torch.allclose(steered[at], by_hand(plain, at), atol=1e-5)
    assert not torch.allclose(steered[at], plain[at], atol=1e-3)


def test_keep_changes_the_caption_and_no_key_of_the_window() -> None:
    _, plain = roll(3)
    kept, steered = roll(3, switching(2, NEW, recache=False))
    recached, other = roll(3, switching(2, NEW, recache=True))
    assert not torch.allclose(steered[2], plain[2], atol=1e-3)
    assert not torch.allclose(steered[2], other[2], atol=1e-3)
    size = tiny_cache(DIT).token_grid.num_tokens * 3
    for one, two in zip(stored(kept), stored(recached), strict=True):
        assert torch.equal(one[:, :size], two[:, :size]), "the context stays"
    # The keys of the first layer are made before any token has read a caption.
    one, two = stored(kept)[-1], stored(recached)[-1]
    assert not torch.allclose(one[:, size : 2 * size], two[:, size : 2 * size], atol=1e-3)


def test_recaching_the_same_caption_changes_nothing() -> None:
    text = tiny_text(DIT.config)[:, 2:]
    _, plain = roll(4)
    _, steered = roll(4, switching(2, text, recache=True))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, steered, strict=True))


def test_a_shot_goes_on_beyond_its_window_after_it_forgot_its_first_chunks() -> None:
    _, steered = roll(8, switching(5, NEW, recache=True))
    _, again = roll(8, switching(5, NEW, recache=True))
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(steered, again, strict=True))


def test_a_blend_moves_to_the_new_caption_in_equal_steps() -> None:
    old, new = (tiny_text(DIT.config, num_captions=1, seed=seed) for seed in (1, 2))
    steering = Steering(9, [Steer(caption="new", chunk_index=2, mode="blend")])
    told = {("old",): old, ("old", "new"): new}
    switches = SteeredCaptions(DIT, steering, lambda captions: told[tuple(captions)], "old")
    assert switches(0) is None and switches(1) is None
    for step in range(1, 1 + BLEND_CHUNKS):
        switch = switches(1 + step)
        assert switch is not None and not switch.recache
        between = DIT.text_cache(old + (new - old) * step / BLEND_CHUNKS)
        for found, expected in zip(switch.text.layers, between.layers, strict=True):
            assert torch.allclose(found.keys, expected.keys, atol=1e-5)
    assert switches(6) is None


def test_another_caption_ends_a_blend_and_begins_where_it_was() -> None:
    old, new, last = (tiny_text(DIT.config, num_captions=1, seed=seed) for seed in (1, 2, 3))
    steering = Steering(9, [Steer(caption="new", chunk_index=1, mode="blend")])
    told = {("old",): old, ("old", "new"): new, ("old", "new", "last"): last}
    switches = SteeredCaptions(DIT, steering, lambda captions: told[tuple(captions)], "old")
    switches(0)
    switches(1)
    steering.steer("last", "blend")
    switch = switches(2)
    half_way = old + (new - old) / BLEND_CHUNKS
    expected = DIT.text_cache(half_way + (last - half_way) / BLEND_CHUNKS)
    assert switch is not None
    assert torch.allclose(switch.text.layers[0].keys, expected.layers[0].keys, atol=1e-5)
    steering.steer("last", "keep")
    told["old", "new", "last", "last"] = last
    switch = switches(3)
    assert switch is not None
    assert torch.equal(switch.text.layers[0].keys, DIT.text_cache(last).layers[0].keys)
    assert switches(4) is None, "the blend is over"


@pytest.fixture(params=first(1, [False, True]), ids=["in turn", "overlapping"])
def pipeline(request: pytest.FixtureRequest) -> StreamingPipeline:
    return tiny_pipeline(overlap=request.param, reads=True)


def start(pipeline: StreamingPipeline) -> StorySession:
    return pipeline.session("A red fox in the forest by night.", seed=7, quiet=True)


def steered(
    session: StorySession, caption: str = "It sleeps.", mode: str = "recache"
) -> tuple[np.ndarray, Steer]:
    """A shot of 4 chunks that gets another caption after its first one."""
    frames: list[np.ndarray] = []
    steer = None
    for chunk in session.shot("The red fox walks.", num_chunks=4):
        frames.append(chunk.frames)
        if steer is None:
            steer = session.steer(caption, mode)  # pyright: ignore[reportArgumentType]
    assert steer is not None
    return np.concatenate(frames), steer


@pytest.mark.parametrize("mode", ["recache", "keep", "blend"])
def test_a_live_switch_gives_the_film_of_a_planned_one(pipeline: StreamingPipeline, mode: str) -> None:
    live, steer = steered(start(pipeline), mode=mode)
    # A chunk that was being made already keeps its caption.
    assert steer.chunk_index in ((1, 2) if pipeline.prefetcher else (1,))
    session = start(pipeline)
    planned = np.concatenate(
        [chunk.frames for chunk in session.shot("The red fox walks.", num_chunks=4, then=[steer])]
    )
    assert np.array_equal(live, planned)
    assert session.shots[0].then == (steer,)
    first_frame = pipeline.geometry.shot_num_frames(steer.chunk_index)
    assert session.shots[0].later_captions == ((first_frame, "It sleeps."),)
    plain = np.concatenate(
        [chunk.frames for chunk in start(pipeline).shot("The red fox walks.", num_chunks=4)]
    )
    assert np.array_equal(plain[:first_frame], live[:first_frame])
    assert not np.array_equal(plain[first_frame:], live[first_frame:])


def test_a_saved_session_goes_on_as_if_it_had_not_ended(pipeline: StreamingPipeline, tmp_path: Path) -> None:
    session = start(pipeline)
    steered(session)
    session.save(tmp_path / "session")
    loaded = pipeline.load_session(tmp_path / "session", quiet=True)
    assert loaded.shots[0].then == session.shots[0].then
    after = [np.concatenate([c.frames for c in one.shot("It waves.")]) for one in (session, loaded)]
    assert np.array_equal(*after)


def test_later_shots_are_told_each_frame_under_the_caption_that_it_was_made_with() -> None:
    pipeline = tiny_pipeline(reads=True)
    session = start(pipeline)
    list(session.shot("The red fox walks.", num_chunks=3, then=[Steer(caption="It sleeps.", chunk_index=1)]))
    told: list[list[str]] = []
    encode = pipeline.text_encoder.encode

    def remember(captions: Sequence[str]) -> Tensor:
        told.append(list(captions))
        return encode(captions)

    pipeline.text_encoder.encode = remember  # pyright: ignore[reportAttributeAccessIssue]
    next(session.shot("It waves."))
    rows = told[0]
    assert len(rows) == 3
    assert [word in row for word, row in zip(("walks", "sleeps", "waves"), rows, strict=True)] == [True] * 3


def test_a_retake_keeps_the_switches_of_its_take(pipeline: StreamingPipeline) -> None:
    session = start(pipeline)
    frames, steer = steered(session)
    again = np.concatenate([chunk.frames for chunk in session.retake(0, seed=session.shots[0].seed)])
    assert np.array_equal(frames, again) and session.shots[0].then == (steer,)
    list(session.retake(0, num_chunks=steer.chunk_index + 1))
    assert session.shots[0].then == (steer,), "a shorter take has those that it lasts for"
    list(session.retake(0, caption="The red fox jumps."))
    assert session.shots[0].then == ()


def test_what_has_no_meaning_is_refused_and_the_shot_goes_on(pipeline: StreamingPipeline) -> None:
    session = start(pipeline)
    with pytest.raises(ValueError, match="no shot is running"):
        session.steer("It sleeps.")
    shot = session.shot("The red fox walks.", num_chunks=2)
    with pytest.raises(ValueError, match="no shot is running"):
        session.steer("It sleeps.")
    next(shot)
    with pytest.raises(StoryError, match="caption is empty"):
        session.steer(" ")
    with pytest.raises(ValueError, match="cites @nobody"):
        session.steer("@nobody sleeps.")
    next(shot)
    with pytest.raises(ValueError, match="last chunk of this shot is being made"):
        session.steer("It sleeps.")
    assert list(shot) == [] and len(session.shots) == 1
    with pytest.raises(ValueError, match="no shot is running"):
        session.steer("It sleeps.")


def test_a_running_shot_keeps_its_set_and_camera_and_tells_so() -> None:
    pipeline = tiny_pipeline(reads=True)
    shown = pipeline.read(
        "A red fox in the forest by day.", [("Wide shot: the fox walks to the left.", "It dances.")]
    )
    assert shown is not None
    one = shown.reading
    assert (one.place, one.time, one.framing) == ("forest", "day", "wide") and not shown.warnings
    assert [(a.species, a.colour, a.action) for a in one.actors] == [("fox", "red", "dances")]
    other = pipeline.read(
        "A red fox in the forest by day.",
        [("Wide shot: the fox walks.", "Close-up: on the beach, a blue owl sleeps.")],
    )
    assert other is not None and other.reading.framing == "wide" and other.reading.place == "forest"
    assert any("close-up" in note for note in other.notes) and any("beach" in note for note in other.notes)
    assert any(
        "nobody enters a running shot: cut to a new shot for the blue owl" in note for note in other.notes
    )


@torch.no_grad()
def test_a_batch_in_which_some_shots_turn_is_each_shot_alone() -> None:
    """Training rolls out batches: the second shot turns at its second chunk, the third at its third."""
    config = DIT.config
    text = tiny_text(config, batch=3, num_captions=4)
    whole = replace(
        tiny_conditioning(config, 3), turn_frame=torch.tensor([0, 3, 6]), target_caption=torch.full((3,), 3)
    )
    seeds = (11, 12, 13)

    def noise(*own: int) -> KeyedNoise:
        return KeyedNoise(seeds=own, shape=NOISE.shape, device=NOISE.device)

    together = list(Rollout(DIT, whole, text, tiny_cache(DIT, 3), noise(*seeds), SIGMAS).chunks(3))
    for index, at in enumerate((None, 1, 2)):
        own = tiny_conditioning(config, 3)
        row = 3 if at is None else 2
        alone = Conditioning(
            context=own.context[index : index + 1],
            positions=context_positions(own.positions.shot_phase[:1], own.positions.caption_index[:1]),
            target_phase=own.target_phase[:1],
            target_caption=torch.tensor([row]),
        )
        one = text[index : index + 1]
        switches = None if at is None else switching(at, one[:, 3:], recache=True)
        rollout = Rollout(DIT, alone, one, tiny_cache(DIT), noise(seeds[index]), SIGMAS, switches=switches)
        for found, expected in zip(together, rollout.chunks(3), strict=True):
            assert torch.allclose(found[index : index + 1], expected, atol=1e-5)
