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
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from inspect import GEN_CLOSED, GEN_CREATED, GEN_SUSPENDED, getgeneratorstate
from pathlib import Path

import numpy as np

from shotstream.story import MAX_SEED, Reference, Steer, SteerMode
from shotstream.streaming.context_encoder import ContextEncoder, as_picture
from shotstream.streaming.context_sampling import NO_MEMORY, max_pictures
from shotstream.streaming.noise import derive_seed, shot_seed
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.references import EncodedReference, cite, cite_all
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


class ReferenceWarning(UserWarning):
    """A warning that a model cannot show the picture of a reference as it is."""


class StorySession:
    """A session: the film of one global caption. Created by `StreamingPipeline.session`."""

    def __init__(
        self,
        pipeline: StreamingPipeline,
        global_caption: str,
        *,
        seed: int = 0,
        references: Sequence[Reference | EncodedReference] = (),
        policy: str | None = None,
        quiet: bool = False,
    ) -> None:
        """Creates an empty session.

        Args:
            pipeline: The pipeline; other sessions may share it.
            global_caption: Caption of all shots.
            seed: Seed of the session; shots without their own seed derive one from it and their index.
            references: Pictures that condition the shots; captions cite them as `@id`.
            policy: Name of the policy that chooses the context of each shot, see `context_sampling`; None:
                the model's.
            quiet: Gives no warnings; the caller tells what `StreamingPipeline.read` and
                `StreamingPipeline.judge_reference` say.

        Raises:
            ValueError: The caption is empty or cites what is no reference, the seed is out of range, a
                picture cannot be used, there are more references than the model has places for, or the
                policy is unknown or cannot be used with this model.
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
        self._references: tuple[EncodedReference, ...] = ()
        for reference in references:
            self.add_reference(reference)
        cite(global_caption, self.references)
        self._open_shot: weakref.ref[Generator[Chunk, None, None]] | None = None
        self._open: ShotRequest | None = None
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
                pipeline,
                saved.global_caption,
                seed=saved.seed,
                references=saved.references,
                policy=saved.context_policy,
                quiet=quiet,
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
    def references(self) -> tuple[Reference, ...]:
        """The references, each with its picture as the model sees it."""
        return tuple(one.reference for one in self._references)

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
        then: Sequence[Steer] = (),
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
            then: Captions that it gets while it runs; `steer` gives it others.

        Raises:
            ValueError: The caption is empty or cites what is no reference, or a number is out of range.
        """
        self._request(caption, num_chunks, 0 if seed is None else seed, steps, 0, then)  # checks all of it
        self._end_open_shot()
        seed = shot_seed(self._seed, len(self._takes)) if seed is None else seed
        return self._start(self._request(caption, num_chunks, seed, steps, len(self._takes), then))

    def retake(
        self,
        shot_index: int,
        *,
        caption: str | None = None,
        seed: int | None = None,
        num_chunks: int | None = None,
        steps: int | None = None,
        then: Sequence[Steer] | None = None,
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
            then: New captions while it runs; None: unchanged, as far as it lasts, or none if its caption is
                new.

        Raises:
            ValueError: There is no such shot, or as in `shot`.
        """
        num_shots = self._num_shots_if_cut()
        if not -num_shots <= shot_index < num_shots:
            raise ValueError(f"no shot {shot_index} to take again; there are {num_shots}, counted from 0")
        self._request(
            "the old one" if caption is None else caption,
            num_chunks,
            0 if seed is None else seed,
            steps,
            0,
            then or (),
        )
        self._end_open_shot()
        shot_index = self._existing(shot_index)
        old = self._takes[shot_index]
        length = old.num_chunks if num_chunks is None else num_chunks
        if then is None:
            kept = old.then if caption is None else ()
            switches: Sequence[Steer] = [steer for steer in kept if steer.chunk_index < length]
        else:
            switches = then
        if seed is None:
            changed = (caption, num_chunks, steps, then) != (None, None, None, None)
            seed = old.seed if changed else derive_seed(old.seed, "retake")
        return self._start(
            self._request(
                old.caption if caption is None else caption,
                length,
                seed,
                old.num_steps if steps is None else steps,
                shot_index,
                switches,
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
            self._pipeline,
            self._global_caption,
            seed=self._seed,
            references=self._references,
            policy=self._policy,
            quiet=self._quiet,
        )
        other._takes, other._pins = self._takes, self._pins
        return other

    def steer(self, caption: str, mode: SteerMode = "recache") -> Steer:
        """Gives the open shot another caption, from its next chunk on.

        A chunk that is being denoised already keeps its caption; the switch says which one is the first. Two
        calls between two chunks are one: the last counts.

        Args:
            caption: Caption of the shot from then on.
            mode: How the shot turns to it, see `steering`.

        Raises:
            ValueError: No shot is open, it has no chunk yet, or its last one is made; or the caption is empty
                or cites what is no reference of this shot.
        """
        cite(caption, self.references)
        shot = self._open_shot() if self._open_shot is not None else None
        if shot is None or getgeneratorstate(shot) in (GEN_CLOSED, GEN_CREATED) or self._open is None:
            raise ValueError("no shot is running; begin one with `shot`, and steer it between two chunks")
        self._open.refuse_unseen(caption)
        if self._pipeline.group is not None:
            raise ValueError("a film that several processes make together cannot be steered; cut to a shot")
        return self._open.steering.steer(caption, mode)

    def add_reference(self, reference: Reference | EncodedReference) -> None:
        """Adds a picture that conditions every later shot that it is for.

        Raises:
            ValueError: Its picture cannot be used, its id is taken, or the model has no place for it.
        """
        if isinstance(reference, EncodedReference):
            encoded = reference
        else:
            encoded = self._pipeline.encode_reference(reference)
            if not self._quiet and (told := self._pipeline.judge_reference(encoded.reference)):
                warnings.warn(told, ReferenceWarning, stacklevel=3)
        name = encoded.reference.id
        if any(one.reference.id == name for one in self._references):
            raise ValueError(f"there is a reference @{name} already; give this one another id")
        self._refuse_more_pictures(len(self._pins), (*self._references, encoded))
        self._references = (*self._references, encoded)

    def pin(self, image: np.ndarray, shot_index: int) -> None:
        """Pins a picture: it is in the context of every later shot.

        Args:
            image: RGB at the model's frame size, "h w 3": a frame of the film, or any other picture, in uint8
                or in floats from 0 to 1.
            shot_index: The finished shot that it counts as a frame of, whose phase and caption it gets.
                Negative counts from the end.

        Raises:
            ValueError: There is no such shot, the picture is invalid or has another size, or the maximum
                number of pins is reached.
        """
        shot_index = self._existing(shot_index)
        self._refuse_more_pictures(len(self._pins) + 1, self._references)
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
                references=self._references,
            ),
        )

    def _request(
        self,
        caption: str,
        num_chunks: int | None,
        seed: int,
        steps: int | None,
        shot_index: int,
        then: Sequence[Steer],
    ) -> ShotRequest:
        config = self._pipeline.config
        num_steps = len(config.student_steps) if steps is None else steps
        num_chunks = config.num_chunks if num_chunks is None else num_chunks
        if num_chunks > 0:
            self._pipeline.check_shot(num_chunks, num_steps)
        return ShotRequest(
            global_caption=self._global_caption,
            caption=caption,
            seed=seed,
            num_steps=num_steps,
            num_chunks=num_chunks,
            takes=self._takes[:shot_index],
            pins=tuple(pin for pin in self._pins if pin.shot_index < shot_index),
            references=self._references,
            policy=self._policy,
            then=tuple(then),
        )

    def _start(self, request: ShotRequest) -> Iterator[Chunk]:
        self._warn(request)
        shot = self._film(request)
        # Weak, so that deleting the iterator ends the shot at once.
        self._open_shot, self._open_shot_index = weakref.ref(shot), len(request.takes)
        self._open = request
        return shot

    def _warn(self, request: ShotRequest) -> None:
        """Warns of what the shot will not show as its captions say; the warning names the caller's line."""
        if self._quiet:
            return
        earlier = [cite_all(take.told, self.references) for take in request.takes]
        own = (request.caption, *(steer.caption for steer in request.then))
        told_of_all = cite(request.global_caption, self.references)
        for index in range(len(own)):
            captions = [*earlier, cite_all(own[: index + 1], self.references)]
            shot = self._pipeline.read(told_of_all, captions, request.film_seed)
            if shot is not None and shot.warnings:
                told = f"shot {len(request.takes) + 1}: {'; '.join(shot.warnings)}"
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

    def _refuse_more_pictures(self, num_pins: int, references: Sequence[EncodedReference]) -> None:
        """Raises ValueError if pins and the references of all shots leave no place for earlier shots."""
        budget = self._pipeline.context_budget
        if not budget and (num_pins or references):
            raise ValueError(NO_MEMORY)
        most, num_references = max_pictures(budget), sum(one.reference.shots == "all" for one in references)
        if num_pins > most and not num_references:
            raise ValueError(
                f"{num_pins} pinned pictures, and {most} places in a shot's context; unpin one first"
            )
        if num_pins + num_references > most:
            raise ValueError(
                f"{num_references} references and {num_pins} pinned pictures for all shots, and {most} "
                "places in a shot's context: leave one out, or name under a reference's 'shots' which it is "
                "for"
            )

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
        *(one.latent for one in saved.references),
    ]
    if any(tuple(latent.shape) != shape for latent in latents):
        raise SessionError(f"{path}: its latents do not fit this model; load the model that it was made with")
