"""New ids and time stamps."""

from datetime import UTC, datetime
from secrets import token_hex


def new_id() -> str:
    """Returns a random id: 16 hexadecimal digits."""
    return token_hex(8)


def utc_now() -> str:
    """Returns the current time for display: ISO 8601, UTC. Order never depends on it: clocks may go back."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
