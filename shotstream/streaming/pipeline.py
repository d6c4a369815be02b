"""The streaming pipeline: a loaded model that generates every shot of every session, and opens sessions.

It holds no state of a film. It turns captions into text caches, frames into context latents and latents into
frames, and lends KV caches: a shot borrows one while it is generated, so that interleaved sessions never
share one, and returns it, so that a long film allocates nothing.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from shotstream.diffusion.schedule import FlowSchedule, StepLevels, step_levels
from shotstream.geometry import LatentSize, PixelSize, VideoGeometry
from shotstream.model.cross_attention import TextCache
from shotstream.model.dit import DiT
from shotstream.story import Reference, ShotCaptions
from shotstream.streaming.choice import Choice
from shotstream.streaming.chunk_prefetcher import ChunkPrefetcher
from shotstream.streaming.context_sampling import (
    LAST_FRAME,
    POLICIES,
    POLICIES_WITHOUT_CONTEXT,
    named_policy,
)
from shotstream.streaming.inference_group import FilmCache, InferenceGroup, cache_dtype, shared_cache
from shotstream.streaming.inference_options import DEFAULT_INFERENCE_OPTIONS
from shotstream.streaming.matching import Matcher
from shotstream.streaming.pipeline_config import (
    Family,
    PipelineConfig,
    fitted_family_caption,
    read_and_settled,
)
from shotstream.streaming.references import EncodedReference, fitted_picture, with_picture
from shotstream.streaming.sequence_parallel import HeadParallel
from shotstream.streaming.timing import Stopwatch
from shotstream.text.text_encoder import TextEncoder
from shotstream.theatre.caption_encoder import CaptionEncoder
from shotstream.theatre.palette import LEAST_SHARE_IN_WORLD, share_in_palette
from shotstream.theatre.reading.settled import SettledShot
from shotstream.transfer import fetch, send
from shotstream.vae.codec import Codec, DecodeState, StreamDecoder
from shotstream.vae.pixels import from_uint8, to_uint8
from shotstream.video.pictures import PictureError

if TYPE_CHECKING:
    from shotstream.streaming.session import StorySession


class StreamingPipeline:
    """A loaded model. It opens any number of sessions; only one thread may use it at a time."""

    def __init__(
        self,
        config: PipelineConfig,
        dit: DiT,
        codec: Codec,
        text_encoder: TextEncoder,
        *,
        weights_sha256: str = "",
        choice: Choice | None = None,
        group: InferenceGroup | None = None,
        synchronize: bool = False,
    ) -> None:
        """Creates a pipeline from networks, which must be on their devices and in evaluation mode.

        Args:
            config: Configuration of the pipeline.
            dit: The student.
            codec: The video codec.
            text_encoder: The text encoder of composed captions.
            compose: Returns the text for the text encoder from global caption, shot caption and shot index.
            weights_sha256: SHA-256 that identifies the weights; sessions are saved with it.
            choice: How the model is run; options of the networks must be applied to them already. None: the
                default options.
            group: The processes that generate each chunk together, led by this one; None: this one alone.
            synchronize: Wait for the device after each part of a chunk, so that timings measure its own work;
                without effect if chunks overlap.

        Raises:
            ValueError: The parts do not fit each other, or there are more processes than can share a pass.
        """
        if codec.latent_channels != dit.config.latent_channels:
            raise ValueError(
                f"the codec has {codec.latent_channels} latent channels, the transformer "
                f"{dit.config.latent_channels}; they belong to different models"
            )
        self.config = config
        self.dit = dit
        self.codec = codec
        self.text_encoder = text_encoder
        self.weights_sha256 = weights_sha256
        self.choice = choice or Choice(dtype=self.dtype, inference_options=DEFAULT_INFERENCE_OPTIONS)
        self.synchronize = synchronize
        self.latent_size: LatentSize = codec.geometry.latent_size(config.pixel_size)
        self._token_grid = codec.geometry.token_grid(self.latent_size)
        self.group = group
        inference_options = self.choice.inference_options
        self.cache_dtype = cache_dtype(inference_options, config.rules, self.dtype)
        if group is not None:
            inference_options.check_for_group()
        self._check_rules()
        self.codec_device = self.device
        if inference_options.codec_device is not None:
            self.codec_device = torch.device(inference_options.codec_device)
        if self.codec_device == torch.device("cuda"):
            self.codec_device = torch.device("cuda", torch.cuda.current_device())
        self.prefetcher: ChunkPrefetcher | None = None
        if inference_options.overlap_chunks:
            self.prefetcher = ChunkPrefetcher(self.device, self.codec_device)
        if group is not None:
            dit.token_share = HeadParallel(dit.config, self._token_grid)
        self.matcher = Matcher(self)
        """Compares shots, for context policies that choose by content."""
        self.check_policy(config.context_policy)
        self._sigmas: dict[int, Tensor | StepLevels] = {}
        self._spare_caches: list[FilmCache] = []

    def _check_rules(self) -> None:
        """Raises ValueError if a student without a context cannot run as it is asked to."""
        rules, chunk = self.config.rules, self.dit.config.chunk_latent_frames
        if rules is None:
            return
        rules.check_chunk(chunk)
        sizes = (self.geometry.chunk_latent_frames, self.geometry.first_chunk_latent_frames)
        if sizes != (chunk, rules.first_chunk_frames) or self.context_budget:
            raise ValueError(f"the codec or the context of {self.model_id} does not fit its rules")
        if self.group is not None:
            raise ValueError(f"{self.model_id} runs in one process: start it without torchrun")

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return self.config.model_id

    @property
    def family(self) -> Family:
        """Family of the model."""
        return self.config.family

    @property
    def fps(self) -> int:
        """Frames per second of its films."""
        return self.config.fps

    @property
    def pixel_size(self) -> PixelSize:
        """Size of its frames."""
        return self.config.pixel_size

    @property
    def geometry(self) -> VideoGeometry:
        """Strides between pixels, latents and tokens."""
        return self.codec.geometry

    @property
    def num_chunks(self) -> int:
        """Default length of a shot in chunks."""
        return self.config.num_chunks

    @property
    def num_steps(self) -> int:
        """Number of denoising steps per chunk that the model was trained for."""
        return len(self.config.student_steps)

    @property
    def context_policy(self) -> str:
        """Name of the policy that chooses context frames, unless a session names another."""
        return self.config.context_policy

    @property
    def context_policies(self) -> tuple[str, ...]:
        """Names of the policies that sessions may use; its own first."""
        own = self.context_policy
        known = POLICIES if self.config.rules is None else POLICIES_WITHOUT_CONTEXT
        return (own, *(name for name in known if name != own and self._refusal(name) is None))

    def usable_policy(self, name: str | None) -> str:
        """Returns the context policy with a name if sessions can use it, else the model's own.

        For stories that were begun with another model. None is the model's own.
        """
        return name if name is not None and name in self.context_policies else self.context_policy

    def check_policy(self, name: str) -> None:
        """Raises ValueError unless sessions of this pipeline can use the context policy with a name."""
        self.config.check_policy(name)
        if (told := self._refusal(name)) is not None:
            raise ValueError(told)

    def _refusal(self, policy: str) -> str | None:
        """Returns why a policy for this kind of model cannot be used all the same; None: it can."""
        rules = self.config.rules
        if rules is None:
            if self.group is None or named_policy(policy).compares != "keys":
                return None
            return (
                f"the context policy {policy!r} needs passes of the model that several processes cannot "
                "share; start one process, or take another policy"
            )
        first = rules.first_chunk_frames or self.dit.config.chunk_latent_frames
        if policy != LAST_FRAME or first == 1:
            return None
        return (
            f"{self.model_id} begins with {first} latent frames, so that a shot cannot begin with one "
            "frame of another: its context policy must be 'none'"
        )

    @property
    def device(self) -> torch.device:
        """Device of the transformer."""
        return self.dit.patch_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the transformer's computation."""
        return self.dit.patch_embedding.weight.dtype

    @property
    def context_budget(self) -> int:
        """Number of context frames of a shot."""
        return self.dit.config.num_context_frames

    @property
    def chunk_shape(self) -> tuple[int, int, int, int]:
        """Channels, latent frames, height and width of a chunk."""
        config = self.dit.config
        size = self.latent_size
        return config.latent_channels, config.chunk_latent_frames, size.height, size.width

    @property
    def max_chunks(self) -> int | None:
        """Maximum length of a shot in chunks; None: there is no limit."""
        return None if self.config.rules is None else self.config.rules.max_chunks(self.geometry)

    def check_shot(self, num_chunks: int, num_steps: int) -> None:
        """Raises ValueError if the model cannot generate a shot of this length, or with so many steps."""
        rules, config = self.config.rules, self.dit.config
        if rules is None:
            return
        rules.check_length(num_chunks, self.geometry)
        if rules.rolling and num_steps * config.chunk_latent_frames > rules.window:
            raise ValueError(
                f"{num_steps} steps; this model denoises as many chunks together, and at most "
                f"{rules.window // config.chunk_latent_frames} fit its window"
            )

    def sigmas(self, num_steps: int) -> Float[Tensor, " k"] | StepLevels:
        """Returns the noise levels of `num_steps` denoising steps, on the device.

        The trained number of steps has the trained levels; any other number is evenly spaced before the
        schedule warps the levels.
        """
        if num_steps not in self._sigmas:
            schedule, rules = FlowSchedule(shift=self.config.shift), self.config.rules
            steps, is_trained = self.config.student_steps, num_steps == self.num_steps
            if not is_trained:
                total = schedule.num_train_steps
                steps = tuple(round(total * (1 - step / num_steps)) for step in range(num_steps))
            if rules is None:
                self._sigmas[num_steps] = send(schedule.student_sigmas(steps), self.device)
            else:
                scale = rules.step_scale if is_trained else "warped"
                self._sigmas[num_steps] = step_levels(steps, rules.shift, scale).to(self.device)
        return self._sigmas[num_steps]

    def first_sigmas(self, num_steps: int) -> StepLevels | None:
        """Returns the noise levels of a shot's first generated chunk, if they are not those of all."""
        rules = self.config.rules
        if rules is None or not rules.first_chunk_steps or num_steps != self.num_steps:
            return None
        return step_levels(rules.first_chunk_steps, rules.shift, rules.step_scale).to(self.device)

    def compose(self, global_caption: str, captions: Sequence[ShotCaptions], seed: int = 0) -> str:
        """Returns the text that the text encoder gets for the last of a film's captions.

        `seed` chooses what the captions of a theatre's film leave open, the same for all its shots.
        """
        style = self.config.caption_style
        return fitted_family_caption(
            self.family, self.text_encoder, global_caption, captions, seed, style=style
        ).text

    def read(
        self, global_caption: str, captions: Sequence[ShotCaptions], seed: int = 0
    ) -> SettledShot | None:
        """Returns what the model understands of the last of a film's captions, and what it will show.

        None: the model reads embeddings of text, and what it understands cannot be said.
        """
        if not isinstance(self.text_encoder, CaptionEncoder):
            return None
        return read_and_settled(global_caption, captions, seed)

    def stopwatch(self) -> Stopwatch:
        """Returns a stopwatch for one shot."""
        return Stopwatch(self.device, synchronize=self.synchronize and self.prefetcher is None)

    @torch.no_grad()
    def text_cache(self, captions: Sequence[str]) -> TextCache:
        """Returns the captions' keys and values in every layer; captions in use are encoded only once."""
        return self.dit.text_cache(self.embeddings(captions), tuple(captions))

    def embeddings(self, captions: Sequence[str]) -> Float[Tensor, "1 s n d"]:
        """Returns the embeddings of captions, on the device."""
        return send(self.text_encoder.encode(captions), self.device).unsqueeze(0)

    @torch.no_grad()
    def encode_frames(self, frames: UInt8[np.ndarray, "f h w 3"]) -> Float[Tensor, "f z latent_h latent_w"]:
        """Returns the latents of frames, see `encode_levels`; float32, on the CPU."""
        expected = self.config.pixel_size
        if frames.shape[1:3] != (expected.height, expected.width):
            raise ValueError(
                f"frames of {frames.shape[1]}x{frames.shape[2]} pixels; this model's are "
                f"{expected.height}x{expected.width}: resize them"
            )
        # Copied, because these frames are read-only, and torch has no read-only tensors.
        levels = send(torch.from_numpy(frames.copy()), self.codec_device)
        return fetch(self.encode_levels(levels))

    @torch.no_grad()
    def encode_levels(self, levels: UInt8[Tensor, "f h w 3"]) -> Float[Tensor, "f z latent_h latent_w"]:
        """Returns the latents of frames on the codec's device; float32, on that device.

        Each frame is encoded alone, as a video of one frame and in a batch of one, so that its latent is
        bit-identical whatever else is encoded, and when.
        """
        pixels = rearrange(levels, "f h w c -> f 1 c 1 h w")
        return torch.cat([self.codec.encode(from_uint8(frame))[:, :, 0].float() for frame in pixels])

    def encode_reference(self, reference: Reference) -> EncodedReference:
        """Returns a reference with its picture at the model's size, and the latent of it.

        Raises:
            ValueError: The picture is missing, unreadable or too large.
        """
        try:
            picture = fitted_picture(reference, self.config.pixel_size)
        except PictureError as error:
            raise ValueError(f"reference @{reference.id}: {error}") from error
        return EncodedReference(
            reference=with_picture(reference, picture), latent=self.encode_frames(picture[None])[0]
        )

    def judge_reference(self, reference: Reference) -> str | None:
        """Returns a sentence that a reference's picture is not one of the model's world; None if it may be.

        Only the theatre's world is known; it is told by its colours.
        """
        if self.family != "theatre":
            return None
        share = share_in_palette(fitted_picture(reference, self.config.pixel_size))
        if share >= LEAST_SHARE_IN_WORLD:
            return None
        return (
            f"reference @{reference.id}: its picture is not one of this model's world, whose colours "
            f"{share:.0%} of it has; shots will show what their captions say"
        )

    def decode(
        self,
        latents: Float[Tensor, "1 z f h w"],
        state: DecodeState | None,
        decoder: StreamDecoder | None = None,
    ) -> tuple[UInt8[np.ndarray, "frames pixel_h pixel_w 3"], DecodeState]:
        """Returns the next frames of a shot, read-only, and the next state; waits for the current stream.

        If `decoder` is given, it is used instead of the codec; the state is its own.
        """
        levels, state = self.decode_levels(latents, state, decoder)
        return to_frames(levels), state

    @torch.no_grad()
    def decode_levels(
        self,
        latents: Float[Tensor, "1 z f h w"],
        state: DecodeState | None,
        decoder: StreamDecoder | None = None,
    ) -> tuple[UInt8[Tensor, "frames pixel_h pixel_w 3"], DecodeState]:
        """Returns the same frames on the codec's device, without waiting."""
        given = latents if self.codec_device.type != "cpu" else fetch(latents)
        pixels, state = (decoder or self.codec).decode_stream(given.to(self.codec_device), state)
        return rearrange(to_uint8(pixels[0]), "c f h w -> f h w c"), state

    def beside(
        self, latents: Tensor | None = None, ready: torch.cuda.Event | None = None
    ) -> AbstractContextManager[object]:
        """Returns a context whose work runs beside the denoising of the next chunk.

        The work begins when `latents` are `ready`. Without prefetching of chunks the context has no effect.
        """
        return nullcontext() if self.prefetcher is None else self.prefetcher.decoding(latents, ready)

    def borrow_cache(self) -> FilmCache:
        """Returns a cache that nothing else uses; return it with `return_cache`."""
        if self._spare_caches:
            return self._spare_caches.pop()
        return shared_cache(self.dit, self._token_grid, self.cache_dtype, self.config.rules)

    def return_cache(self, cache: FilmCache) -> None:
        """Takes back a borrowed cache, for the next shot."""
        self._spare_caches.append(cache)

    def session(
        self,
        global_caption: str,
        *,
        seed: int = 0,
        references: Sequence[Reference] = (),
        policy: str | None = None,
        quiet: bool = False,
    ) -> "StorySession":
        """Returns a new session; see `StorySession`."""
        from shotstream.streaming.session import StorySession

        return StorySession(
            self, global_caption, seed=seed, references=references, policy=policy, quiet=quiet
        )

    def load_session(self, path: str | os.PathLike[str], *, quiet: bool = False) -> "StorySession":
        """Returns a session from `StorySession.save`; SessionError if damaged or of another model."""
        from shotstream.streaming.session import StorySession

        return StorySession.load(path, self, quiet=quiet)


def to_frames(levels: UInt8[Tensor, "f h w 3"]) -> UInt8[np.ndarray, "f h w 3"]:
    """Returns frames in main memory, read-only; waits for the current stream."""
    frames = fetch(levels).numpy()
    frames.flags.writeable = False
    return frames
