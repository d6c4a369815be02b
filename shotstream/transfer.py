"""The way of tensors between main memory and a device, on which nothing that is queued there is waited for.

A copy from or to ordinary memory waits until the device has done all that was given to it before. From pinned
memory it takes its turn like any other work; torch keeps that memory until the copy is done, and then uses it
again. Another device than a GPU has no queue, and is copied to as usual.
"""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`; from main memory without waiting for what is queued there."""
    target = torch.device(device)
    if tensor.device.type != "cpu" or target.type == "cpu":
        return tensor.to(target)
    return pinned(tensor).to(target, non_blocking=True)


def fetch(tensor: Tensor) -> Tensor:
    """`tensor` in main memory, laid out in order; waits for what the current stream has made, and no more."""
    tensor = tensor.contiguous()
    if not tensor.is_cuda:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    # A thread that waits like this sleeps, instead of asking again and again.
    arrived = torch.cuda.Event(blocking=True)
    arrived.record(torch.cuda.current_stream(tensor.device))
    arrived.synchronize()
    return host


def pinned(tensor: Tensor) -> Tensor:
    """A copy of `tensor` in pinned memory, if there is a GPU that could use it."""
    return tensor.contiguous().pin_memory() if torch.cuda.is_available() else tensor
