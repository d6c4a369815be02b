"""A file response that always calls back when it ends, whatever the client does."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fastapi.responses import FileResponse, JSONResponse
from starlette.types import Message, Receive, Scope, Send

from shotstream.studio.schemas.rest import Problem

_REFUSED = (400, 416)


class DownloadResponse(FileResponse):
    """A file download. A range outside the file is answered with 416 and a `Problem`.

    Args:
        path: The file.
        media_type: Its media type.
        filename: The name to save it as; None: it is shown in the browser.
        headers: Additional headers.
        on_finished: Called once, when the file was sent, refused, or the client disconnected.
    """

    def __init__(
        self,
        path: Path,
        media_type: str,
        *,
        filename: str | None = None,
        headers: Mapping[str, str] | None = None,
        on_finished: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(path, media_type=media_type, filename=filename, headers=headers)
        self._ended = on_finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_refused = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal is_refused
            is_refused = is_refused or message.get("status") in _REFUSED
            if not is_refused:
                await send(message)

        try:
            await super().__call__(scope, receive, send_unless_refused)
            if is_refused:
                num_bytes = Path(self.path).stat().st_size
                problem = Problem(
                    code="invalid", message=f"Range: the file has the bytes 0 to {num_bytes - 1}"
                )
                headers = {"Content-Range": f"bytes */{num_bytes}"}
                await JSONResponse(problem.model_dump(), 416, headers)(scope, receive, send)
        finally:
            if self._ended is not None:
                self._ended()
