"""Process-wide settings that make tensors on a CPU cheaper; for programs, never at a library's import."""

import ctypes
import os
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEPT_BYTES = 64 * 2**20


def tune_cpu() -> None:
    """Keeps freed memory, and every kernel that oneDNN has compiled for a shape.

    glibc hands each large buffer back to the system and faults it in again, page by page, at the next pass;
    on a virtual machine two cores were seen wholly in system time. oneDNN forgets the oldest of 1024 kernels
    and compiles it again; a training run meets more shapes. Does nothing to a setting that the environment
    has already made, nor without glibc.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, _KEPT_BYTES)


def keep_compiled(directory: Path) -> None:
    """Keeps what torch compiles in `directory`, for later processes, unless the environment names another."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(directory))


def number_from_torchrun(name: str, default: int) -> int:
    """A number that torchrun tells each process it starts, such as RANK, in the environment.

    Raises:
        ValueError: there is something else.
    """
    given = os.environ.get(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdigit()):
        raise ValueError(f"{name} is {given!r} in the environment; torchrun sets a number there: unset it")
    return int(given)


def num_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
