"""The error that is reported to the client, over HTTP and WebSocket alike."""

from shotstream.studio.schemas.base import ErrorCode


class ApiError(ValueError):
    """A request or control that cannot be carried out: an error code, and one line of text for the user."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
