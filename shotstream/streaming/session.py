"""A session: the generation of a film, shot after shot, each chunk yielded as soon as it is decoded.

A session consists of its takes: the inputs of each shot, and the latents of the few frames of it that later
shots may use as context. Takes never change: a fork shares them, undo removes one, and a saved session is a
file of them. A shot is a pure function of (weights, its context, its captions, its seed): on the same
hardware, dtype, number of threads and torch version its frames are identical.

A cut is simply the next call of `shot`. Closing or deleting the iterator of a shot early is a cut at that
chunk: the session keeps the chunks that were yielded. After an error in a shot nothing of it is kept.

A session must not be used by several threads at once; sessions of one pipeline may be interleaved between
chunks.
"""

import os
import warnings
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


class CaptionWarning(UserWarning):
    """A warning that a shot will not show all that its captions say, or shows what they leave open."""


class StorySession:
    """A session: the film of one global caption. Created by `StreamingPipeline.session`."""

    def __init__(
        self,
        pipeline: StreamingPipeline,
        global_caption: str,
        *,
        seed: int = 0,
        policy: str | None = None,
        quiet: bool = False,
    ) -> None:
        """Creates an empty session.

        Args:
            pipeline: The pipeline; other sessions may share it.
            global_caption: Caption of all shots.
            seed: Seed of the session; shots without their own seed derive one from it and their index.
            policy: Name of the policy that chooses the context of each shot, see `context_sampling`; None:
                the model's.
            quiet: Gives no `CaptionWarning`; the caller tells what `StreamingPipeline.read` says.

        Raises:
            ValueError: The caption is empty, the seed is out of range, or the policy is unknown or cannot be
                used with this model.
        """
        if not global_caption.strip():
            raise ValueError("the global caption is empty; say what all shots share")
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed {seed}; allowed are 0 to {MAX_SEED}")
        self._pipeline = pipeline
        self._global_caption = global_caption
        self._seed, self._quiet = seed, quiet
        self._policy = policy or pipeline.context_policy
        pipeline.check_policy(self._policy)
        self._takes: tuple[Take, ...] = ()
        self._pins: tuple[Pin, ...] = ()
        self._open_shot: weakref.ref[Generator[Chunk, None, None]] | None = None
        self._open_shot_index = 0

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], pipeline: StreamingPipeline, *, quiet: bool = False
    ) -> "StorySession":
        """Returns the session saved at `path`; it continues as if it had never ended, under its own policy.

        Raises:
            SessionError: The file is not a saved session, is damaged, or belongs to another model.
        """
        saved = read_session(Path(path))
        _check_origin(saved, pipeline, Path(path))
        try:
            session = cls(
                pipeline, saved.global_caption, seed=saved.seed, policy=saved.context_policy, quiet=quiet
            )
        except ValueError as error:
            raise SessionError(f"{path}: {error}") from error
        session._takes, session._pins = saved.takes, saved.pins
        return session

    @property
    def global_caption(self) -> str:
        """Caption of all shots."""
        return self._global_caption

    @property
    def seed(self) -> int:
        """Seed of the session, for shots without their own."""
        return self._seed

    @property
    def context_policy(self) -> str:
        """Name of the policy that chooses the context of each shot."""
        return self._policy

    @property
    def shots(self) -> tuple[Take, ...]:
        """The finished shots; not the one whose iterator is still open."""
        return self._takes

    @property
    def pinned_shots(self) -> tuple[int, ...]:
        """Index of the shot of each pinned picture, in the order of pinning."""
        return tuple(pin.shot_index for pin in self._pins)

    def shot(
        self,
        caption: str,
        *,
        num_chunks: int | None = None,
        seed: int | None = None,
        steps: int | None = None,
    ) -> Iterator[Chunk]:
        """Returns an iterator that generates the next shot, chunk by chunk.

        An open shot is cut at its last chunk. Nothing is computed before the first chunk is requested. A
        chunk is committed to the cache after it was yielded, when the next one is requested.

        Args:
            caption: Caption of this shot.
            num_chunks: Length in chunks; None: the model's default length. Close the iterator to end it
                earlier.
            seed: Seed of the noise; None: derived from the session's seed and the shot's index.
            steps: Denoising steps per chunk; None: the number that the model was trained for.

        Raises:
            ValueError: The caption is empty, or a number is out of range.
        """
        self._request(caption, num_chunks, 0 if seed is None else seed, steps, 0)  # checks the arguments
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
        """Returns an iterator that generates shot `shot_index` again.

        The take replaces the old one and all later shots, because these were generated from the old take;
        `fork` first to keep them. Until the new take is finished or cut the session does not change, nor
        after an error or without any chunk.

        Args:
            shot_index: A finished shot, from 0; negative counts from the end.
            caption: New caption; None: unchanged.
            seed: New seed; None: unchanged if another argument is given, else the next seed is derived.
            num_chunks: New length in chunks; None: unchanged.
            steps: New number of denoising steps; None: unchanged.

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
        """Removes the last shot and the pictures pinned to it, and returns it.

        An open shot is cut, and is the last.

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
        """Returns a session with the same finished shots and pins; afterwards both are independent."""
        other = StorySession(
            self._pipeline, self._global_caption, seed=self._seed, policy=self._policy, quiet=self._quiet
        )
        other._takes, other._pins = self._takes, self._pins
        return other

    def pin(self, image: np.ndarray, shot_index: int) -> None:
        """Pins a picture: it is in the context of every later shot.

        Args:
            image: RGB at the model's frame size, "h w 3": a frame of the film, or any other picture, in uint8
                or in floats from 0 to 1.
            shot_index: The finished shot that it counts as a frame of, whose phase and caption it gets.
                Negative counts from the end.

        Raises:
            ValueError: There is no such shot, the picture is invalid or has another size, the maximum number
                of pins is reached, or the session's context policy does not support pins.
        """
        shot_index = self._existing(shot_index)
        policy, budget = self._policy, self._pipeline.context_budget
        if len(self._pins) >= max_pins(policy, budget):
            raise ValueError(
                f"the context policy {policy!r} allows {max_pins(policy, budget)} pinned of {budget} context "
                "frames; unpin one first"
            )
        latent = self._pipeline.encode_frames(as_picture(image)[None])[0]
        self._pins = (*self._pins, Pin(shot_index=shot_index, latent=latent))

    def unpin(self, shot_index: int | None = None) -> None:
        """Removes the pictures pinned to a shot; None removes all."""
        freed = None if shot_index is None else self._existing(shot_index)
        self._pins = tuple(pin for pin in self._pins if freed is not None and pin.shot_index != freed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the finished shots and pins to one file, atomically and without loss; see `load`."""
        write_session(
            Path(path),
            SavedSession(
                model_id=self._pipeline.config.model_id,
                weights_sha256=self._pipeline.weights_sha256,
                context_policy=self._policy,
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
            policy=self._policy,
        )

    def _start(self, request: ShotRequest) -> Iterator[Chunk]:
        self._warn(request)
        shot = self._film(request)
        # Weak, so that deleting the iterator ends the shot at once.
        self._open_shot, self._open_shot_index = weakref.ref(shot), len(request.takes)
        return shot

    def _warn(self, request: ShotRequest) -> None:
        """Warns of what the shot will not show as its captions say; the warning names the caller's line."""
        if self._quiet:
            return
        captions = [*(take.caption for take in request.takes), request.caption]
        shot = self._pipeline.read(request.global_caption, captions, request.film_seed)
        if shot is not None and shot.warnings:
            told = f"shot {len(captions)}: {'; '.join(shot.warnings)}"
            warnings.warn(told, CaptionWarning, stacklevel=4)

    @closed_at_exit
    def _film(self, request: ShotRequest) -> Generator[Chunk, None, None]:
        encoder = ContextEncoder(self._pipeline, request)
        with closing(make_shot(self._pipeline, request, context_encoder=encoder)) as chunks:
            try:
                yield from chunks
            except GeneratorExit:
                # Closed first, so that no chunk is prefetched while the context frames are encoded.
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
        """Returns the number of shots after the open one ends; without any chunk it leaves no take."""
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
    if saved.weights_sha256 != pipeline.weights_sha256:
        raise SessionError(
            f"{path}: made with {saved.model_id} and weights {saved.weights_sha256[:12]!r}; this model is "
            f"{pipeline.config.model_id} with {pipeline.weights_sha256[:12]!r}: load the model that it was "
            "made with"
        )
    shape = (pipeline.dit.config.latent_channels, pipeline.latent_size.height, pipeline.latent_size.width)
    latents = [
        *(latent for take in saved.takes for latent in take.latents),
        *(pin.latent for pin in saved.pins),
    ]
    if any(tuple(latent.shape) != shape for latent in latents):
        raise SessionError(f"{path}: its latents do not fit this model; load the model that it was made with")
