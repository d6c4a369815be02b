"""One viewer's WebSocket: reads and checks messages, and sends what the worker puts into the outbox."""

import contextlib
import json
from collections.abc import Awaitable
from typing import Any, cast

import anyio
from pydantic import TypeAdapter, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from shotstream.documents import DocumentError, parse_json
from shotstream.studio.api_error import ApiError
from shotstream.studio.events import FROM_VIEWER, CutShown, Error, ErrorCode, Playhead, ReplyId
from shotstream.studio.limits import Limits
from shotstream.studio.rate_limit import TokenBucket
from shotstream.studio.security import SOCKET_REFUSAL
from shotstream.studio.story_store import new_id
from shotstream.studio.validation import describe_validation_error
from shotstream.studio.viewer import (
    CLOSE_BUSY,
    CLOSE_FORBIDDEN,
    CLOSE_NOT_FOUND,
    CLOSE_TOO_FAST,
    Outbox,
    Viewer,
)
from shotstream.studio.worker import Worker

_MAX_TOO_FAST = 100
_BURST_S = 2.0
"""So much time's messages may come at once; after so much rest what was too fast is forgotten."""
_CLOSE_WAIT_S = 5.0
_REPLY_ID: TypeAdapter[str] = TypeAdapter(ReplyId)


async def serve_viewer(socket: WebSocket, story_id: str, worker: Worker, limits: Limits) -> None:
    """Serves one viewer until it goes, or has to go."""
    await socket.accept()
    refused = socket.scope[SOCKET_REFUSAL]
    if refused:
        with _ignore_disconnect():
            await socket.close(CLOSE_FORBIDDEN, refused)
        return
    outbox = Outbox(limits)
    viewer_id = new_id()
    try:
        await _serve(socket, story_id, viewer_id, outbox, worker, limits)
    finally:
        # Insisted on, and also after a viewer who went while it was coming in.
        worker.post_always(lambda manager: manager.remove_viewer(story_id, viewer_id))
    if outbox.close_code is not None:
        with anyio.move_on_after(_CLOSE_WAIT_S), _ignore_disconnect():
            await socket.close(outbox.close_code)


def _ignore_disconnect() -> contextlib.suppress:
    """For words to a viewer who may have left meanwhile: that is no fault."""
    return contextlib.suppress(RuntimeError, WebSocketDisconnect)


async def _serve(
    socket: WebSocket, story_id: str, viewer_id: str, outbox: Outbox, worker: Worker, limits: Limits
) -> None:
    try:
        viewer = await worker.call(lambda manager: manager.add_viewer(story_id, viewer_id, outbox))
    except ApiError as refusal:
        with _ignore_disconnect():
            await socket.send_text(_error(None, refusal.code, str(refusal)).model_dump_json())
            await socket.close(
                CLOSE_NOT_FOUND if refusal.code == "not_found" else CLOSE_BUSY, str(refusal)[:100]
            )
        return
    async with anyio.create_task_group() as group:

        async def ends_all(work: Awaitable[None]) -> None:
            await work
            group.cancel_scope.cancel()

        async def reads() -> None:
            await _read(socket, story_id, viewer, worker, limits)
            if outbox.close_code is not None:
                # It has to go: what it is told last is still sent, unless it does not read that either.
                await anyio.sleep(_CLOSE_WAIT_S)

        group.start_soon(ends_all, _send(socket, outbox))
        group.start_soon(ends_all, reads())
        # A send waits for as long as the viewer does not read; this one does not.
        group.start_soon(ends_all, outbox.wait_until_full())


async def _send(socket: WebSocket, outbox: Outbox) -> None:
    """Sends until the outbox has ended and is empty, or the viewer is gone."""
    while (item := await outbox.next_item()) is not None:
        try:
            await (socket.send_text(item) if isinstance(item, str) else socket.send_bytes(item))
        except (WebSocketDisconnect, RuntimeError):
            return


async def _read(socket: WebSocket, story_id: str, viewer: Viewer, worker: Worker, limits: Limits) -> None:
    pace = _RateLimit(limits.messages_per_s)
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        reply_to = None
        if not pace.takes():
            if pace.num_too_fast > _MAX_TOO_FAST:
                viewer.outbox.close(CLOSE_TOO_FAST)
                return
            reply_to = _id_in(text, limits)
            # A control is always answered; of reports, which never are, the first is enough.
            if reply_to is not None or pace.num_too_fast == 1:
                told = f"more than {limits.messages_per_s:g} messages a second; this one was not carried out"
                viewer.send(_error(reply_to, "too_fast", told))
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
                # Waited for: a viewer's next message is read when this one is answered.
                await worker.call(
                    lambda manager, event=event: manager.handle_control(story_id, viewer, event)
                )
        except ApiError as refusal:
            viewer.send(_error(reply_to, refusal.code, str(refusal)))


class _RateLimit:
    """Whether a viewer keeps to the rate, and how often it has not since it last rested."""

    def __init__(self, per_s: float) -> None:
        self._bucket = TokenBucket(per_s, max(1.0, per_s * _BURST_S))
        self.num_too_fast = 0

    def takes(self) -> bool:
        """Whether a message may pass now."""
        if self._bucket.is_full:
            self.num_too_fast = 0
        if self._bucket.try_take():
            return True
        self.num_too_fast += 1
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
    """The id of a message that is not carried out."""
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
        # Through JSON again: in strict mode only JSON's own types are taken for tuples and the like.
        return FROM_VIEWER.validate_json(json.dumps(document))
    except ValidationError as error:
        raise validation_api_error(error) from error


def validation_api_error(error: ValidationError) -> ApiError:
    """What is wrong with a message, in one line."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "union_tag_invalid":
        return ApiError("unknown_event", "no such type of event")
    if first["type"] == "union_tag_not_found":
        return ApiError("invalid", "type: it is missing")
    # The first part of the way to the field is the message's type, which the viewer knows.
    where = ".".join(str(part) for part in first["loc"][1:] or first["loc"])
    return ApiError("invalid", f"{where}: {describe_validation_error(first)}"[:300])


def _error(reply_to: str | None, code: ErrorCode, message: str) -> Error:
    return Error(reply_to=reply_to, code=code, message=message)
