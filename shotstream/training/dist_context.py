"""The distributed context of a run: its processes, this one's rank, and small collectives between them.

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
class DistContext:
    """The processes of a run, seen from one of them; the default is a single process."""

    rank: int = 0
    """Number of this process, from 0."""
    world_size: int = 1
    """Number of processes."""
    mesh: DeviceMesh | None = None
    """How they are laid out: parameters are sharded in a machine and replicated across; None when alone."""
    gloo_group: dist.ProcessGroup | None = None
    """The gloo group for all that is not parameters."""
    saving_group: dist.ProcessGroup | None = None
    """The gloo group of the thread that writes checkpoints."""

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over the processes."""
        if self.world_size == 1:
            return value
        total = value.detach().double().cpu()
        dist.all_reduce(total, group=self.gloo_group)
        return (total / self.world_size).to(value)

    def any(self, flag: bool) -> bool:
        """Whether it is true for any process."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.gloo_group)
        return bool(flags)

    def gather(self, value: T) -> list[T] | None:
        """Every process's value, in order, on the leading one; None on the others."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main_process else None
        dist.gather_object(value, values, dst=0, group=self.gloo_group)
        return values

    def barrier(self) -> None:
        """Returns when every process has come here."""
        if self.world_size > 1:
            dist.barrier(group=self.gloo_group)


SINGLE_PROCESS = DistContext()


def started_by_torchrun() -> bool:
    """Whether there are other processes to join."""
    return number_from_torchrun("WORLD_SIZE", 1) > 1


def local_device(kind: str) -> str:
    """The device of this process: each process of a machine takes a GPU of its own."""
    return (
        f"cuda:{number_from_torchrun('LOCAL_RANK', 0)}" if kind == "cuda" and started_by_torchrun() else kind
    )


@contextmanager
def init_dist_context(device: torch.device | str = "cpu") -> Generator[DistContext]:
    """The processes that torchrun has started this process in; left again at the end.

    Args:
        device: where this process computes; decides whether parameters travel by NCCL or by gloo.

    Raises:
        ValueError: machines run different numbers of processes.
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
    # Only after a good end: a process that failed must not wait for the others to leave with it.
    dist.destroy_process_group()
