"""The request for one shot: everything it is made from, beside the model."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from shotstream.story import MAX_SEED
from shotstream.streaming.saved_session import Pin, Take
from shotstream.streaming.shot_memory import ShotMemory


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotRequest:
    """A shot to be made, and all it is a function of beside the model."""

    global_caption: str
    """What all shots share."""
    caption: str
    """What this one shows."""
    seed: int
    """Seed of its noise."""
    num_steps: int
    """Denoising steps per chunk."""
    num_chunks: int
    """Its length."""
    takes: tuple[Take, ...]
    """The shots before it."""
    pins: tuple[Pin, ...]
    """The pinned pictures."""

    def __post_init__(self) -> None:
        for caption in (self.global_caption, self.caption):
            if not caption.strip():
                raise ValueError("a caption is empty; say what is to be seen")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed {self.seed}; allowed are 0 to {MAX_SEED}")
        if self.num_chunks < 1 or self.num_steps < 1:
            raise ValueError(
                f"{self.num_chunks} chunks of {self.num_steps} steps; a shot has at least 1 of both"
            )
        for pin in self.pins:
            if not 0 <= pin.shot_index < len(self.takes):
                raise ValueError(
                    f"a frame is pinned to shot {pin.shot_index}; there are {len(self.takes)} before this "
                    "one, counted from 0"
                )

    @property
    def memories(self) -> list[ShotMemory]:
        """The shots before it, with the pictures pinned to each."""
        memories: list[ShotMemory] = list(self.takes)
        for pin in self.pins:
            memory = memories[pin.shot_index]
            memories[pin.shot_index] = replace(memory, pinned=(*memory.pinned, pin.latent))
        return memories

    def take(
        self,
        *,
        num_chunks: int,
        num_frames: int,
        candidate_frames: tuple[int, ...],
        latents: Float[Tensor, "k z h w"],
        keep_s: float,
    ) -> Take:
        """The take that came of it, which may be shorter than was ordered."""
        return Take(
            caption=self.caption,
            seed=self.seed,
            num_steps=self.num_steps,
            num_chunks=num_chunks,
            num_frames=num_frames,
            candidate_frames=candidate_frames,
            latents=latents,
            keep_s=keep_s,
        )
