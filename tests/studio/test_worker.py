"""The one thread that owns the stories: who asks is answered between two chunks, whatever happens there."""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from shotstream.studio.api_error import ApiError
from shotstream.studio.limits import Limits
from shotstream.studio.story_manager import StoryManager
from shotstream.studio.worker import Worker
from tests.studio.live_server import wait_until


class Quiet(StoryManager):
    """One that makes nothing, and writes down when its turn comes."""

    def __init__(self, commands: int) -> None:
        self.app = SimpleNamespace(limits=Limits(commands=commands))  # pyright: ignore
        self.done: list[str] = []
        self.num_closed = 0

    def make_next_chunk(self) -> bool:
        self.done.append("turn")
        return False

    def do_housekeeping(self) -> None:
        pass

    def close(self) -> None:
        self.num_closed += 1

    def does(self, what: str) -> Callable[[StoryManager], None]:
        return lambda _: self.done.append(what)


@pytest.fixture
def studio() -> Quiet:
    return Quiet(commands=2)


@pytest.fixture
def worker(studio: Quiet) -> Iterator[Worker]:
    worker = Worker(studio)
    yield worker
    if worker.is_alive:
        worker.stop()


def call(worker: Worker, function: Callable[[StoryManager], Any]) -> Any:
    async def asked() -> Any:
        async with asyncio.timeout(20):
            return await worker.call(function)

    return asyncio.run(asked())


def test_who_asks_is_told_what_came_of_it_in_the_workers_own_thread(worker: Worker, studio: Quiet) -> None:
    assert not worker.is_alive
    worker.start()
    found, name = call(worker, lambda given: (given, threading.current_thread().name))
    assert found is studio and name == "studio"
    with pytest.raises(ApiError, match="no such story"):
        call(worker, refuse)


def refuse(_: StoryManager) -> None:
    raise ApiError("not_found", "no such story")


def test_as_much_waits_as_may_and_what_undoes_an_earlier_call_always_does(
    worker: Worker, studio: Quiet
) -> None:
    for what in "ab":
        worker.post(studio.does(what))
    with pytest.raises(ApiError) as refusal:
        worker.post(studio.does("c"))
    assert refusal.value.code == "busy"
    worker.post_always(studio.does("d"))
    worker.start()
    wait_until(lambda: "turn" in studio.done)
    assert studio.done[:4] == ["a", "b", "d", "turn"], "in their order, and before the next chunk"


def test_calls_without_end_do_not_keep_a_chunk_waiting(worker: Worker, studio: Quiet) -> None:
    for _ in range(500):
        worker.post_always(studio.does("call"))
    worker.start()
    wait_until(lambda: studio.done.count("call") == 500)
    assert studio.done.index("turn") == 200


def test_while_there_is_something_to_make_no_call_is_waited_for(worker: Worker) -> None:
    waited: list[float] = []

    class Empty:
        def get(self, timeout: float) -> None:
            waited.append(timeout)
            raise queue.Empty

        def get_nowait(self) -> None:
            raise queue.Empty

    worker._calls = Empty()  # pyright: ignore
    worker._serve(wait=False)
    assert waited == []
    worker._serve(wait=True)
    assert len(waited) == 1, "otherwise it rests"


def test_a_fault_is_logged_and_the_others_are_served_on(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.post(lambda _: {}["nothing"])
    worker.start()
    assert call(worker, lambda _: "here") == "here"
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert worker.is_alive


def test_after_its_end_nothing_is_taken_and_the_stories_are_closed_once(
    worker: Worker, studio: Quiet
) -> None:
    worker.start()
    worker.stop()
    assert not worker.is_alive and studio.num_closed == 1
    with pytest.raises(ApiError, match="shuts down"):
        worker.post(studio.does("late"))
    with pytest.raises(ApiError, match="shuts down"):
        call(worker, studio.does("late"))
    assert "late" not in studio.done
