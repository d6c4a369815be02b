"""Steering: a running shot gets a new caption, from its next chunk on.

| mode    | what later chunks attend to                             | their caption                       |
|---------|---------------------------------------------------------|-------------------------------------|
| recache | the shot's window, committed again under the new caption | the new one                         |
| keep    | the shot's window as it is                              | the new one                         |
| blend   | the shot's window as it is                              | moves to the new one, over 4 chunks |

The context of earlier shots, the global cache, stays in every mode. Recaching commits the clean latents of
the window again, chunk after chunk as they were first committed: LongLive's recache is one bidirectional pass
over all of them, which a student that was trained chunk by chunk has never seen.

Source: the prompt switch of LongLive (arXiv 2509.22622), for a dual cache.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from shotstream.model.cross_attention import TextCache
from shotstream.model.dit import DiT
from shotstream.story import Steer, SteerMode
from shotstream.streaming.conditioning import Conditioning

BLEND_CHUNKS = 4
"""Number of chunks over which a blend moves from one caption to the next."""


@dataclass(frozen=True, slots=True)
class CaptionSwitch:
    """The caption of a chunk and those after it, and whether the shot's window is committed again first."""

    text: TextCache
    """Keys and values of the caption."""
    recache: bool


SwitchFunction = Callable[[int], CaptionSwitch | None]
"""Returns the switch before a chunk of the shot, by its index; None: its caption is that of the one before.
It is called once for every chunk after the first, in order.
"""


class Steering:
    """The captions that one shot gets while it is generated: planned, or given by a person meanwhile.

    A thread that denoises a chunk ahead may read it while another one steers.
    """

    def __init__(self, num_chunks: int, planned: Sequence[Steer] = ()) -> None:
        """Creates the steering of a shot of `num_chunks` chunks; nothing was denoised yet."""
        self._num_chunks = num_chunks
        self._steers = {steer.chunk_index: steer for steer in planned}
        self._next_chunk = 0
        self._lock = threading.Lock()

    def steer(self, caption: str, mode: SteerMode) -> Steer:
        """Adds a caption for the next chunk that is not yet being denoised, and returns the switch.

        It replaces one for the same chunk.

        Raises:
            StoryError: The caption is empty, or the shot has not begun or has no further chunk.
        """
        with self._lock:
            steer = Steer(caption=caption, chunk_index=max(self._next_chunk, 1), mode=mode)
            if self._next_chunk == 0:
                raise ValueError(
                    "the shot has no chunk yet; give it this caption at its start, or steer it later"
                )
            if self._next_chunk >= self._num_chunks:
                raise ValueError("the last chunk of this shot is being made; cut to a new shot with it")
            self._steers[steer.chunk_index] = steer
            return steer

    def begin(self, chunk_index: int) -> Steer | None:
        """Returns the switch before a chunk, whose denoising begins now; None: there is none."""
        with self._lock:
            self._next_chunk = chunk_index + 1
            return self._steers.get(chunk_index)

    def until(self, num_chunks: int) -> tuple[Steer, ...]:
        """Returns the switches of the first chunks, in order."""
        with self._lock:
            return tuple(self._steers[index] for index in sorted(self._steers) if index < num_chunks)

    def captions(self, num_chunks: int, num_frames_of: Callable[[int], int]) -> tuple[tuple[int, str], ...]:
        """Returns the captions of the first chunks after the shot's own, with their first video frames.

        `num_frames_of` returns the number of video frames of a number of chunks.
        """
        return tuple((num_frames_of(one.chunk_index), one.caption) for one in self.until(num_chunks))


class SteeredCaptions:
    """The `SwitchFunction` of a shot: turns the captions of its steering into keys and values."""

    def __init__(
        self,
        dit: DiT,
        steering: Steering,
        embed: Callable[[Sequence[str]], Float[Tensor, "1 1 n d"]],
        caption: str,
    ) -> None:
        """Creates the captions of a shot.

        Args:
            dit: The transformer that attends to them.
            steering: The shot's steering.
            embed: Returns the embedding that the shot has after it got these captions, its own the first.
            caption: The shot's own caption.
        """
        self._dit = dit
        self._steering = steering
        self._embed = embed
        self._captions = [caption]
        self._blends: list[Tensor] = []
        self._current: Tensor | None = None

    def __call__(self, chunk_index: int) -> CaptionSwitch | None:
        """Returns the switch before a chunk, and notes that its denoising begins."""
        steer = self._steering.begin(chunk_index)
        if steer is None:
            return self._turn_to(self._blends.pop(0)) if self._blends else None
        before = self._current if self._current is not None else self._embed(self._captions)
        self._captions.append(steer.caption)
        target = self._embed(self._captions)
        self._blends = []
        if steer.mode == "blend":
            shares = [step / BLEND_CHUNKS for step in range(1, BLEND_CHUNKS)]
            self._blends = [*(before.lerp(target, share) for share in shares), target]
            target = self._blends.pop(0)
        return self._turn_to(target, recache=steer.mode == "recache")

    def _turn_to(self, embedding: Tensor, *, recache: bool = False) -> CaptionSwitch:
        self._current = embedding
        return CaptionSwitch(self._dit.text_cache(embedding), recache)


class TurningCaptions:
    """The `SwitchFunction` of a batch of shots that turn to a further caption of their conditioning.

    The window of a shot that does not turn with another is committed again as it was.
    """

    def __init__(self, conditioning: Conditioning, text: TextCache, chunk_latent_frames: int) -> None:
        assert conditioning.turn_frame is not None
        self._conditioning, self._text, self._size = conditioning, text, chunk_latent_frames
        self._turns = set(conditioning.turn_frame.tolist())

    def __call__(self, chunk_index: int) -> CaptionSwitch | None:
        """Returns the switch before a chunk."""
        frame = chunk_index * self._size
        if not chunk_index or frame not in self._turns:
            return None
        return CaptionSwitch(self._text.only(self._conditioning.captions_at(frame)), recache=True)
