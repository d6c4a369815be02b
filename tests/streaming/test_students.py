"""Students without a context: the frame store equals lists of attended frames, and refuses what it must."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream.diffusion.schedule import step_levels
from shotstream.geometry import WAN_GEOMETRY, TokenGrid, VideoGeometry
from shotstream.model.attention import attention_kernel
from shotstream.model.dit import DiT
from shotstream.model.frame_store import FrameStore
from shotstream.model.student_rules import StudentRules
from shotstream.streaming.conditioning import first_shot_conditioning
from shotstream.streaming.noise import KeyedNoise
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.rollout import Rollout
from shotstream.weights.students import STUDENTS
from tests.streaming.listed_students import ListedStudent, rolled_by_lists
from tests.streaming.tiny import LATENT_SIZE, tiny_config, tiny_dit, tiny_pipeline, tiny_text

GRID = TokenGrid(LATENT_SIZE.height // 2, LATENT_SIZE.width // 2)
SELF_FORCING = StudentRules(steps=(1000, 500), shift=5.0, window=21, max_frames=21)
LONGLIVE = replace(SELF_FORCING, window=8, sink=2, max_frames=0)
RELATIVE = replace(LONGLIVE, rope="cache_relative")
BANK = replace(LONGLIVE, bank=2, record_interval=2)
ROLLING = StudentRules(
    steps=(1000, 750, 500, 250), shift=5.0, window=9, sink=2, rope="absolute_moving_anchor", rolling=True
)
CASES: dict[str, tuple[StudentRules, int, dict[int, bool]]] = {
    "all frames": (SELF_FORCING, 2, {}),
    "first frame alone": (replace(SELF_FORCING, first_chunk_frames=1), 3, {}),
    "first chunk with more steps": (replace(SELF_FORCING, first_chunk_steps=(1000, 750, 250)), 1, {}),
    "plain steps": (replace(SELF_FORCING, steps=(1000, 757, 522), step_scale="timestep", shift=8.0), 3, {}),
    "window": (LONGLIVE, 2, {}),
    "window, slots that wrap": (replace(LONGLIVE, window=9), 3, {}),
    "window without a sink": (replace(LONGLIVE, sink=0), 3, {}),
    "places": (RELATIVE, 2, {}),
    "places, slots that wrap": (replace(RELATIVE, window=6, sink=1), 3, {}),
    "captions change": (LONGLIVE, 2, {2: False, 6: False}),
    "cut": (replace(RELATIVE, window=6, sink=1, cut_position=45), 3, {2: False, 4: True, 6: True}),
    "recache": (replace(LONGLIVE, recache="window_keep_sink"), 2, {1: False, 3: False, 6: False, 7: False}),
    "recache, slots that wrap": (
        replace(LONGLIVE, window=9, recache="window_keep_sink"),
        3,
        {2: False, 3: False, 5: False, 6: False},
    ),
    "recache with the sink": (replace(LONGLIVE, recache="window"), 2, {2: False, 5: False, 6: False}),
    "recache of places": (replace(RELATIVE, recache="window_keep_sink"), 2, {4: False, 5: False}),
    "recache of places with the sink": (replace(RELATIVE, recache="window"), 2, {4: False, 6: False}),
    "averaged sink": (replace(RELATIVE, sink_ema=0.9), 2, {}),
    "averaged sink of frames": (replace(RELATIVE, window=4, sink=1, sink_ema=0.9), 1, {}),
    "bank": (BANK, 2, {}),
    "bank of some chunks": (replace(BANK, bank_rule="interval"), 2, {}),
    "bank and recache": (
        replace(BANK, bank=3, bank_rule="interval", recache="window_keep_sink"),
        2,
        {2: False, 5: False},
    ),
}
NUM_CHUNKS = 9


def student(chunk_frames: int, num_layers: int = 1) -> DiT:
    return tiny_dit(
        tiny_config(
            num_context_frames=0, chunk_latent_frames=chunk_frames, num_layers=num_layers, phase_angle=0.0
        )
    )


def keyed(chunk_frames: int) -> KeyedNoise:
    shape = (4, chunk_frames, LATENT_SIZE.height, LATENT_SIZE.width)
    return KeyedNoise(seeds=(7,), shape=shape, device=torch.device("cpu"))


def rollout(dit: DiT, rules: StudentRules, given: Tensor | None = None) -> Rollout:
    levels = step_levels(rules.steps, rules.shift, rules.step_scale)
    first = step_levels(rules.first_chunk_steps or rules.steps, rules.shift, rules.step_scale)
    return Rollout(
        dit,
        replace(first_shot_conditioning(dit.config, LATENT_SIZE), given=given),
        caption(dit, 0),
        FrameStore(dit.config, rules, 1, GRID),
        keyed(dit.config.chunk_latent_frames),
        levels,
        first_sigmas=first,
    )


def caption(dit: DiT, row: int) -> Tensor:
    return tiny_text(dit.config, num_captions=6)[:, row : row + 1]


def latents(dit: DiT, rules: StudentRules, num_chunks: int, switches: dict[int, bool]) -> Tensor:
    made, parts = rollout(dit, rules), list[Tensor]()
    chunks = made.chunks(num_chunks)
    for chunk in range(num_chunks):
        if chunk in switches:
            row = 1 + list(switches).index(chunk)
            made.switch(caption(dit, row), is_cut=switches[chunk])
        parts.append(next(chunks))
    return torch.cat(parts, dim=2)


@pytest.mark.parametrize("name", CASES)
def test_the_frame_store_equals_lists_of_attended_frames(name: str) -> None:
    rules, chunk_frames, switches = CASES[name]
    dit = student(chunk_frames, 1 if rules.bank else 2)
    num_chunks = min(NUM_CHUNKS, 21 // chunk_frames) if rules.max_frames else NUM_CHUNKS
    ours = latents(dit, rules, num_chunks, switches)
    with torch.no_grad():
        texts = [dit.text_cache(caption(dit, row)) for row in range(1 + len(switches))]
        listed = ListedStudent(dit, rules, GRID, texts, keyed(chunk_frames)).run(num_chunks, switches)
    torch.testing.assert_close(ours, listed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_chunks", [1, 3, 8])
def test_chunks_that_roll_together_equal_lists_of_attended_frames(num_chunks: int) -> None:
    dit = student(2, 2)
    ours = torch.cat(list(rollout(dit, ROLLING).chunks(num_chunks)), dim=2)
    with torch.no_grad():
        text = dit.text_cache(caption(dit, 0))
        listed = rolled_by_lists(dit, ROLLING, GRID, text, keyed(2), num_chunks)
    torch.testing.assert_close(ours, listed, rtol=1e-5, atol=1e-5)


def test_a_rolling_shot_without_an_end_does_not_depend_on_where_it_is_cut() -> None:
    endless = rollout(student(2), ROLLING).chunks(None)
    five, three = [next(endless) for _ in range(5)], rollout(student(2), ROLLING).chunks(None)
    assert all(torch.equal(next(three), chunk) for chunk in five[:3])
    [last] = list(rollout(student(2), ROLLING).chunks(1))
    assert not torch.equal(last, five[0])


@pytest.mark.parametrize("rules", [SELF_FORCING, BANK, ROLLING], ids=["all frames", "bank", "rolling"])
def test_a_film_is_the_same_if_chunks_are_made_ahead(rules: StudentRules) -> None:
    films: list[Tensor] = []
    for overlap in (False, True):
        steps = replace(rules, steps=rules.steps[:2])
        session = tiny_pipeline(rules=steps, overlap=overlap).session("a fox")
        shots = [list(session.shot(words, num_chunks=3)) for words in ("a fox walks", "a owl flies")]
        films.append(torch.cat([chunk.latents for shot in shots for chunk in shot], dim=2))
    assert torch.equal(*films)


@pytest.mark.parametrize("name", ["memflow", "infinity-rope", "reward-forcing", "rolling-forcing"])
def test_an_8_bit_cache_changes_a_film_a_little(name: str) -> None:
    """Keys in float8 differ by up to a sixteenth; those that are rotated again are rotated in float32."""
    films: list[Tensor] = []
    for dtype in (torch.float32, torch.float8_e4m3fn):
        pipeline = tiny_pipeline(rules=STUDENTS[name].rules)
        pipeline.cache_dtype = dtype
        chunks = pipeline.session("a fox").shot("a owl flies", num_chunks=11)
        films.append(torch.cat([chunk.latents for chunk in chunks], dim=2))
    assert 0 < (films[0] - films[1]).abs().max() < 0.1


def test_eight_bit_attention_rounds_the_keys_of_a_store_in_every_pass() -> None:
    films: list[Tensor] = []
    for attention in ("sdpa", "eight-bit"):
        plain = tiny_pipeline(rules=STUDENTS["longlive"].rules)
        plain.dit.attention = attention_kernel(attention, plain.device, plain.dtype)
        options = replace(plain.choice.inference_options, attention=attention)
        choice = replace(plain.choice, inference_options=options)
        encoder = plain.text_encoder
        pipeline = StreamingPipeline(plain.config, plain.dit, plain.codec, encoder, choice=choice)
        chunks = pipeline.session("a fox").shot("a owl flies", num_chunks=5)
        films.append(torch.cat([chunk.latents for chunk in chunks], dim=2))
    assert 0 < (films[0] - films[1]).abs().max() < 0.1


def test_given_frames_are_committed_as_if_they_had_been_generated() -> None:
    dit, rules = student(3), SELF_FORCING
    shot = torch.cat(list(rollout(dit, rules).chunks(3)), dim=2)
    noise = keyed(3)

    def later(chunk_index: int, step: int) -> Tensor:
        return noise(chunk_index + 2, step)

    levels = step_levels(rules.steps, rules.shift)
    store = FrameStore(dit.config, rules, 1, GRID)
    given = replace(first_shot_conditioning(dit.config, LATENT_SIZE), given=shot[:, :, :6])
    again = Rollout(dit, given, caption(dit, 0), store, later, levels)
    assert torch.equal(next(again.chunks(1)), shot[:, :, 6:])


def test_a_picture_is_continued_only_by_students_that_generate_one_frame_first() -> None:
    picture = torch.zeros(1, 4, 1, LATENT_SIZE.height, LATENT_SIZE.width)
    assert next(rollout(student(1), SELF_FORCING, given=picture).chunks(1)).shape[2] == 1
    alone = replace(SELF_FORCING, first_chunk_frames=1)
    assert next(rollout(student(3), alone, given=picture).chunks(1)).shape[2] == 3
    with pytest.raises(ValueError, match=r"1 given frames; this model continues 3, or 3 more at a time"):
        rollout(student(3), SELF_FORCING, given=picture)
    with pytest.raises(ValueError, match="cannot continue given frames"):
        rollout(student(2), ROLLING, given=picture)


def test_the_store_is_as_large_as_the_window_however_long_the_shot_is() -> None:
    dit = student(2)
    made = rollout(dit, replace(BANK, recache="window_keep_sink"))
    store = made._cache  # pyright: ignore[reportPrivateUsage]
    assert isinstance(store, FrameStore)
    sizes = [sum(part.numel() for layer in store.layers for part in layer[:2]) for _ in made.chunks(20)]
    assert sizes[0] == sizes[-1] == 2 * (8 + 2) * GRID.num_tokens * dit.config.dim * dit.config.num_layers
    assert sum(part.shape[2] for part in made._recent) < 8 + 2  # pyright: ignore[reportPrivateUsage]


def test_a_shot_is_generated_again_in_the_same_store() -> None:
    for rules in (replace(RELATIVE, sink_ema=0.9), BANK):
        made = rollout(student(2), rules)
        first = torch.cat(list(made.chunks(7)), dim=2)
        assert torch.equal(torch.cat(list(made.chunks(7)), dim=2), first)


def test_a_student_that_has_no_cuts_or_context_says_so() -> None:
    made = rollout(student(3), SELF_FORCING)
    chunks = made.chunks(2)
    next(chunks)
    made.switch(caption(student(3), 1), is_cut=True)
    with pytest.raises(ValueError, match="no cuts within a shot; begin another shot"):
        next(chunks)
    store = FrameStore(student(3).config, SELF_FORCING, 1, GRID)
    with torch.no_grad(), pytest.raises(ValueError, match="no context; its shots begin with their first"):
        store.begin(3, None, "global")
    with pytest.raises(ValueError, match="carries no gradient"):
        store.begin(3, None, None)


def test_too_many_chunks_for_trained_positions_are_refused_in_one_line() -> None:
    SELF_FORCING.check_length(7, WAN_GEOMETRY)
    with pytest.raises(ValueError, match=r"8 chunks; this model's shots have at most 7.*fewer chunks"):
        SELF_FORCING.check_length(8, WAN_GEOMETRY)
    with pytest.raises(ValueError, match="at most 21"):
        SELF_FORCING.check_length(22, VideoGeometry(chunk_latent_frames=1))
    with pytest.raises(ValueError, match="at most 7"):
        SELF_FORCING.check_length(8, VideoGeometry(first_chunk_latent_frames=1))
    LONGLIVE.check_length(1000, WAN_GEOMETRY)
    chunks = rollout(student(3), replace(SELF_FORCING, window=9, max_frames=6)).chunks(None)
    assert [next(chunks).shape[2] for _ in range(2)] == [3, 3]
    with pytest.raises(ValueError, match=r"frame 9 of a shot; .* up to 6 latent frames: begin another shot"):
        next(chunks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (500, 1000)}, "must fall strictly"),
        ({"steps": ()}, "must fall strictly"),
        ({"steps": (1001, 5)}, "lie in 1..1000"),
        ({"first_chunk_steps": (0,)}, "lie in 1..1000"),
        ({"shift": 0.0}, "above 0"),
        ({"sink": 21}, "must be smaller"),
        ({"sink_ema": 1.5, "rope": "cache_relative", "sink": 3}, "lie in"),
        ({"sink_ema": 0.9}, "needs a sink"),
        ({"cut_position": 45}, "cannot come back"),
        ({"rolling": True}, "set both or none"),
        ({"bank": 3, "rope": "cache_relative"}, "keep their positions"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SELF_FORCING, **changes)


@pytest.mark.parametrize(
    ("rules", "chunk_frames", "message"),
    [
        (LONGLIVE, 7, "do not fit a window of 8 with 2 fixed"),
        (replace(SELF_FORCING, first_chunk_frames=4), 3, "a first chunk of 4 frames"),
        (replace(RELATIVE, sink_ema=0.9), 3, "needs chunks of as many frames"),
        (replace(RELATIVE, window=7, sink_ema=0.9), 2, "needs whole chunks"),
        (ROLLING, 3, "4 chunks of 3 frames are denoised together"),
        (ROLLING, 1, "at most the first chunk"),
    ],
)
def test_rules_that_do_not_fit_the_chunks_are_refused(
    rules: StudentRules, chunk_frames: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rules.check_chunk(chunk_frames)
