"""What holds for every test."""

import signal
from pathlib import Path

import pytest

GOLDENS = Path(__file__).parent / "assets" / "goldens"


def pytest_configure() -> None:
    """Ctrl-C is heeded, also in a shell's background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests that read goldens where there are none: in an unpacked source distribution."""
    if not GOLDENS.is_dir():
        skip = pytest.mark.skip(reason="a source distribution has no goldens")
        for item in items:
            if item.get_closest_marker("goldens") or "golden" in getattr(item, "fixturenames", ()):
                item.add_marker(skip)
