"""An inference group: several processes generate one film; one leads, the others follow chunk by chunk.

The leader has everything that a single process has: sessions, text encoder, codec, files. Followers have only
the transformer. They get three kinds of messages: a shot begins, with all inputs of its latents; its next
chunk is generated; it ends. All other actions of the leader (cuts, forks, retakes, interleaved films) are
reduced to these. `sequence_parallel.py` splits the passes among the processes.

Tests run it on CPUs over gloo. For GPUs it uses NCCL, which has not been run.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from shotstream.geometry import LatentSize, TokenGrid, VideoGeometry
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import DualCache
from shotstream.model.frame_store import FrameStore
from shotstream.model.student_rules import StudentRules
from shotstream.process import number_from_torchrun
from shotstream.streaming.conditioning import Conditioning
from shotstream.streaming.inference_options import InferenceOptions
from shotstream.streaming.noise import KeyedNoise
from shotstream.streaming.rollout import Rollout
from shotstream.streaming.sequence_parallel import HeadParallel
from shotstream.transfer import send

FilmCache = DualCache | FrameStore
"""The keys and values of a film that is generated: with a context, or by the rules of another student."""

# A follower waits as long as a person thinks about the next shot; a leader that has died is noticed at once.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotInputs:
    """The inputs of a shot: all that its latents depend on, except the weights; on the CPU."""

    conditioning: Conditioning
    """Context and positions, in a batch of one."""
    embeddings: Float[Tensor, "1 s n d"]
    """Embeddings of its captions."""
    sigmas: Float[Tensor, " k"]
    """Noise levels of its steps."""
    seed: int
    """Seed of its noise."""
    num_chunks: int
    """Length of the shot in chunks."""
    cache_dtype: torch.dtype
    """Dtype of the KV cache."""


@dataclass(frozen=True, slots=True)
class _Begin:
    shot: int
    inputs: ShotInputs


@dataclass(frozen=True, slots=True)
class _Next:
    shot: int


@dataclass(frozen=True, slots=True)
class _End:
    shot: int


@dataclass(slots=True)
class InferenceGroup:
    """The processes of an inference group, from the view of one of them; see `init_inference_group`."""

    rank: int
    """Index of this process; 0 leads."""
    device: torch.device
    """Device of this process."""
    _messages: dist.ProcessGroup | None = None
    _num_shots: int = field(default=0, init=False)
    _is_in_step: bool = field(default=True, init=False)

    @property
    def size(self) -> int:
        """Number of processes."""
        return dist.get_world_size()

    @property
    def is_leader(self) -> bool:
        """Whether this process leads the others."""
        return self.rank == 0

    @contextmanager
    def leading(
        self, inputs: ShotInputs, next_chunk: Callable[[], Tensor | None]
    ) -> Generator[Callable[[], Tensor | None]]:
        """Yields a function that generates the next chunk of a shot with all processes.

        Args:
            inputs: The inputs of the shot, for the followers.
            next_chunk: The leader's own part of the work; None after the last chunk.
        """
        shot, self._num_shots = self._num_shots, self._num_shots + 1
        self._tell(_Begin(shot, inputs))

        def together() -> Tensor | None:
            self._tell(_Next(shot))
            try:
                return next_chunk()
            except BaseException:
                # The followers wait within a pass, where they cannot receive a message.
                self._is_in_step = False
                raise

        try:
            yield together
        finally:
            self._tell(_End(shot))

    def dismiss(self) -> None:
        """Ends the work of the followers, whose `follow` returns."""
        self._tell(None)
        self._is_in_step = False

    def follow(self, dit: DiT) -> None:
        """Runs a follower's share of every chunk until it is dismissed; `dit` has the leader's weights."""
        shots: dict[int, tuple[Iterator[Tensor], FilmCache]] = {}
        spare: list[FilmCache] = []
        with torch.no_grad():
            while (message := self._hear()) is not None:
                if isinstance(message, _Begin):
                    context = message.inputs.conditioning.context
                    grid = _token_grid(dit, context)
                    dit.token_share = dit.token_share or HeadParallel(dit.config, grid)
                    cache = spare.pop() if spare else shared_cache(dit, grid, message.inputs.cache_dtype)
                    shots[message.shot] = (self._rollout(dit, message.inputs, cache), cache)
                elif isinstance(message, _Next):
                    next(shots[message.shot][0], None)
                else:
                    spare.append(shots.pop(message.shot)[1])

    def _rollout(self, dit: DiT, inputs: ShotInputs, cache: FilmCache) -> Iterator[Tensor]:
        channels, _, height, width = inputs.conditioning.context.shape[1:]
        shape = (channels, dit.config.chunk_latent_frames, height, width)
        noise = KeyedNoise(seeds=(inputs.seed,), shape=shape, device=self.device)
        text = dit.text_cache(send(inputs.embeddings, self.device))
        conditioning, sigmas = inputs.conditioning.to(self.device), send(inputs.sigmas, self.device)
        return Rollout(dit, conditioning, text, cache, noise, sigmas).chunks(inputs.num_chunks)

    def _tell(self, message: _Begin | _Next | _End | None) -> None:
        if self._is_in_step:
            dist.broadcast_object_list([message], src=0, group=self._messages)

    def _hear(self) -> Any:
        heard: list[Any] = [None]
        dist.broadcast_object_list(heard, src=0, group=self._messages)
        return heard[0]


def cache_dtype(options: InferenceOptions, rules: StudentRules | None, dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype of stored keys and values, for a network that computes in `dtype`.

    A frame store has no int8: with 8-bit attention its keys are rounded in every pass, not once.
    """
    chosen = options.cache_dtype or dtype
    return chosen if rules is None or chosen.is_floating_point else dtype


