"""What cannot be done, with the code that the page is told."""

from shotstream.studio.events import ErrorCode


class ApiError(ValueError):
    """A request that is not carried out; the message is one line for the person."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
