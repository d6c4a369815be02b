import io
from threading import Event

import numpy as np
import pytest

from shotstream.video.fragment_thread import FragmentThread
from shotstream.video.video_io import FragmentWriter, Frames, VideoError

av = pytest.importorskip("av", reason="writes and reads videos")


def grey_frames(num_frames: int, first: int) -> np.ndarray:
    levels = np.arange(first, first + num_frames, dtype=np.uint8) * 5
    return np.broadcast_to(levels[:, None, None, None], (num_frames, 32, 48, 3)).copy()


def test_chunks_come_out_whole_and_in_order() -> None:
    chunks = [grey_frames(9, 0), grey_frames(12, 9), grey_frames(12, 21)]
    with FragmentThread(FragmentWriter(12)) as thread:
        parts = [future.result() for future in [thread.submit(chunk) for chunk in chunks]]
    assert [bool(header) for header, _ in parts] == [True, False, False]
    with av.open(io.BytesIO(b"".join(header + fragment for header, fragment in parts))) as container:
        found = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    assert np.abs(np.array(found) - np.arange(33) * 5).max() < 3


class _HeldWriter(FragmentWriter):
    """Waits to be let go before each chunk."""

    def __init__(self) -> None:
        super().__init__(12)
        self.go = Event()
        self.num_begun = 0

    def write(self, frames: Frames) -> tuple[bytes, bytes]:
        self.num_begun += 1
        assert self.go.wait(30)
        return super().write(frames)


def test_whoever_is_too_fast_waits() -> None:
    writer = _HeldWriter()
    with FragmentThread(writer, max_waiting=2) as thread:
        futures = [thread.submit(grey_frames(2, 0)) for _ in range(2)]
        assert not thread._room.acquire(blocking=False)
        assert not any(future.done() for future in futures)
        writer.go.set()
        futures.append(thread.submit(grey_frames(2, 0)))
    assert writer.num_begun == 3 and all(future.done() for future in futures)


def test_an_error_in_the_caller_lets_what_waits_go() -> None:
    writer = _HeldWriter()
    with pytest.raises(KeyError), FragmentThread(writer, max_waiting=3) as thread:
        futures = [thread.submit(grey_frames(2, 0)) for _ in range(3)]
        writer.go.set()
        raise KeyError
    # The chunk in hand is finished; those that were not begun never are.
    assert all(future.done() for future in futures)


def test_an_error_of_the_encoder_is_the_futures_and_the_next_chunk_is_encoded() -> None:
    with FragmentThread(FragmentWriter(12), max_waiting=1) as thread:
        assert thread.submit(grey_frames(2, 0)).result()[0]
        with pytest.raises(VideoError, match="cannot follow"):
            thread.submit(np.zeros((2, 64, 48, 3), np.uint8)).result()
        assert thread.submit(grey_frames(2, 2)).result()[1]
    with pytest.raises(ValueError, match="max_waiting"):
        FragmentThread(FragmentWriter(12), max_waiting=0)
