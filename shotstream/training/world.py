"""The processes that train one model together: who this one is, and the little that they tell each other.

torchrun starts them, on one machine or many, and says who is who in the environment; alone, nothing of
torch.distributed is touched. Parameters and gradients travel elsewhere (`parallelize.py`); what goes through
here is small and goes over gloo, on the CPU, whatever the model is on.
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
class World:
    """All processes of a run, seen from one of them; the default is a process alone."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""
    mesh: DeviceMesh | None = None
    """How they are laid out: parameters are sharded in a machine and replicated across; None when alone."""
    small: dist.ProcessGroup | None = None
    """The gloo group for all that is not parameters."""
    saving: dist.ProcessGroup | None = None
    """The gloo group of the thread that writes checkpoints."""

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over the processes."""
        if self.size == 1:
            return value
        total = value.detach().double().cpu()
        dist.all_reduce(total, group=self.small)
        return (total / self.size).to(value)

    def any(self, flag: bool) -> bool:
        """Whether it is true for any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.small)
        return bool(flags)

    def gather(self, value: T) -> list[T] | None:
        """Every process's value, in order, on the leading one; None on the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.leads else None
        dist.gather_object(value, values, dst=0, group=self.small)
        return values

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.size > 1:
            dist.barrier(group=self.small)


ALONE = World()


def started_by_torchrun() -> bool:
    """Whether there are other processes to join."""
    return number_from_torchrun("WORLD_SIZE", 1) > 1


def local_device(kind: str) -> str:
    """The device of this process: each process of a machine takes a GPU of its own."""
    return (
        f"cuda:{number_from_torchrun('LOCAL_RANK', 0)}" if kind == "cuda" and started_by_torchrun() else kind
    )


@contextmanager
def joined_world(device: torch.device | str = "cpu") -> Generator[World]:
    """The world that torchrun has started this process in; left again at the end.

    Args:
        device: where this process computes; decides whether parameters travel by NCCL or by gloo.

    Raises:
        ValueError: machines run different numbers of processes.
    """
    if not started_by_torchrun():
        yield World()
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
    yield World(rank=dist.get_rank(), size=size, mesh=mesh, small=small, saving=saving)
    # Only after a good end: a process that failed must not wait for the others to leave with it.
    dist.destroy_process_group()
