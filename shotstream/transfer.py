"""Copies of tensors between main memory and a device, without waiting for queued work.

A copy from or to pageable memory waits until the device has finished all earlier work. A copy from pinned
memory is queued like any other work; torch keeps that memory until the copy is done, and then reuses it. A
device other than a GPU has no queue, and is copied to as usual.
"""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Returns `tensor` on `device`; a copy from main memory does not wait for queued work."""
    target = torch.device(device)
    if tensor.device.type != "cpu" or target.type == "cpu":
        return tensor.to(target)
    return pinned(tensor).to(target, non_blocking=True)


def fetch(tensor: Tensor) -> Tensor:
    """Returns `tensor` in main memory, contiguous; waits for the work of the current stream alone."""
    tensor = tensor.contiguous()
    if not tensor.is_cuda:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    # A thread that waits like this sleeps, instead of polling.
    arrived = torch.cuda.Event(blocking=True)
    arrived.record(torch.cuda.current_stream(tensor.device))
    arrived.synchronize()
    return host


def pinned(tensor: Tensor) -> Tensor:
    """Returns a copy of `tensor` in pinned memory, if there is a GPU that could use it."""
    return tensor.contiguous().pin_memory() if torch.cuda.is_available() else tensor
