"""What holds for every test."""

import signal


def pytest_configure() -> None:
    """Ctrl-C is heeded, also in a shell's background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
