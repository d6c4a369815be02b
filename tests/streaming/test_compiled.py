"""Compiled blocks compute what eager ones do and compile when they should."""

import subprocess
import sys

import pytest
import torch

from shotstream.streaming.warm_up import warm_up
from tests.streaming.tiny import tiny_engine

# In a process of its own: the shape checks that the other tests run under would break the graph.
PROGRAM = """
import numpy as np
import torch
from torch._dynamo.utils import counters
from shotstream.streaming.session import StorySession
from shotstream.streaming.warm_up import warm_up
from tests.streaming.tiny import tiny_engine

LENGTH, CONTEXT = 5, 2  # the window holds 4
torch.set_num_threads(1)

def film(engine):
    latents, decode = [], engine.decode_levels
    engine.decode_levels = lambda x, state, *other: (latents.append(x), decode(x, state, *other))[1]
    session = StorySession(engine, "a forest night")
    for number in range(4):  # the fourth shot looks back at three, more than there are context frames
        shot = session.shot(f"a fox walks {number}", num_chunks=LENGTH, steps=2)
        for _ in range(LENGTH - number):
            next(shot)
    return latents

eager, compiled = (tiny_engine(num_context_frames=CONTEXT) for _ in range(2))
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
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_warm_up_leaves_no_trace_in_films() -> None:
    from shotstream.streaming.session import StorySession

    films: list[torch.Tensor] = []
    for is_warm in (False, True):
        engine = tiny_engine()
        if is_warm:
            assert warm_up(engine, 2) > 0
        shot = StorySession(engine, "a forest night").shot("a fox walks")
        films.append(torch.cat([torch.from_numpy(chunk.frames.copy()) for chunk in shot]))
    assert torch.equal(*films)
