"""Process-wide settings that make tensors on a CPU faster; for programs, never at a library's import."""

import ctypes
import os
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEPT_BYTES = 64 * 2**20


def tune_cpu() -> None:
    """Keeps freed memory in the process, and every kernel that oneDNN has compiled for a shape.

    By default glibc returns each large buffer to the system and gets it back, page by page, in the next pass;
    on a virtual machine this kept two cores busy with system time. oneDNN keeps only 1024 kernels and
    compiles others again; a training run has more shapes. A setting that the environment has already is not
    changed, and without glibc the first one does nothing.
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
    """Stores what torch compiles in `directory` for later processes, unless the environment names another."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(directory))


def number_from_torchrun(name: str, default: int) -> int:
    """Returns a number that torchrun sets in each process's environment, such as RANK.

    Raises:
        ValueError: The variable is not a number.
    """
    given = os.environ.get(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdigit()):
        raise ValueError(f"{name} is {given!r} in the environment; torchrun sets a number there: unset it")
    return int(given)


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
