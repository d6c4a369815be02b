"""Parallel training: shares of a batch, and parameters sharded by FSDP2. The results are the same.

A process computes a contiguous share of the effective batch, in one or several microbatches; the gradient is
the mean over microbatches and processes, which is the mean over the batch. Parameters, gradients, averages
and optimizer states are sharded over processes by FSDP2: on GPUs over NCCL, on CPUs over gloo. A single
process has plain tensors.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from shotstream.model.cross_attention import TextCache
from shotstream.model.dit import DiT
from shotstream.training.dist_context import SINGLE_PROCESS, DistContext


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelConfig:
    """Configuration of a step's computation: processes, microbatches, recomputation, compilation."""

    dist_context: DistContext = SINGLE_PROCESS
    """The processes that compute a step."""
    accumulation: int = 1
    """Number of microbatches of a process's share of a batch, at least 1."""
    samples_at_once: int = 0
    """Number of samples of a microbatch; 0: given by `accumulation`."""
    activation_checkpointing: bool = False
    """Whether blocks are recomputed in the backward pass instead of storing their activations."""
    compile: bool = False
    """Whether blocks are compiled."""

    def shares(self, batch_size: int) -> list[range]:
        """Returns the samples of an effective batch that this process computes, one range per microbatch.

        Raises:
            ValueError: The batch cannot be divided evenly.
        """
        num_processes = self.dist_context.world_size
        if self.samples_at_once:
            if batch_size % (num_processes * self.samples_at_once):
                raise ValueError(
                    f"a batch of {batch_size} cannot be divided among {num_processes} processes, "
                    f"{self.samples_at_once} samples at once; their product must divide it"
                )
            parts = batch_size // (num_processes * self.samples_at_once)
        else:
            parts = self.accumulation
            if batch_size % (num_processes * parts):
                raise ValueError(
                    f"a batch of {batch_size} cannot be divided among {num_processes} processes in "
                    f"{parts} parts each; their product must divide it"
                )
        size = batch_size // (num_processes * parts)
        first = self.dist_context.rank * parts
        return [range(size * part, size * (part + 1)) for part in range(first, first + parts)]

    def division(self, batch_size: int) -> str:
        """Returns a description of how a batch is divided."""
        shares = self.shares(batch_size)
        return (
            f"a batch of {batch_size} samples: {self.dist_context.world_size} processes x "
            f"{len(shares)} parts x {len(shares[0])} samples"
        )

    def refuse(self, names: Iterable[str], reason: str) -> None:
        """Raises ValueError if one of these settings is used; they would have no effect."""
        for name in names:
            if getattr(self, name) != getattr(ParallelConfig(), name):
                raise ValueError(f"train.{name}={getattr(self, name)} cannot take effect: {reason}")

    def backward(self, batch_size: int, loss_of: Callable[[range], Tensor], name: str, step: int) -> float:
        """Adds the gradient of the mean loss over an effective batch; returns that loss.

        Args:
            batch_size: Number of samples of the whole batch.
            loss_of: Returns the mean loss over some of its samples.
            name: Name of the loss, for the message.
            step: Number of the step, for the message.

        Raises:
            FloatingPointError: The loss is not finite in some process; all processes raise.
        """
        losses = [partial(loss_of, samples) for samples in self.shares(batch_size)]
        return self.backward_parts(losses, name, step)

    def backward_parts(self, losses: Sequence[Callable[[], Tensor]], name: str, step: int) -> float:
        """Adds the gradient of the mean of given microbatch losses; returns that mean. See `backward`."""
        total: Tensor | float = 0.0
        for loss_of in losses:
            loss = loss_of()
            # Each microbatch's gradient is sharded at once: there is never more than one complete gradient.
            (loss / len(losses)).backward()
            # On the loss's device: reading it after every microbatch would stall the GPU.
            total = total + loss.detach().double() / len(losses)
        assert isinstance(total, Tensor)
        mean = self.dist_context.mean(total)
        if not torch.isfinite(mean):
            raise FloatingPointError(f"the {name} loss is {mean.item()} at step {step}")
        return mean.item()

    def parallelize(self, dit: DiT) -> DiT:
        """Applies activation checkpointing, compilation and sharding, in place.

        It must be called before any optimizer is created.
        """
        dit.activation_checkpointing = self.activation_checkpointing
        if self.compile:
            dit.compile_blocks()
        if self.dist_context.mesh is not None:
            self.shard(dit, dit.blocks)
            dit.text_cache = _gathering_text_cache(dit)  # pyright: ignore[reportAttributeAccessIssue]
        return dit

    def shard(self, module: nn.Module, parts: Iterable[nn.Module] = (), methods: Iterable[str] = ()) -> None:
        """Shards a module's parameters over the processes, in place.

        Args:
            module: The root module.
            parts: Submodules that are gathered one at a time.
            methods: Methods of the root, besides `forward`, that use its parameters.
        """
        if self.dist_context.mesh is None:
            return
        # The warning is about outputs that are views and changed in place, which does not happen here.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        for part in (*parts, module):
            # The root too is sharded again after a pass: a pass without gradients would otherwise keep
            # gathered parameters that the next optimiser step makes stale.
            fully_shard(part, mesh=self.dist_context.mesh, reshard_after_forward=True)
        for method in methods:
            register_fsdp_forward_method(module, method)


def _gathering_text_cache(dit: DiT) -> Callable[..., TextCache]:
    """Returns `DiT.text_cache` with gathered blocks, because it uses their parameters outside `forward`."""
    sharded = [part for part in (dit, *dit.blocks) if isinstance(part, FSDPModule)]

    def text_cache(text: Tensor, captions: tuple[str, ...] = ()) -> TextCache:
        for part in sharded:
            part.unshard()
        try:
            return DiT.text_cache(dit, text, captions)
        finally:
            for part in sharded:
                part.reshard()

    return text_cache


def whole(value: Tensor) -> Tensor:
    """Returns a tensor without sharding; every process must call this together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_state(state: Any) -> Any:
    """Returns a state dictionary with unsharded tensors."""
    if isinstance(state, dict):
        return {name: whole_state(value) for name, value in state.items()}
    return whole(state) if isinstance(state, Tensor) else state


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """Returns a CPU tensor on a device, without waiting for queued work."""
    if device.type != "cuda":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)  # a copy from pageable memory would wait


def like(value: Tensor, reference: Tensor) -> Tensor:
    """Returns a complete tensor, which every process has, sharded like `reference`."""
    if not isinstance(reference, DTensor):
        return value
    mesh, placements = reference.device_mesh, reference.placements
    return distribute_tensor(value.to(reference.device), mesh, placements, src_data_rank=None)
