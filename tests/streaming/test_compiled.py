"""Compiled blocks compute what eager ones do and compile when they should."""

import numpy as np
import pytest
import torch

from shotstream.streaming import warm_up as warm_up_module
from shotstream.streaming.warm_up import warm_up
from tests import forked
from tests.streaming.tiny import tiny_pipeline

# In a process of its own: the shape checks that the other tests run under would break the graph.
PROGRAM = """
import numpy as np
import torch
from torch._dynamo.utils import counters
from shotstream.streaming.session import StorySession
from shotstream.streaming.warm_up import warm_up
from tests.streaming.tiny import tiny_pipeline

LENGTH, CONTEXT = 5, 2  # the window holds 4
torch.set_num_threads(1)

def film(pipeline):
    latents, decode = [], pipeline.decode_levels
    pipeline.decode_levels = lambda x, state, *other: (latents.append(x), decode(x, state, *other))[1]
    session = StorySession(pipeline, "a forest night")
    for number in range(4):  # the fourth shot looks back at three, more than there are context frames
        shot = session.shot(f"a fox walks {number}", num_chunks=LENGTH, steps=2)
        for _ in range(LENGTH - number):
            next(shot)
    return latents

eager, compiled = (tiny_pipeline(num_context_frames=CONTEXT) for _ in range(2))
expected = film(eager)
compiled.dit.compile_blocks()
warm_up(compiled, LENGTH)
# Both halves of a block for a chunk and for a context; and what follows attention once more, for a context
# of one caption. Neither the place of a chunk nor the number of captions makes another.
num_graphs = 5
assert counters["stats"]["unique_graphs"] == num_graphs, counters["stats"]
got = film(compiled)
assert counters["stats"]["unique_graphs"] == num_graphs, counters["stats"]
assert len(got) == len(expected) == 5 + 4 + 3 + 2
for ours, theirs in zip(got, expected, strict=True):
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_blocks_equal_eager_ones_and_a_warmed_up_film_with_cuts_compiles_nothing() -> None:
    done = forked.run(["-c", PROGRAM])
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_warm_up_leaves_no_trace_in_films() -> None:
    from shotstream.streaming.session import StorySession

    films: list[torch.Tensor] = []
    for is_warm in (False, True):
        pipeline = tiny_pipeline()
        if is_warm:
            assert warm_up(pipeline, 2) > 0
        shot = StorySession(pipeline, "a forest night").shot("a fox walks")
        films.append(torch.cat([torch.from_numpy(chunk.frames.copy()) for chunk in shot]))
    assert torch.equal(*films)


@pytest.mark.parametrize("num_chunks", [None, 3])
def test_a_warm_up_runs_what_first_shots_consist_of_and_gives_the_cache_back(
    monkeypatch: pytest.MonkeyPatch, num_chunks: int | None
) -> None:
    """A context of one caption, the shot with a commit between its chunks, then a context of two captions;
    decoded are a first and a second chunk, and a frame of each is encoded."""
    pipeline = tiny_pipeline()
    passes: list[str] = []
    states: list[bool] = []
    encoded: list[tuple[int, ...]] = []
    told: list[str] = []
    clock = iter((100.0, 103.4))
    decode, encode = pipeline.decode, pipeline.encode_frames

    def watch(_module: object, _args: object, kwargs: dict[str, object]) -> None:
        passes.append(str(kwargs["write"]))

    def decoding(latents: torch.Tensor, state: object) -> object:
        states.append(state is None)
        return decode(latents, state)  # pyright: ignore[reportArgumentType]

    def encoding(frames: np.ndarray) -> torch.Tensor:
        encoded.append(frames.shape)
        return encode(frames)

    pipeline.dit.register_forward_pre_hook(watch, with_kwargs=True)
    monkeypatch.setattr(pipeline, "decode", decoding)
    monkeypatch.setattr(pipeline, "encode_frames", encoding)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert warm_up(pipeline, num_chunks, tell=told.append) == pytest.approx(3.4)
    usual = 2
    later = (num_chunks or usual) - 1
    assert passes == ["global", "None", *["local", "None"] * later, "global"]
    assert states == [True, False] and encoded == [(1, 32, 48, 3)] * 2
    assert told[0].startswith("compiling for this CPU") and told[1:] == ["compiled in 3 s"]
    assert len(pipeline._spare_caches) == 1  # pyright: ignore[reportPrivateUsage]


@pytest.mark.slow
def test_a_warm_ups_context_reads_as_many_captions_as_it_is_told_on_the_transformers_device() -> None:
    pipeline = tiny_pipeline()
    for num_captions, rows in ((1, [0, 0, 0]), (2, [0, 1, 0])):
        made = warm_up_module._conditioning(pipeline, num_captions)  # pyright: ignore[reportPrivateUsage]
        assert made.positions.caption_index.tolist() == [rows]
    pipeline.dit.to("meta")
    made = warm_up_module._conditioning(pipeline, 2)  # pyright: ignore[reportPrivateUsage]
    for tensor in (made.context, made.positions.shot_phase, made.positions.caption_index, made.target_phase):
        assert tensor.is_meta
