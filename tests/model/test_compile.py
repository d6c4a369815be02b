"""The network compiles without a graph break.

In a process of its own: the shape checks that the other tests run under would break the graph.
"""

import subprocess
import sys

import pytest

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
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
