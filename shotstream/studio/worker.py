"""The one thread that owns the model and every open story; others hand it calls through a bounded queue.

Between two chunks it carries out what is waiting, so that a control is answered within a chunk's time.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from shotstream.studio.api_error import ApiError
from shotstream.studio.story_manager import StoryManager

_IDLE_WAIT_S = 0.2
_CALLS_PER_CHUNK = 200
_log = logging.getLogger(__name__)

T = TypeVar("T")


class Worker:
    """Runs a studio in a thread of its own, from `start` to `stop`."""

    def __init__(self, manager: StoryManager) -> None:
        self._manager = manager
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._max_calls = manager.app.limits.commands
        self._thread = threading.Thread(target=self._run, name="studio", daemon=True)
        self._is_stopping = threading.Event()

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the chunk that is being made; every finished shot is on disk already."""
        self._is_stopping.set()
        self._calls.put(lambda: None)  # Wakes a worker that has nothing to do.
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether it works."""
        return self._thread.is_alive()

    async def call(self, function: Callable[[StoryManager], T]) -> T:
        """What a function of the studio returns, called between two chunks.

        Raises:
            ApiError: Too much is waiting; or what the function raises.
        """
        answer: Future[T] = Future()

        def call() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(function(self._manager))
            except Exception as error:
                answer.set_exception(error)  # It is raised where it was asked for.

        self._put(call)
        return await asyncio.wrap_future(answer)

    def post(self, function: Callable[[StoryManager], None]) -> None:
        """As `ask`, without waiting for it; ApiError when too much is waiting."""
        self._put(lambda: function(self._manager))

    def post_always(self, function: Callable[[StoryManager], None]) -> None:
        """As `tell`, whatever is waiting: for what undoes an earlier call."""
        self._calls.put(lambda: function(self._manager))

    def _put(self, call: Callable[[], None]) -> None:
        if self._is_stopping.is_set():
            raise ApiError("busy", "the server ends")
        if self._calls.qsize() >= self._max_calls:
            raise ApiError("busy", "the server has too much to do; try again")
        self._calls.put(call)

    def _run(self) -> None:
        is_working = False
        while not self._is_stopping.is_set():
            try:
                self._serve(wait=not is_working)
                is_working = self._manager.make_next_chunk()
                self._manager.do_housekeeping()
            except Exception:
                # One story's fault, however odd, must not end the others: the log has it.
                _log.exception("the worker goes on after a fault")
        self._manager.close()

    def _serve(self, *, wait: bool) -> None:
        for number in range(_CALLS_PER_CHUNK):
            try:
                call = (
                    self._calls.get(timeout=_IDLE_WAIT_S)
                    if wait and number == 0
                    else self._calls.get_nowait()
                )
            except queue.Empty:
                return
            call()