def shared_cache(
    dit: DiT, grid: TokenGrid, dtype: torch.dtype, rules: StudentRules | None = None
) -> FilmCache:
    """Returns a cache for one film at a time, for the heads that this process attends with.

    With rules it is a frame store, which processes cannot share.
    """
    if rules is not None:
        return FrameStore(dit.config, rules, 1, grid, dtype, dit.patch_embedding.weight.device)
    num_heads = None if dit.token_share is None else dit.token_share.num_heads
    return DualCache(dit.config, 1, grid, dtype, dit.patch_embedding.weight.device, num_heads=num_heads)


def _token_grid(dit: DiT, latents: Tensor) -> TokenGrid:
    geometry = VideoGeometry(patch_size=dit.config.patch_size)
    return geometry.token_grid(LatentSize(latents.shape[-2], latents.shape[-1]))


def started_by_torchrun() -> bool:
    """Returns whether torchrun has started this process together with others."""
    return number_from_torchrun("WORLD_SIZE", 1) > 1


@contextmanager
def init_inference_group(device: torch.device | str) -> Generator[InferenceGroup]:
    """Yields the inference group that torchrun started this process in; followers end when the leader leaves.

    Args:
        device: "cpu", or "cuda": each process of a machine takes its own GPU.
    """
    is_cuda = torch.device(device).type == "cuda"
    own = torch.device(f"cuda:{number_from_torchrun('LOCAL_RANK', 0)}" if is_cuda else "cpu")
    if is_cuda:
        torch.cuda.set_device(own)
    dist.init_process_group("cpu:gloo,cuda:nccl" if is_cuda else "gloo")
    messages = dist.new_group(backend="gloo", timeout=_PATIENCE)
    assert isinstance(messages, dist.ProcessGroup)
    group = InferenceGroup(dist.get_rank(), own, _messages=messages)
    try:
        yield group
    finally:
        if group.is_leader:
            group.dismiss()
    # Only after success: a process that failed must not wait for the others.
    dist.destroy_process_group()
