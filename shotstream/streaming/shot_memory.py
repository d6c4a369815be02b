"""The memory of a finished shot: latents of the few frames that later shots may use as context.

Sessions, films of teachers, training on a student's own films and training on stored clips all use this one
form. It offers candidates; a policy of `context_sampling` chooses among them, and `condition_next_shot` of
`conditioning` turns the choice into inputs of the network.
"""

from dataclasses import dataclass, field
from functools import partial

from jaxtyping import Float
from torch import Tensor

from shotstream.streaming.context_candidates import ContextCandidate, frame_candidates


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotMemory:
    """The memory of one finished shot, for later shots."""

    caption: str
    """The shot's own caption, before it is composed with the global one."""
    num_frames: int
    """Length of the shot in video frames."""
    candidate_frames: tuple[int, ...]
    """Indices of the video frames that a later shot may have in its context, from 0."""
    latents: Float[Tensor, "k z h w"] = field(repr=False)
    """Normalised latents of these frames, each encoded alone; on the CPU."""
    pinned: tuple[Float[Tensor, "z h w"], ...] = field(default=(), repr=False)
    """Latents of pinned pictures that count as frames of this shot and must be in every context."""

    def __post_init__(self) -> None:
        if len(self.candidate_frames) != len(self.latents):
            raise ValueError(
                f"{len(self.candidate_frames)} candidate frames with {len(self.latents)} latents"
            )

    def latent_of(self, frame_index: int) -> Float[Tensor, "z h w"]:
        """Returns the latent of a candidate frame."""
        return self.latents[self.candidate_frames.index(frame_index)]

    def candidates(self, shot_index: int) -> list[ContextCandidate]:
        """Returns the candidates for the context of a later shot.

        `shot_index` is the index of this shot in the film.
        """
        pinned = [
            ContextCandidate(
                shot_index=shot_index,
                frame_index=None,
                pin_index=pin_index,
                shot_num_frames=self.num_frames,
                caption=self.caption,
                latent=partial(self.pinned.__getitem__, pin_index),
            )
            for pin_index in range(len(self.pinned))
        ]
        frames = frame_candidates(
            shot_index, self.num_frames, self.candidate_frames, self.latent_of, caption=self.caption
        )
        return [*pinned, *frames]
