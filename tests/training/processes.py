"""What a process of a test runs, alone or with others: `python -m tests.training.processes ORDER...`.

An order is a JSON list: the folder of runs, the recipe, overrides. Orders are trained one after the other.
Muon multiplies in float32 here: one process is compared with several, and rounding to bfloat16 would drown
what they differ in.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from shotstream.training import muon
from shotstream.training.dist_context import init_dist_context
from shotstream.training.recipes import recipe
from shotstream.training.run import prepare_run
from tests import forked

ROOT = forked.ROOT
# A machine may be busy with other things; nothing of a test takes this long by itself.
LIMIT_S = 1500


def environment() -> dict[str, str]:
    """One thread per process, and no world of the caller's."""
    ours = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return {**ours, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def torchrun(num_processes: int) -> list[str]:
    """The beginning of the arguments of a Python that starts several processes, each a Python of its own."""
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]


def run_by(num_processes: int, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a Python's arguments to the end by one process, or by several that know of each other."""
    if num_processes == 1:
        return forked.run(arguments, env=environment(), cwd=ROOT, timeout=LIMIT_S)
    return forked.run_together(num_processes, arguments, env=environment(), cwd=ROOT, timeout=LIMIT_S)


def train(orders: Sequence[Sequence[Any]], num_processes: int = 1) -> None:
    """Trains orders in real processes; AssertionError with their output when they fail."""
    told = (json.dumps(order, default=str) for order in orders)
    done = run_by(num_processes, ["-m", "tests.training.processes", *told])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-9000:]


def main() -> None:
    """Trains the orders of the command line."""
    muon.has_fast_bfloat16 = lambda _: False
    torch.set_num_threads(1)
    with init_dist_context() as dist_context:
        for order in sys.argv[1:]:
            runs, name, *overrides = json.loads(order)
            prepare_run(recipe(name, overrides), Path(runs), dist_context=dist_context).train()


if __name__ == "__main__":
    main()
