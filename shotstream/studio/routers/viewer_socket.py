"""The WebSocket route: reads and validates a viewer's messages, and sends the items of its outbox."""

import contextlib
import json
from collections.abc import Awaitable
from typing import Any, cast

import anyio
from fastapi import APIRouter
from pydantic import TypeAdapter, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from shotstream.documents import DocumentError, parse_json
from shotstream.studio.api_error import ApiError
from shotstream.studio.dependencies import Backend
from shotstream.studio.ids import new_id
from shotstream.studio.limits import Limits
from shotstream.studio.rate_limit import TokenBucket
from shotstream.studio.schemas.base import ErrorCode, ReplyId
from shotstream.studio.schemas.server_messages import Error
from shotstream.studio.schemas.viewer_messages import FROM_VIEWER, CutShown, Playhead
from shotstream.studio.security import SOCKET_REFUSAL
from shotstream.studio.validation import validation_api_error
from shotstream.studio.viewer import (
    CLOSE_BUSY,
    CLOSE_FORBIDDEN,
    CLOSE_NOT_FOUND,
    CLOSE_TOO_FAST,
    Outbox,
    Viewer,
)
from shotstream.studio.worker import Worker

_MAX_EXCESS_MESSAGES = 100
_BURST_S = 2.0
"""Length of a burst that is allowed; a pause of this length resets the count of excess messages."""
_CLOSE_WAIT_S = 5.0
_REPLY_ID: TypeAdapter[str] = TypeAdapter(ReplyId)

router = APIRouter()


@router.websocket("/api/stories/{story_id}/live")
async def connect_viewer(socket: WebSocket, story_id: str) -> None:
    """Connects a viewer to a story until either side closes the socket."""
    backend: Backend = socket.app.state.backend
    await serve_viewer(socket, story_id, backend.worker, backend.app.limits)


async def serve_viewer(socket: WebSocket, story_id: str, worker: Worker, limits: Limits) -> None:
    """Serves one viewer until it disconnects or has to be disconnected."""
    await socket.accept()
    refusal = socket.scope[SOCKET_REFUSAL]
    if refusal:
        with _ignore_disconnect():
            await socket.close(CLOSE_FORBIDDEN, refusal)
        return
    outbox = Outbox(limits)
    viewer_id = new_id()
    try:
        await _serve(socket, story_id, viewer_id, outbox, worker, limits)
    finally:
        # Also for a viewer that disconnected before it was added, and however long the queue of calls is.
        worker.post_always(lambda manager: manager.remove_viewer(story_id, viewer_id))
    if outbox.close_code is not None:
        with anyio.move_on_after(_CLOSE_WAIT_S), _ignore_disconnect():
            await socket.close(outbox.close_code)


def _ignore_disconnect() -> contextlib.suppress:
    """Suppresses the errors of sending to a viewer that has disconnected meanwhile."""
    return contextlib.suppress(RuntimeError, WebSocketDisconnect)


async def _serve(
    socket: WebSocket, story_id: str, viewer_id: str, outbox: Outbox, worker: Worker, limits: Limits
) -> None:
    try:
        viewer = await worker.call(lambda manager: manager.add_viewer(story_id, viewer_id, outbox))
    except ApiError as error:
        with _ignore_disconnect():
            await socket.send_text(_error(None, error.code, str(error)).model_dump_json())
            await socket.close(CLOSE_NOT_FOUND if error.code == "not_found" else CLOSE_BUSY, str(error)[:100])
        return
    async with anyio.create_task_group() as group:

        async def run_until_first_ends(task: Awaitable[None]) -> None:
            await task
            group.cancel_scope.cancel()

        async def receive() -> None:
            await _receive(socket, story_id, viewer, worker, limits)
            if outbox.close_code is not None:
                # The viewer has to go. What is in its outbox is still sent, if it reads that in time.
                await anyio.sleep(_CLOSE_WAIT_S)

        group.start_soon(run_until_first_ends, _send(socket, outbox))
        group.start_soon(run_until_first_ends, receive())
        # A send blocks for as long as the viewer does not read; this does not.
        group.start_soon(run_until_first_ends, outbox.wait_until_full())


async def _send(socket: WebSocket, outbox: Outbox) -> None:
    """Sends until the outbox is closed and empty, or the viewer has disconnected."""
    while (item := await outbox.next_item()) is not None:
        try:
            await (socket.send_text(item) if isinstance(item, str) else socket.send_bytes(item))
        except (WebSocketDisconnect, RuntimeError):
            return


async def _receive(socket: WebSocket, story_id: str, viewer: Viewer, worker: Worker, limits: Limits) -> None:
    rate_limit = _RateLimit(limits.messages_per_s)
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        reply_to = None
        if not rate_limit.try_take():
            if rate_limit.num_excess > _MAX_EXCESS_MESSAGES:
                viewer.outbox.close(CLOSE_TOO_FAST)
                return
            reply_to = _id_in(text, limits)
            # Every control is answered. Of reports, which have no answer, only the first excess one is.
            if reply_to is not None or rate_limit.num_excess == 1:
                reason = (
                    f"more than {limits.messages_per_s:g} messages a second; this one was not carried out"
                )
                viewer.send(_error(reply_to, "too_fast", reason))
            continue
        try:
            if text is None:
                raise ApiError("malformed", "binary messages are not read; send JSON as text")
            if len(text.encode("utf-8", "surrogatepass")) > limits.upload_bytes:
                raise ApiError("too_large", f"a message has at most {limits.upload_bytes} bytes")
            document = _parse(text)
            reply_to = _reply_to(document)
            event = _validate(document)
            if isinstance(event, Playhead | CutShown):
                worker.post(lambda manager, event=event: manager.handle_report(story_id, viewer, event))
            else:
                # Awaited: the viewer's next message is read only after this control is answered.
                await worker.call(
                    lambda manager, event=event: manager.handle_control(story_id, viewer, event)
                )
        except ApiError as error:
            viewer.send(_error(reply_to, error.code, str(error)))


class _RateLimit:
    """The rate limit of one viewer, with the number of excess messages since its last pause."""

    def __init__(self, per_s: float) -> None:
        self._bucket = TokenBucket(per_s, max(1.0, per_s * _BURST_S))
        self.num_excess = 0

    def try_take(self) -> bool:
        """Returns whether a message is within the rate, and counts it."""
        if self._bucket.is_full:
            self.num_excess = 0
        if self._bucket.try_take():
            return True
        self.num_excess += 1
        return False


def _parse(text: str) -> dict[str, Any]:
    try:
        document = parse_json(text)
    except DocumentError as error:
        raise ApiError("malformed", str(error)) from error
    if not isinstance(document, dict):
        raise ApiError("malformed", "no JSON object")
    return cast("dict[str, Any]", document)


def _id_in(text: str | None, limits: Limits) -> str | None:
    """Returns the id of a message that is not carried out; None if it has no readable id."""
    if text is None or len(text) > limits.upload_bytes:
        return None
    try:
        return _reply_to(_parse(text))
    except ApiError:
        return None


def _reply_to(document: dict[str, Any]) -> str | None:
    try:
        return _REPLY_ID.validate_python(document.get("id"), strict=True)
    except ValidationError:
        return None


def _validate(document: dict[str, Any]) -> Any:
    try:
        # Through JSON again: pydantic's strict mode accepts a list for a tuple only when it reads JSON.
        return FROM_VIEWER.validate_json(json.dumps(document))
    except ValidationError as error:
        raise validation_api_error(error) from error


def _error(reply_to: str | None, code: ErrorCode, message: str) -> Error:
    return Error(reply_to=reply_to, code=code, message=message)
