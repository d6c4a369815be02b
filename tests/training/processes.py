"""What a process of a test runs: `python -m tests.training.processes ORDER...`, alone or under torchrun.

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

ROOT = Path(__file__).parents[2]
# A machine may be busy with other things; nothing of a test takes this long by itself.
LIMIT_S = 1500


def environment() -> dict[str, str]:
    """One thread per process, and no world of the caller's."""
    ours = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return {**ours, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def torchrun(num_processes: int) -> list[str]:
    """The beginning of a command that several processes run."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes),
    ]  # fmt: skip


def train(orders: Sequence[Sequence[Any]], num_processes: int = 1) -> None:
    """Trains orders in real processes; AssertionError with their output when they fail."""
    launcher = [sys.executable] if num_processes == 1 else torchrun(num_processes)
    command = [
        *launcher,
        "-m",
        "tests.training.processes",
        *(json.dumps(order, default=str) for order in orders),
    ]
    done = subprocess.run(
        command, env=environment(), cwd=ROOT, timeout=LIMIT_S, capture_output=True, text=True, check=False
    )
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
