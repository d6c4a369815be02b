"""`train.compile`: blocks that are compiled learn what blocks that are not do.

In a process of its own: the shape checks that the other tests run under would break the graphs.
"""

import os
from pathlib import Path

import pytest

from tests import forked
from tests.training.processes import ROOT

PROGRAM = """
import sys
from pathlib import Path
import torch
from shotstream.training.recipes import recipe
from shotstream.training.stage_builders import build_stage
from shotstream.training.run import run_recipe
from tests.training.test_dmd import matching
from tests.training.test_run import TEACHER, codec, teacher
from tests.training.test_student import pairs, student

torch.set_num_threads(1)
runs = Path(sys.argv[1])
for one in (codec(1), teacher(1), pairs(2), student(1)):
    run_recipe(one, runs)

def plain(*more):
    return recipe("theatre_teacher", [*TEACHER, "train.num_steps=4", "train.matmul_dtype=float32", *more])

for make in (plain, lambda *more: student(4, *more), lambda *more: matching("theatre_intra_shot", 4, *more)):
    stages = [build_stage(make(*more), runs) for more in ((), ("train.compile=true",))]
    for stage in stages:
        model = getattr(stage, "model", None) or stage.student
        head = model.dit.head.head.weight
        torch.nn.init.normal_(head, std=0.02, generator=torch.Generator().manual_seed(0))
    kinds = set()
    for step in range(3):
        eager, compiled = (stage.step(step) for stage in stages)
        for name in eager:
            torch.testing.assert_close(compiled[name], eager[name], rtol=1e-3, atol=1e-6)
        kinds |= set(eager)
    print(make, sorted(kinds))
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 3
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_stages_learn_what_eager_ones_do(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "cache")
    done = forked.run(["-c", PROGRAM, tmp_path / "runs"], cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
