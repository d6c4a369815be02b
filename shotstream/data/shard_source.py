"""A source of training shots in shards: read ahead by threads, in a new order every epoch.

The shots of a step are a function of (seed, step) and of which clips are readable, so a resumed run continues
as if it had never stopped, and there is no position to save. A rank reads its rows of the batch; the rows of
all ranks together are those that a single process would read.

A damaged clip is reported, counted and replaced by a random one with the same key, up to a maximum number;
then training ends. Memory use is bounded by the shots read ahead and by a table of a few bytes per shot.

Captions are not read here: a batch refers to each by name, see `captions.py`.
"""

import json
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.data.batch_sampler import BatchSampler
from shotstream.data.batches import ShotBatch, dropped
from shotstream.data.captions import caption_store, open_shards, stored_caption
from shotstream.data.checks import bad_allowed, require_within
from shotstream.data.rng import numpy_rng
from shotstream.data.shards import CONTEXT, ShardError, ShardForm
from shotstream.geometry import LatentSize
from shotstream.model.config import DiTConfig
from shotstream.streaming.conditioning import (
    ConditionedShot,
    Conditioning,
    condition_next_shot,
    stack_conditioning,
)
from shotstream.streaming.shot_memory import ShotMemory

_log = logging.getLogger(__name__)

_MAX_SUBSTITUTES = 16


class TooManyBadSamples(ValueError):
    """More unreadable clips in the shards than allowed; the message names the last one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardsConfig:
    """Configuration of the shards to train on."""

    directory: str
    """Directory that `shotstream data encode` made, relative to the working directory."""
    seed: int = 0
    """Seed of the order, at least 0."""
    batch_size: int = 16
    """Number of shots per step, over all processes, at least 1."""
    context_drop: float = 0.1
    """Probability, in [0, 1], that a later shot is conditioned like a first one, without context."""
    caption_drop: float = 0.0
    """Probability, in [0, 1], that a sample's captions are empty: the unconditional case of guidance."""
    max_latent_frames: int = 21
    """Maximum number of latent frames of a shot, at least 1, rounded down to whole chunks; longer shots are
    cut at the end.
    """
    num_workers: int = 2
    """Number of threads that read ahead; 0: the training thread reads."""
    read_ahead: int = 2
    """Number of batches that are read ahead, at least 0."""
    max_bad: str = "1%"
    """Maximum of clips that are replaced in a run: a number, or a share of all, rounded down."""

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("seed", "num_workers", "read_ahead"))
        require_within(self, 1, inf, ("batch_size", "max_latent_frames"))
        require_within(self, 0, 1, ("context_drop", "caption_drop"))
        bad_allowed(self.max_bad, 1)
        if not self.directory:
            raise ValueError("directory is empty; name a directory of shards")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotSample:
    """A target shot and the memory of the shots before it."""

    latents: Float[Tensor, "z f h w"]
    """Latents as stored, in half precision."""
    past: tuple[ShotMemory, ...]
    """The earlier shots of its clip; their captions are names, see `CaptionStore`."""
    caption: str
    """Name of the target shot's own caption."""


