"""The distributed context of a run: its processes, this one's rank, and small collectives between them.

torchrun starts the processes, on one machine or many, and sets their environment; a single process does not
use torch.distributed. Parameters and gradients are exchanged elsewhere (`parallelize.py`). The collectives
here are small and use gloo, on the CPU, whatever the model's device.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from shotstream.process import number_from_torchrun

T = TypeVar("T")

# Longest wait for a process that still lives: it may render stories or draw a preview meanwhile. One that
# has died is noticed at once, and torchrun ends the others.
_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class DistContext:
    """The processes of a run, from the view of one of them; the default is a single process."""

    rank: int = 0
    """Index of this process, from 0."""
    world_size: int = 1
    """Number of processes, at least 1."""
    mesh: DeviceMesh | None = None
    """Device mesh: parameters are sharded within a machine and replicated across machines; None for a single
    process.
    """
    gloo_group: dist.ProcessGroup | None = None
    """The gloo group for everything except parameters; None for a single process."""
    saving_group: dist.ProcessGroup | None = None
    """The gloo group of the thread that writes checkpoints; None for a single process."""

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """Returns the mean of a scalar over all processes."""
        if self.world_size == 1:
            return value
        total = value.detach().double().cpu()
        dist.all_reduce(total, group=self.gloo_group)
        return (total / self.world_size).to(value)

    def any(self, flag: bool) -> bool:
        """Returns whether `flag` is true in any process."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.gloo_group)
        return bool(flags)

    def gather(self, value: T) -> list[T] | None:
        """Returns every process's value, in order, in the main process; None in the others."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main_process else None
        dist.gather_object(value, values, dst=0, group=self.gloo_group)
        return values

    def barrier(self) -> None:
        """Waits until every process has called it."""
        if self.world_size > 1:
            dist.barrier(group=self.gloo_group)


SINGLE_PROCESS = DistContext()


def started_by_torchrun() -> bool:
    """Returns whether torchrun has started this process together with others."""
    return number_from_torchrun("WORLD_SIZE", 1) > 1


def local_device(kind: str) -> str:
    """Returns the device of this process: each process of a machine takes its own GPU."""
    return (
        f"cuda:{number_from_torchrun('LOCAL_RANK', 0)}" if kind == "cuda" and started_by_torchrun() else kind
    )


@contextmanager
def init_dist_context(device: torch.device | str = "cpu") -> Generator[DistContext]:
    """Yields the context of the processes that torchrun has started, and leaves the process group at the end.

    Args:
        device: Device of this process; decides whether parameters are exchanged by NCCL or by gloo.

    Raises:
        ValueError: Machines run different numbers of processes.
    """
    if not started_by_torchrun():
        yield DistContext()
        return
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.set_device(torch.device(device))
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=_PATIENCE)
    size, local = dist.get_world_size(), number_from_torchrun("LOCAL_WORLD_SIZE", 1)
    if size % local:
        raise ValueError(f"{size} processes, {local} of them here: start as many on every machine")
    if local in (1, size):
        mesh = init_device_mesh(kind, (size,), mesh_dim_names=("shard",))
    else:
        mesh = init_device_mesh(kind, (size // local, local), mesh_dim_names=("replicate", "shard"))
    small, saving = (dist.new_group(backend="gloo", timeout=_PATIENCE) for _ in range(2))
    assert isinstance(small, dist.ProcessGroup) and isinstance(saving, dist.ProcessGroup)
    yield DistContext(rank=dist.get_rank(), world_size=size, mesh=mesh, gloo_group=small, saving_group=saving)
    # Only after success: a process that failed must not wait for the others.
    dist.destroy_process_group()
