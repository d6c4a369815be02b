"""A story in the making: shots one after another, each chunk handed out as soon as it is decoded.

A session is its takes: what each shot was made from, and the latents of the few frames of it that later
shots may look back at. Takes never change, so that a fork shares them, undo drops one, and a saved
session is them written down. A shot is a pure function of (weights, its context, its captions, its seed):
on the same hardware, dtype, thread count and torch version it comes out with identical frames.

A cut is just the next call of `shot`. Closing the iterator of a shot early, or letting go of it, is a cut
at that chunk: the session keeps what was handed out. An error in the middle of a shot keeps nothing of
it.

Not for several threads at once; sessions of one pipeline may be interleaved freely between chunks.
"""

import os
import weakref
from collections.abc import Generator, Iterator
from contextlib import closing
from inspect import GEN_SUSPENDED, getgeneratorstate
from pathlib import Path

import numpy as np

from shotstream.story import MAX_SEED
from shotstream.streaming.context_encoder import ContextEncoder, as_picture
from shotstream.streaming.context_sampling import max_pins
from shotstream.streaming.noise import derive_seed, shot_seed
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.saved_session import (
    Pin,
    SavedSession,
    SessionError,
    Take,
    read_session,
    write_session,
)
from shotstream.streaming.shot import Chunk, closed_at_exit, make_shot
from shotstream.streaming.shot_request import ShotRequest


