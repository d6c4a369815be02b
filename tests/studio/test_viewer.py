"""What waits for one viewer: in order, bounded, and never waited for by who puts it there."""

import asyncio
from collections.abc import Awaitable, Callable
from threading import Thread

import pytest

from shotstream.studio.limits import Limits
from shotstream.studio.viewer import CLOSE_GOING_AWAY, CLOSE_NOT_READING, CLOSE_TOO_FAST, Outbox

LIMITS = Limits(outbox_bytes=10, outbox_messages=6)


def within(work: Callable[[Outbox], Awaitable[None]]) -> Outbox:
    """The outbox that the work was done with, in an event loop that has ended."""

    async def run() -> Outbox:
        outbox = Outbox(LIMITS)
        async with asyncio.timeout(20):
            await work(outbox)
        return outbox

    return asyncio.run(run())


def test_messages_come_in_their_order_each_picture_after_its_own() -> None:
    async def work(outbox: Outbox) -> None:
        assert outbox.put("a") and outbox.put("b", b"1") and outbox.put("c")
        assert [await outbox.next_item() for _ in range(4)] == ["a", "b", b"1", "c"]

    within(work)


def test_pictures_that_do_not_fit_are_left_out_until_others_are_taken() -> None:
    async def work(outbox: Outbox) -> None:
        assert outbox.put("a", b"1" * 10), "as many bytes as there may be"
        assert not outbox.put("b", b"2")
        assert outbox.put("c"), "words always fit"
        assert await outbox.next_item() == "a" and not outbox.put("b", b"2")
        assert await outbox.next_item() == b"1" * 10
        assert outbox.put("d", b"3" * 4) and outbox.put("e", b"4" * 6) and not outbox.put("f", b"5")
        assert outbox.close_code is None
        assert [await outbox.next_item() for _ in range(5)] == ["c", "d", b"3" * 4, "e", b"4" * 6]

    within(work)


def test_who_reads_nothing_is_given_up_and_what_waited_is_dropped() -> None:
    async def work(outbox: Outbox) -> None:
        given_up = asyncio.create_task(outbox.wait_until_full())
        for number in range(6):
            outbox.put(str(number))
        await asyncio.sleep(0)
        assert outbox.close_code is None and not given_up.done(), "as many as there may be"
        outbox.put("one more")
        await given_up
        assert outbox.close_code == CLOSE_NOT_READING
        assert outbox.put("late", b"1" * 100), "nobody waits for room that is not needed any more"
        outbox.close(CLOSE_GOING_AWAY)
        assert outbox.close_code == CLOSE_NOT_READING and await outbox.next_item() is None

    within(work)


def test_what_waits_is_sent_before_the_end_whose_first_reason_counts() -> None:
    async def work(outbox: Outbox) -> None:
        outbox.put("a")
        outbox.close(CLOSE_TOO_FAST)
        outbox.close(CLOSE_GOING_AWAY)
        outbox.put("late")
        assert [await outbox.next_item(), await outbox.next_item()] == ["a", None]
        assert outbox.close_code == CLOSE_TOO_FAST

    within(work)


@pytest.mark.parametrize(("name", "said", "taken"), [("put", "a", "a"), ("close", CLOSE_GOING_AWAY, None)])
def test_who_waits_is_woken_from_another_thread(name: str, said: object, taken: str | None) -> None:
    async def work(outbox: Outbox) -> None:
        waiting = asyncio.create_task(outbox.next_item())
        await asyncio.sleep(0)
        assert not waiting.done()
        thread = Thread(target=getattr(outbox, name), args=(said,))
        thread.start()
        assert await waiting == taken
        thread.join()

    within(work)


def test_words_after_the_servers_end_are_for_nobody() -> None:
    async def work(_: Outbox) -> None:
        pass

    outbox = within(work)
    assert outbox.put("a")
    outbox.close(CLOSE_GOING_AWAY)