class ShardSource:
    """A `DataSource` of shots in shards. Only one thread at a time may read from it."""

    def __init__(self, config: ShardsConfig, dit: DiTConfig, policy: str, *, seed: int) -> None:
        """Opens the shards and lists their shots.

        Args:
            config: Which shards, and how they are read.
            dit: The transformer that is trained on them.
            policy: The context policy.
            seed: Seed of all random choices except the order.

        Raises:
            ValueError: The shards were encoded for another model.
            ShardError: The directory is not complete.
            TooManyBadSamples: More shards are damaged than allowed.
        """
        self.dit, self.seed = dit, seed
        self.policy: str = policy
        self.config = config
        self.shards = open_shards(config.directory)
        self.form = self.shards.form
        require_fit(self.form, dit, config.directory)
        self.captions = caption_store(config.directory) if self.form.text_shape else None
        total = sum(summary["num_samples"] for summary in self.shards.shards)
        self._allowed = bad_allowed(config.max_bad, total)
        self._bad: set[tuple[int, int]] = set()
        self._lock = threading.Lock()
        self._shots, lengths = self._table()
        self.sampler = BatchSampler(lengths, config.batch_size, config.seed)
        self._pool = ThreadPoolExecutor(config.num_workers) if config.num_workers else None
        self._ahead: dict[tuple[int, int], Future[ShotSample]] = {}

    def batch(self, step: int, samples: range) -> ShotBatch:
        """Returns shots of one length; the masks of actors are all False.

        Raises:
            TooManyBadSamples: More clips are damaged than allowed.
        """
        conditionings: list[Conditioning] = []
        captions: list[list[str]] = []
        stored = self.read(step, samples)
        for sample, one in zip(samples, stored, strict=True):
            rng = numpy_rng(self.seed, "shot", step, sample)
            conditioning, rows = dropped(
                *condition_sample(one, self.dit, self.policy, rng),
                rng,
                has_context=bool(one.past),
                context_drop=self.config.context_drop,
                caption_drop=self.config.caption_drop,
            )
            conditionings.append(conditioning)
            captions.append(rows)
        x0 = torch.stack([one.latents.float() for one in stored])
        figures = torch.zeros_like(x0[:, 0], dtype=torch.bool)
        return ShotBatch(x0, figures, stack_conditioning(conditionings), captions, samples)

    def read(self, step: int, rows: range) -> list[ShotSample]:
        """Returns the shots in `rows` of a step's batch, all of one length.

        Raises:
            TooManyBadSamples: More clips are damaged than allowed.
        """
        if self._pool is None:
            return [self._sample(step, row) for row in rows]
        wanted = [(ahead, row) for ahead in range(step, step + 1 + self.config.read_ahead) for row in rows]
        for key in [key for key in self._ahead if not 0 <= key[0] - step <= self.config.read_ahead]:
            self._ahead.pop(key).cancel()  # for other steps; other rows are another part of the batch
        for key in wanted:
            if key not in self._ahead:
                self._ahead[key] = self._pool.submit(self._sample, *key)
        return [self._ahead.pop((step, row)).result() for row in rows]

    def close(self) -> None:
        """Stops the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns shard, sample and shot index of every shot, and its length in complete chunks."""
        shots: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        chunk = self.form.chunk_latent_frames
        most = min(self.config.max_latent_frames, self.form.max_latent_frames) // chunk * chunk
        if not most:
            raise ValueError(f"max_latent_frames is {self.config.max_latent_frames}; a chunk has {chunk}")
        for shard, summary in enumerate(self.shards.shards):
            try:
                samples = self.shards.record(shard).samples
            except ShardError as error:
                for sample in range(summary["num_samples"]):
                    self._found_bad(shard, sample, error)
                continue
            places = [
                (i, place) for i, one in enumerate(samples) for place in range(len(one.num_latent_frames))
            ]
            shots.append(np.array([(shard, *place) for place in places], np.int32).reshape(-1, 3))
            stored = [length for one in samples for length in one.num_latent_frames]
            lengths.append(np.minimum(np.array(stored, np.int32) // chunk * chunk, most))
        if not shots:
            raise ShardError(f"{self.shards.directory}: no shard of it can be read")
        return np.concatenate(shots), np.concatenate(lengths)

    def _sample(self, step: int, row: int) -> ShotSample:
        length, items = self.sampler.batch(step)
        item = int(items[row])
        for attempt in range(_MAX_SUBSTITUTES):
            shard, sample, place = (int(part) for part in self._shots[item])
            try:
                return self._load(shard, sample, place, length)
            except ShardError as error:
                self._found_bad(shard, sample, error)
            item = self.sampler.substitute(step, row, attempt, length)
        raise TooManyBadSamples(f"{self.shards.directory}: {_MAX_SUBSTITUTES} damaged clips in a row")

    def _load(self, shard: int, sample: int, place: int, length: int) -> ShotSample:
        shards, key = self.shards, self.shards.record(shard).samples[sample].key
        try:
            told = json.loads(shards.read(shard, sample, "json"))["shots"][: place + 1]
            context = shards.tensors(shard, sample, CONTEXT) if place else {}
            latents = shards.tensors(shard, sample, f"shot{place}.safetensors")["latents"][:, :length]
            captions = [stored_caption(key, index) for index in range(len(told))]
            past = tuple(
                ShotMemory(
                    caption=captions[index],
                    num_frames=one["num_frames"],
                    candidate_frames=tuple(one["context_frames"]),
                    latents=context[f"shot{index}"],
                )
                for index, one in enumerate(told[:-1])
            )
        except ShardError:
            raise
        except (KeyError, TypeError) as error:
            raise ShardError(f"{shards.directory}: clip {key} lacks {error}") from error
        except ValueError as error:
            raise ShardError(f"{shards.directory}: clip {key}: {error}") from error
        if self.captions is not None:
            for caption in captions:
                self.captions.read(caption)  # so that it is in memory when the step needs it
        return ShotSample(latents=latents, past=past, caption=captions[-1])

    def _found_bad(self, shard: int, sample: int, error: ShardError) -> None:
        with self._lock:
            if (shard, sample) not in self._bad:
                self._bad.add((shard, sample))
                _log.warning(
                    "replaced by another clip: %s (%d of %d allowed)", error, len(self._bad), self._allowed
                )
            # Also for a clip that a thread has found already, which reads a later step ahead.
            if len(self._bad) > self._allowed:
                raise TooManyBadSamples(
                    f"{error}; {len(self._bad)} damaged clips, and max_bad allows {self._allowed}"
                ) from error


def condition_sample(
    sample: ShotSample, config: DiTConfig, policy: str, rng: np.random.Generator | None = None
) -> ConditionedShot:
    """Returns the conditioning of a shot on earlier ones of its clip, and the names of its caption rows."""
    size = LatentSize(*sample.latents.shape[-2:])
    return condition_next_shot(sample.past, sample.caption, config, size, policy, rng=rng)


def require_fit(form: ShardForm, config: DiTConfig, directory: str) -> None:
    """Raises ValueError unless a transformer can be trained on the shards."""
    wanted = {
        "latent_channels": config.latent_channels,
        "chunk_latent_frames": config.chunk_latent_frames,
        "context_budget": config.num_context_frames,
        "text_shape": (config.text_length, config.text_dim),
    }
    differing = [
        f"{name} {getattr(form, name)} instead of {value}"
        for name, value in wanted.items()
        if getattr(form, name) != value
    ]
    if differing:
        raise ValueError(
            f"{directory} was encoded for another model: {', '.join(differing)}; encode the clips with the "
            "model that is to be trained"
        )
