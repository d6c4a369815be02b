"""The worker thread: it alone uses the model and the open stories. Others queue calls to it.

Queued calls run between two chunks, so a control is answered within the time of one chunk.
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
    """Runs a `StoryManager` in a thread of its own, from `start` to `stop`."""

    def __init__(self, manager: StoryManager) -> None:
        self._manager = manager
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._max_calls = manager.app.limits.commands
        self._thread = threading.Thread(target=self._run, name="studio", daemon=True)
        self._is_stopping = threading.Event()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread after the current chunk."""
        self._is_stopping.set()
        self._calls.put(lambda: None)  # Wakes an idle worker.
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    async def call(self, function: Callable[[StoryManager], T]) -> T:
        """Calls a function with the manager in the worker's thread, and returns its result.

        Raises:
            ApiError: Too many calls are queued, or the worker stops.
            Exception: Whatever the function raises.
        """
        answer: Future[T] = Future()

        def call() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(function(self._manager))
            except Exception as error:
                answer.set_exception(error)  # Raised at the caller's await.

        self._put(call)
        return await asyncio.wrap_future(answer)

    def post(self, function: Callable[[StoryManager], None]) -> None:
        """Queues a call without waiting for it; raises ApiError if too many are queued."""
        self._put(lambda: function(self._manager))

    def post_always(self, function: Callable[[StoryManager], None]) -> None:
        """Queues a call however many are queued: for calls that undo an earlier one."""
        self._calls.put(lambda: function(self._manager))

    def _put(self, call: Callable[[], None]) -> None:
        if self._is_stopping.is_set():
            raise ApiError("busy", "the server shuts down")
        if self._calls.qsize() >= self._max_calls:
            raise ApiError("busy", "the server is overloaded; try again")
        self._calls.put(call)

    def _run(self) -> None:
        is_working = False
        while not self._is_stopping.is_set():
            try:
                self._serve(wait=not is_working)
                is_working = self._manager.make_next_chunk()
                self._manager.do_housekeeping()
            except Exception:
                # An error in one story must not end the others; the log has the traceback.
                _log.exception("the worker continues after an internal error")
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
