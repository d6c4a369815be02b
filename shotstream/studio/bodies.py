"""The bodies of requests: how large and how slow they may be, and how one that is too large is answered."""

import re
import time

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shotstream.studio.answers import plain
from shotstream.studio.limits import Limits
from shotstream.studio.proxy import path_in_app

_UPLOADS = re.compile(r"/api/stories/(import|[0-9a-f]{16}/pictures)")
_MOST_DRAINED_BYTES = 2**20
_LONGEST_DRAIN_S = 1.0


def is_upload(scope: Scope) -> bool:
    """Returns whether a request sends a picture or a story file."""
    return scope["method"] == "POST" and _UPLOADS.fullmatch(path_in_app(scope)) is not None


def max_bytes(scope: Scope, limits: Limits) -> int:
    """Returns the number of bytes that the body of a request may have."""
    if not is_upload(scope):
        return limits.upload_bytes
    return limits.picture_bytes if path_in_app(scope).endswith("/pictures") else limits.story_bytes


async def read_body(receive: Receive, most: int, limit_s: float) -> "bytes | ASGIApp":
    """Returns the complete body of a request, or the answer to one that is too large, slow or broken off."""
    body = bytearray()
    end_s = time.monotonic() + limit_s
    while True:
        message: Message | None = None
        with anyio.move_on_after(end_s - time.monotonic()):
            message = await receive()
        if message is None:
            reason = f"the body did not arrive within {limit_s:g} s"
            return plain(408, "refused", reason, {"connection": "close"})
        if message["type"] == "http.disconnect":
            return plain(400, "malformed", "the body was broken off")
        body += message.get("body", b"")
        if len(body) > most:
            return drain_and_refuse(most) if message.get("more_body", False) else _too_large_answer(most)
        if not message.get("more_body", False):
            return bytes(body)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that gives a body that was read already, then later messages."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return parts.pop() if parts else await receive()

    return received


def _too_large_answer(most: int) -> ASGIApp:
    return plain(413, "too_large", f"at most {most} bytes are taken")


def drain_and_refuse(most: int) -> ASGIApp:
    """Returns the answer to a body that is too large and still arriving: reads up to 1 MiB of it first.

    If a connection is closed while bytes are unread, the client gets a reset and loses the answer.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        left = _MOST_DRAINED_BYTES
        with anyio.move_on_after(_LONGEST_DRAIN_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
        await _too_large_answer(most)(scope, receive, send)

    return answer