class StorySession:
    """A film under one global caption. Made by `StreamingPipeline.session`."""

    def __init__(self, pipeline: StreamingPipeline, global_caption: str, *, seed: int = 0) -> None:
        """An empty film.

        Args:
            pipeline: What it is made with; shared with other sessions.
            global_caption: What all shots share.
            seed: Shots without a seed of their own derive one from it and their index.

        Raises:
            ValueError: The caption is empty or the seed out of range.
        """
        if not global_caption.strip():
            raise ValueError("the global caption is empty; say what all shots share")
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed {seed}; allowed are 0 to {MAX_SEED}")
        self._pipeline = pipeline
        self._global_caption = global_caption
        self._seed = seed
        self._takes: tuple[Take, ...] = ()
        self._pins: tuple[Pin, ...] = ()
        self._open_shot: weakref.ref[Generator[Chunk, None, None]] | None = None
        self._open_shot_index = 0

    @classmethod
    def load(cls, path: str | os.PathLike[str], pipeline: StreamingPipeline) -> "StorySession":
        """The session saved at `path`; it goes on as if it had never ended.

        Raises:
            SessionError: The file is no saved session, is damaged, or belongs to another model.
        """
        saved = read_session(Path(path))
        _check_origin(saved, pipeline, Path(path))
        session = cls(pipeline, saved.global_caption, seed=saved.seed)
        session._takes, session._pins = saved.takes, saved.pins
        return session

    @property
    def global_caption(self) -> str:
        """The caption that all shots share."""
        return self._global_caption

    @property
    def seed(self) -> int:
        """The seed of shots without one."""
        return self._seed

    @property
    def shots(self) -> tuple[Take, ...]:
        """The finished shots; one whose iterator is held, and not exhausted or closed, is not there yet."""
        return self._takes

    @property
    def pinned_shots(self) -> tuple[int, ...]:
        """The shot that each pinned picture belongs to, in the order of pinning."""
        return tuple(pin.shot_index for pin in self._pins)

    def shot(
        self,
        caption: str,
        *,
        num_chunks: int | None = None,
        seed: int | None = None,
        steps: int | None = None,
    ) -> Iterator[Chunk]:
        """The next shot, chunk by chunk, as it is made. A shot still open is cut at its last chunk.

        Nothing is computed before the first chunk is asked for. A chunk is committed to the cache after it
        was handed out, when the next one is asked for.

        Args:
            caption: What this shot shows.
            num_chunks: Its length; None is the model's usual one. Close the iterator to end it earlier.
            seed: Of its noise; None derives one from the session's seed and the shot's index.
            steps: Denoising steps per chunk; None is what the model was trained for.

        Raises:
            ValueError: An empty caption, or a number out of range.
        """
        self._request(caption, num_chunks, 0 if seed is None else seed, steps, 0)  # wrong ones cut nothing
        self._end_open_shot()
        seed = shot_seed(self._seed, len(self._takes)) if seed is None else seed
        return self._start(self._request(caption, num_chunks, seed, steps, len(self._takes)))

    def retake(
        self,
        shot_index: int,
        *,
        caption: str | None = None,
        seed: int | None = None,
        num_chunks: int | None = None,
        steps: int | None = None,
    ) -> Iterator[Chunk]:
        """Shot `shot_index` once more, chunk by chunk; it replaces the old take and every shot after it.

        The shots after it were made from the old take, so they go; `fork` first to keep them. Until the new
        take is finished or cut the session is as it was, and an error or no chunk at all leaves it so.

        Args:
            shot_index: A finished shot, 0-based; negative counts from the end.
            caption: None keeps the old one.
            seed: None keeps the old one for another caption, length or number of steps, else derives the
                next one.
            num_chunks: None keeps the old length.
            steps: None keeps the old number.

        Raises:
            ValueError: There is no such shot, or as in `shot`.
        """
        num_shots = self._num_shots_if_cut()
        if not -num_shots <= shot_index < num_shots:
            raise ValueError(f"no shot {shot_index} to take again; there are {num_shots}, counted from 0")
        self._request(
            "the old one" if caption is None else caption, num_chunks, 0 if seed is None else seed, steps, 0
        )
        self._end_open_shot()
        shot_index = self._existing(shot_index)
        old = self._takes[shot_index]
        if seed is None:
            changed = (caption, num_chunks, steps) != (None, None, None)
            seed = old.seed if changed else derive_seed(old.seed, "retake")
        return self._start(
            self._request(
                old.caption if caption is None else caption,
                old.num_chunks if num_chunks is None else num_chunks,
                seed,
                old.num_steps if steps is None else steps,
                shot_index,
            )
        )

    def undo(self) -> Take:
        """Drop the last shot and the pictures pinned to it; returns it. A shot still open is cut, and last.

        Raises:
            ValueError: There is no shot.
        """
        self._end_open_shot()
        if not self._takes:
            raise ValueError("no shot to undo")
        last = self._takes[-1]
        self._set(self._takes[:-1])
        return last

    def fork(self) -> "StorySession":
        """Another session with the same finished shots and pins; neither sees what becomes of the other."""
        other = StorySession(self._pipeline, self._global_caption, seed=self._seed)
        other._takes, other._pins = self._takes, self._pins
        return other

    def pin(self, image: np.ndarray, shot_index: int) -> None:
        """Keep a picture in the context of every shot to come, as a frame of a finished shot.

        Args:
            image: RGB at the model's frame size, "h w 3": a frame of the film, or any other picture in uint8,
                or in floats of 0 to 1.
            shot_index: The shot it counts as a frame of: it gets that shot's phase and caption. Negative
                counts from the end.

        Raises:
            ValueError: No such shot, no picture or one of another size, as many pins as the context allows,
                or a model whose context policy knows no pins.
        """
        shot_index = self._existing(shot_index)
        policy, budget = self._pipeline.config.context_policy, self._pipeline.context_budget
        if len(self._pins) >= max_pins(policy, budget):
            raise ValueError(
                f"the context policy {policy!r} allows {max_pins(policy, budget)} pinned of {budget} context "
                "frames; unpin one first"
            )
        latent = self._pipeline.encode_frames(as_picture(image)[None])[0]
        self._pins = (*self._pins, Pin(shot_index=shot_index, latent=latent))

    def unpin(self, shot_index: int | None = None) -> None:
        """Forget the pictures pinned to a shot; None forgets all."""
        freed = None if shot_index is None else self._existing(shot_index)
        self._pins = tuple(pin for pin in self._pins if freed is not None and pin.shot_index != freed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the finished shots and pins to one file, whole or not at all; lossless, see `load`."""
        write_session(
            Path(path),
            SavedSession(
                model_id=self._pipeline.config.model_id,
                weights_sha256=self._pipeline.weights_sha256,
                context_policy=self._pipeline.config.context_policy,
                global_caption=self._global_caption,
                seed=self._seed,
                takes=self._takes,
                pins=self._pins,
            ),
        )

    def _request(
        self, caption: str, num_chunks: int | None, seed: int, steps: int | None, shot_index: int
    ) -> ShotRequest:
        config = self._pipeline.config
        return ShotRequest(
            global_caption=self._global_caption,
            caption=caption,
            seed=seed,
            num_steps=len(config.student_steps) if steps is None else steps,
            num_chunks=config.num_chunks if num_chunks is None else num_chunks,
            takes=self._takes[:shot_index],
            pins=tuple(pin for pin in self._pins if pin.shot_index < shot_index),
        )

    def _start(self, request: ShotRequest) -> Iterator[Chunk]:
        shot = self._film(request)
        # Weak, so that a caller who lets go of the iterator ends the shot there and then.
        self._open_shot, self._open_shot_index = weakref.ref(shot), len(request.takes)
        return shot

    @closed_at_exit
    def _film(self, request: ShotRequest) -> Generator[Chunk, None, None]:
        encoder = ContextEncoder(self._pipeline, request)
        with closing(make_shot(self._pipeline, request, context_encoder=encoder)) as chunks:
            try:
                yield from chunks
            except GeneratorExit:
                # Nothing is made any more that nobody asked for, while what stays is encoded.
                chunks.close()
                self._set((*request.takes, encoder.take()))
                raise
        self._set((*request.takes, encoder.take()))

    def _set(self, takes: tuple[Take, ...]) -> None:
        replaced_from = next(
            (
                index
                for index, pair in enumerate(zip(self._takes, takes, strict=False))
                if pair[0] is not pair[1]
            ),
            len(takes),
        )
        self._takes = takes
        self._pins = tuple(pin for pin in self._pins if pin.shot_index < replaced_from)

    def _num_shots_if_cut(self) -> int:
        """The number of shots once the open one has ended; one that has handed out nothing leaves no take."""
        shot = self._open_shot() if self._open_shot is not None else None
        if shot is None or getgeneratorstate(shot) != GEN_SUSPENDED:
            return len(self._takes)
        return self._open_shot_index + 1

    def _end_open_shot(self) -> None:
        shot = self._open_shot() if self._open_shot is not None else None
        self._open_shot = None
        if shot is not None:
            shot.close()

    def _existing(self, shot_index: int) -> int:
        num_shots = len(self._takes)
        if not -num_shots <= shot_index < num_shots:
            raise ValueError(f"no finished shot {shot_index}; there are {num_shots}, counted from 0")
        return shot_index % num_shots


def _check_origin(saved: SavedSession, pipeline: StreamingPipeline, path: Path) -> None:
    for name, theirs, mine in (
        ("weights", saved.weights_sha256, pipeline.weights_sha256),
        ("context policy", saved.context_policy, pipeline.config.context_policy),
    ):
        if theirs != mine:
            raise SessionError(
                f"{path}: made with {saved.model_id} and {name} {theirs[:12]!r}; this model is "
                f"{pipeline.config.model_id} with {mine[:12]!r}: load the model that it was made with"
            )
    shape = (pipeline.dit.config.latent_channels, pipeline.latent_size.height, pipeline.latent_size.width)
    latents = [
        *(latent for take in saved.takes for latent in take.latents),
        *(pin.latent for pin in saved.pins),
    ]
    if any(tuple(latent.shape) != shape for latent in latents):
        raise SessionError(f"{path}: its latents do not fit this model; load the model that it was made with")
