"""Memory that was freed, given back to the system: the C library keeps what lies between longer-lived pieces.

Measured in a soak: without it a server grows by a megabyte or two a minute while every Python object of a
story that was let go is gone.
"""

import ctypes
import sys

EVERY_S = 60.0


def give_back() -> None:
    """Asks glibc to return free pages; elsewhere nothing is done. Takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
