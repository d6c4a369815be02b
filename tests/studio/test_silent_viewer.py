"""A viewer that never reads: given up, while the story goes on for the others."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from shotstream.studio.app import StudioSettings, create_app
from shotstream.studio.limits import Limits
from tests.streaming.tiny import tiny_pipeline


class SilentViewer:
    """An ASGI connection that asks on and on, and whose every send waits for ever."""

    def __init__(self, story_id: str) -> None:
        self.scope = {
            "type": "websocket",
            "path": f"/api/stories/{story_id}/live",
            "headers": [(b"host", b"localhost:1")],
            "query_string": b"",
            "subprotocols": [],
        }
        self.num_asked = 0
        self.code: int | None = None

    async def receive(self) -> dict[str, Any]:
        self.num_asked += 1
        if self.num_asked == 1:
            return {"type": "websocket.connect"}
        message = {"type": "set_autoplay", "id": str(self.num_asked), "on": True}
        return {"type": "websocket.receive", "text": json.dumps(message)}

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.close":
            self.code = message["code"]
        elif message["type"] == "websocket.send":
            await anyio.sleep_forever()


@pytest.mark.slow
def test_a_viewer_that_never_reads_is_given_up_and_the_story_goes_on(tmp_path: Path) -> None:
    limits = Limits(outbox_messages=30, messages_per_s=1e6)
    app = create_app(StudioSettings(data_dir=tmp_path, limits=limits), tiny_pipeline())

    async def run() -> None:
        async with app.router.lifespan_context(app):
            worker = app.state.backend.worker
            story = await worker.call(
                lambda manager: manager.create_story("A fox", "a forest", (), seed=7, autoplay=True)
            )
            silent = SilentViewer(story.story_id)
            with anyio.fail_after(20):
                await app(silent.scope, silent.receive, silent.send)
                while await worker.call(lambda manager: bool(manager._stories[story.story_id].viewers)):
                    await anyio.sleep(0.01)
            assert silent.code == 4408
            assert 10 < silent.num_asked < 100, "it was given up when its outbox was full"
            assert (await worker.call(lambda manager: manager.story_state(story.story_id))).autoplay

    anyio.run(run)


class HastyViewer(SilentViewer):
    """Who is gone before anything can be said."""

    async def send(self, message: Any) -> None:
        if message["type"] != "websocket.accept":
            raise OSError("the connection is closed")


def test_a_viewer_who_is_gone_before_its_refusal_is_told_is_no_fault(tmp_path: Path) -> None:
    """Once a hundred viewers who came and went at the same time filled the log with tracebacks."""
    app = create_app(StudioSettings(data_dir=tmp_path), tiny_pipeline())

    async def run() -> None:
        async with app.router.lifespan_context(app):
            hasty = HastyViewer("0" * 16)
            with anyio.fail_after(60):
                await app(hasty.scope, hasty.receive, hasty.send)

    anyio.run(run)
