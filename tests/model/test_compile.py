"""The network compiles without a graph break.

In a process of its own: the shape checks that the other tests run under would break the graph.
"""

import pytest

from tests import forked

PROGRAM = """
import torch
from shotstream.model.causal_mask import CausalMask
from tests.model.tiny import *

torch.set_num_threads(1)
dit = tiny_dit()
compiled = torch.compile(dit, fullgraph=True, backend="aot_eager")
text = captions()

def check(*arguments, **keywords):
    ours, theirs = compiled(*arguments, **keywords), dit(*arguments, **keywords)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)

with torch.no_grad():
    check(latents(4), level(0.5, 4), text, target(4))
    check(latents(6), level(0.5, 6), text, target(6), mask=CausalMask.for_shot(CONFIG, GRID, 4))
    cache = new_cache(dit)
    prepared = dit.text_cache(text)
    check(latents(2), level(0.0, 2), prepared, context(), cache=cache, write="global")
    check(latents(2), level(0.5, 2), prepared, chunk(0), cache=cache)
    check(latents(2), level(0.0, 2), prepared, chunk(0), cache=cache, write="local")
    check(latents(2), level(0.5, 2), prepared, chunk(1), cache=cache)
assert cache.num_chunks == 1
"""


@pytest.mark.slow
def test_every_kind_of_pass_compiles_in_one_graph_and_equals_the_eager_one() -> None:
    done = forked.run(["-c", PROGRAM])
    assert done.returncode == 0, done.stderr


FILMS = """
import torch
from torch._dynamo.utils import counters
from shotstream.model.positions import chunk_positions
from tests.model.tiny import *

# A chunk has fewer tokens than the context.
dit, eager = (tiny_dit(chunk_latent_frames=1) for _ in range(2))
dit.compile_blocks(backend="eager")

@torch.no_grad()
def shot(num_captions, num_chunks, caches):
    text = captions(num_captions)
    for each, cache in zip((dit, eager), caches):
        prepared = each.text_cache(text)
        cache.reset()
        yield each(latents(2), level(0.0, 2), prepared, context(), cache=cache, write="global")
        own = prepared.only(torch.tensor([num_captions - 1]))
        for index in range(num_chunks):
            place = chunk_positions(torch.tensor([2]), torch.tensor([2]), index, dit.config)
            yield each(latents(1, seed=index), level(0.5, 1), own, place, cache=cache)
            yield each(latents(1, seed=9 + index), level(0.0, 1), own, place, cache=cache, write="local")

def film(num_captions, num_chunks, caches):
    made = list(shot(num_captions, num_chunks, caches))
    for ours, theirs in zip(made[: len(made) // 2], made[len(made) // 2 :], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    return counters["stats"]["unique_graphs"]

first, second = [[new_cache(dit), new_cache(eager)] for _ in range(2)]
assert film(1, 5, first) == 4, counters["stats"]  # longer than the window
assert film(2, 3, first) == 5, counters["stats"]
assert film(3, 5, first) == 5, counters["stats"]
assert film(1, 2, second) == 5, counters["stats"]
"""


@pytest.mark.slow
def test_a_film_compiles_five_graphs_however_long_its_shots_and_however_many_its_captions() -> None:
    """Neither the length of the cache, nor a cut, nor a cache at another address compiles another."""
    done = forked.run(["-c", FILMS])
    assert done.returncode == 0, done.stderr
